"""The agent's own memory: usage records appended and fsynced, the chain's head, and what is running.

Records that the operator has taken are kept for a while and then dropped; others are never dropped.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gpulease.errors import StoreError
from gpulease.meter.intervals import Allocation, Span
from gpulease.meter.records import GENESIS, canonical, seal

KEEP_TAKEN = 50_000
_PRUNE_STEP = 1000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS running (key TEXT PRIMARY KEY, boot_id TEXT NOT NULL, span TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS head (
  one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, hash TEXT NOT NULL, to_ms INTEGER NOT NULL,
  taken INTEGER NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Head:
    """The last record's number and hash, the latest time recorded, and up to where the operator has taken records."""

    seq: int = 0
    hash: str = GENESIS
    to_ms: int = 0
    taken: int = 0


class RecordStore:
    """One writer per directory. ``StoreError`` when the disk will not have it. Safe to call from worker threads."""

    def __init__(self, directory: Path, *, keep_taken: int = KEEP_TAKEN) -> None:
        self._keep_taken = keep_taken
        self._mutex = threading.Lock()
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _lock(directory / "lock")
            self._key = _load_key(directory / "node.key")
            self._db = sqlite3.connect(
                directory / "records.db", isolation_level=None, timeout=5.0, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
            self._head = self._saving = self._load_head()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"the agent's directory {directory} cannot be used: {error}; check disk and rights"
            ) from error

    @property
    def public_key(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    @property
    def head(self) -> Head:
        return self._head

    def close(self) -> None:
        with self._mutex:
            self._db.close()
            self._lock.close()

    def append(self, spans: Iterable[tuple[Span, Mapping[str, Any]]], *, boot_id: str) -> None:
        """Seal and write records with the spans they come from: all of them durable, or none."""
        with self._transaction() as db:
            head = self._head
            for span, body in spans:
                record = seal(body, seq=head.seq + 1, prev=head.hash, sign=self._key.sign)
                head = Head(record["seq"], record["hash"], max(head.to_ms, span.to_ms), head.taken)
                db.execute("INSERT INTO records VALUES (?, ?)", (head.seq, canonical(record).decode()))
                self._remember(db, span, boot_id)
            self._save_head(db, head)

    def running(self) -> list[tuple[str, Span]]:
        """Intervals left open, as (boot id, last span)."""
        with self._mutex, _translated():
            rows = self._db.execute("SELECT boot_id, span FROM running ORDER BY key").fetchall()
        found = []
        for boot_id, text in rows:
            raw = json.loads(text)
            found.append((boot_id, Span(Allocation(**raw.pop("allocation")), **raw)))
        return found

    def read(self, after: int, limit: int) -> list[tuple[int, str]]:
        """(number, record as canonical JSON text) of up to ``limit`` records after number ``after``."""
        with self._mutex, _translated():
            rows = self._db.execute(
                "SELECT seq, body FROM records WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
            ).fetchall()
        return [(int(seq), str(body)) for seq, body in rows]

    def first_seq(self) -> int:
        """The oldest record still kept; one past the head if there is none."""
        with self._mutex, _translated():
            (first,) = self._db.execute("SELECT min(seq) FROM records").fetchone()
        return int(first) if first is not None else self._head.seq + 1

    def take(self, seq: int) -> None:
        """The operator holds everything up to ``seq``: what is older than the retention may go."""
        if seq <= self._head.taken:
            return
        with self._transaction() as db:
            # Read in here: a record written meanwhile must not be forgotten by the head.
            seq = min(seq, self._head.seq)
            self._save_head(db, replace(self._head, taken=max(seq, self._head.taken)))
            last = seq - self._keep_taken
            if last > 0:
                db.execute(
                    "DELETE FROM records WHERE seq IN (SELECT seq FROM records WHERE seq <= ? ORDER BY seq LIMIT ?)",
                    (last, max(_PRUNE_STEP, 1)),
                )

    def _load_head(self) -> Head:
        row = self._db.execute("SELECT seq, hash, to_ms, taken FROM head").fetchone()
        return Head(*row) if row is not None else Head()

    def _save_head(self, db: sqlite3.Connection, head: Head) -> None:
        """In the transaction; what the head is in memory follows when that is durable."""
        db.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?, ?, ?)", (head.seq, head.hash, head.to_ms, head.taken))
        self._saving = head

    @staticmethod
    def _remember(db: sqlite3.Connection, span: Span, boot_id: str) -> None:
        held = span.allocation
        key = json.dumps([held.namespace, held.pod, held.container, held.device_uuid, held.share])
        if span.open:
            db.execute("INSERT OR REPLACE INTO running VALUES (?, ?, ?)", (key, boot_id, json.dumps(asdict(span))))
        else:
            db.execute("DELETE FROM running WHERE key = ?", (key,))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._mutex, _translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
                self._head = self._saving
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"the record store failed: {error}; check the disk") from error


def _lock(path: Path) -> IO[str]:
    stream = path.open("a")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        stream.close()
        raise StoreError(f"another agent is using {path.parent}; stop it or give this one another --data") from error
    return stream


def _load_key(path: Path) -> Ed25519PrivateKey:
    """The node's key, made on first use; it never leaves the node."""
    try:
        return Ed25519PrivateKey.from_private_bytes(path.read_bytes())
    except FileNotFoundError:
        key = Ed25519PrivateKey.generate()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(key.private_bytes_raw())
            stream.flush()
            os.fsync(stream.fileno())
        return key
    except ValueError as error:
        raise StoreError(
            f"{path} is not a node key of 32 bytes; restore it, or remove it to start a new chain"
        ) from error
