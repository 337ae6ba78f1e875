"""The operator's memory on disk: SQLite, one writer, every commit durable before the call returns.

What may not be lost or done twice lives here: the outbox, the chain cursor, reservations, the ledger, usage records.
What can be read again from chain or cluster does not. Rooms own the meaning of what they keep; this one knows only
documents (by kind and key, with an owner and an open mark to find them by) and append-only streams.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpulease.errors import StoreError

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE documents (
  kind TEXT NOT NULL, key TEXT NOT NULL, owner TEXT NOT NULL, open INTEGER NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE INDEX documents_open ON documents (kind, owner, key) WHERE open = 1;
CREATE TABLE stream (
  name TEXT NOT NULL, seq INTEGER NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (name, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX stream_key ON stream (name, key);
"""


@dataclass(frozen=True, slots=True)
class StreamRow:
    """One entry of a stream; ``seq`` counts from 1 without gaps."""

    seq: int
    key: str
    body: dict[str, Any]


class Journal:
    """Synchronous calls, each short; ``StoreError`` when the disk will not have it."""

    def __init__(self, path: Path | str, *, read_only: bool = False) -> None:
        """``read_only`` looks into a store that an operator may be writing at the same time, and changes nothing."""
        self._path = str(path)
        try:
            if read_only:
                self._open_read_only(Path(path))
                return
            if self._path != ":memory:":
                Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(self._path, isolation_level=None, timeout=10.0)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._migrate()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"the store {self._path} cannot be opened: {error}; check the disk and its rights"
            ) from error

    def _open_read_only(self, path: Path) -> None:
        self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=10.0)
        self._db.execute("PRAGMA query_only = ON")
        if self._version() != SCHEMA_VERSION:
            raise StoreError(f"the store {self._path} is none of this version (schema {SCHEMA_VERSION})")

    def _version(self) -> int:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"the store {self._path} was written by a newer version (schema {version}, this one knows "
                f"{SCHEMA_VERSION}); run the newer operator"
            )
        return int(version)

    def _migrate(self) -> None:
        if self._version() == 0:
            with self.transaction():
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside become durable together, or none does. Nested use joins the outer one."""
        if self._db.in_transaction:
            yield
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise StoreError(f"the store {self._path} refused a write: {error}") from error

    # --- documents ---------------------------------------------------------------------------------------------

    def put(self, kind: str, key: str, body: dict[str, Any], *, owner: str = "", is_open: bool = True) -> None:
        with self.transaction():
            self._db.execute(
                "INSERT INTO documents (kind, key, owner, open, body) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (kind, key) DO UPDATE SET owner = excluded.owner, open = excluded.open, "
                "body = excluded.body",
                (kind, key, owner, int(is_open), json.dumps(body, separators=(",", ":"), sort_keys=True)),
            )

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        row = self._read("SELECT body FROM documents WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        return None if row is None else json.loads(row[0])

    def delete(self, kind: str, key: str) -> None:
        with self.transaction():
            self._db.execute("DELETE FROM documents WHERE kind = ? AND key = ?", (kind, key))

    def list_open(self, kind: str, *, owner: str | None = None) -> list[tuple[str, dict[str, Any]]]:
        """(key, body) of a kind's open documents, in key order."""
        if owner is None:
            rows = self._read("SELECT key, body FROM documents WHERE kind = ? AND open = 1 ORDER BY key", (kind,))
        else:
            rows = self._read(
                "SELECT key, body FROM documents WHERE kind = ? AND open = 1 AND owner = ? ORDER BY key", (kind, owner)
            )
        return [(key, json.loads(body)) for key, body in rows.fetchall()]

    # --- streams -----------------------------------------------------------------------------------------------

    def append(self, name: str, entries: Iterable[tuple[str, dict[str, Any]]]) -> int:
        """Append (key, body) entries; a key that is already there is passed over. Returns how many were new."""
        new = 0
        with self.transaction():
            (last,) = self._db.execute("SELECT COALESCE(MAX(seq), 0) FROM stream WHERE name = ?", (name,)).fetchone()
            for key, body in entries:
                text = json.dumps(body, separators=(",", ":"), sort_keys=True)
                done = self._db.execute(
                    "INSERT INTO stream (name, seq, key, body) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (name, last + new + 1, key, text),
                )
                new += done.rowcount
        return new

    def read(self, name: str, *, after: int = 0, limit: int = 1000) -> list[StreamRow]:
        rows = self._read(
            "SELECT seq, key, body FROM stream WHERE name = ? AND seq > ? ORDER BY seq LIMIT ?", (name, after, limit)
        )
        return [StreamRow(seq, key, json.loads(body)) for seq, key, body in rows.fetchall()]

    def find(self, name: str, key: str) -> StreamRow | None:
        """The entry of a stream that has this key."""
        row = self._read("SELECT seq, key, body FROM stream WHERE name = ? AND key = ?", (name, key)).fetchone()
        return None if row is None else StreamRow(row[0], row[1], json.loads(row[2]))

    def read_all(self, name: str) -> Iterator[StreamRow]:
        """The whole stream, in portions."""
        after = 0
        while rows := self.read(name, after=after):
            yield from rows
            after = rows[-1].seq

    def _read(self, statement: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise StoreError(f"the store {self._path} cannot be read: {error}") from error
