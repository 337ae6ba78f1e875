"""The state machine's memory: ordered tables with undo.

A transaction's messages are atomic, and an ante handler's effects survive a failing message, so writes are journaled
and undone to a mark. Values are protobuf messages or plain immutable values; a stored message is never changed in
place, always replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sortedcontainers import SortedDict

_ABSENT = object()
Undo = tuple[str, Any, Any]  # table, key, the value before


class State:
    """Tables by name; keys of one table are of one comparable type."""

    def __init__(self) -> None:
        self._tables: dict[str, SortedDict] = {}
        self._journal: list[Undo] | None = None

    def table(self, name: str) -> SortedDict:
        table = self._tables.get(name)
        if table is None:
            table = self._tables[name] = SortedDict()
        return table

    def get(self, name: str, key: Any) -> Any:
        return self.table(name).get(key)

    def put(self, name: str, key: Any, value: Any) -> None:
        table = self.table(name)
        if self._journal is not None:
            self._journal.append((name, key, table.get(key, _ABSENT)))
        table[key] = value

    def delete(self, name: str, key: Any) -> None:
        table = self.table(name)
        if key in table:
            if self._journal is not None:
                self._journal.append((name, key, table[key]))
            del table[key]

    def values(self, name: str) -> Iterator[Any]:
        return iter(list(self.table(name).values()))

    def prefixed(self, name: str, prefix: str) -> Iterator[tuple[str, Any]]:
        """Items whose text key starts with ``prefix``, in byte order."""
        table = self.table(name)
        for key in list(table.irange(prefix, prefix + "\U0010ffff")):
            yield key, table[key]

    def ranged(self, name: str, low: Any, high: Any) -> list[Any]:
        """Values with ``low <= key < high``, in key order."""
        table = self.table(name)
        return [table[key] for key in table.irange(low, high, (True, False))]

    def begin(self) -> None:
        """Start journaling; pair with :meth:`mark` and :meth:`rollback` or :meth:`end`."""
        self._journal = []

    def mark(self) -> int:
        return len(self._journal or ())

    def rollback(self, mark: int = 0) -> None:
        """Undo every write made since ``mark``."""
        journal = self._journal
        if journal is None:
            return
        while len(journal) > mark:
            name, key, old = journal.pop()
            if old is _ABSENT:
                self._tables[name].pop(key, None)
            else:
                self._tables[name][key] = old

    def end(self) -> list[Undo]:
        """Stop journaling; what :meth:`undo` needs to take the writes back later."""
        journal, self._journal = self._journal or [], None
        return journal

    def undo(self, journal: list[Undo]) -> None:
        """Take the writes of a journal back, by writes that a journal begun before this call notes in turn."""
        for name, key, old in reversed(journal):
            if old is _ABSENT:
                self.delete(name, key)
            else:
                self.put(name, key, old)

    def dump(self) -> dict[str, list[tuple[Any, Any]]]:
        """Every table's items, for snapshots."""
        return {name: list(table.items()) for name, table in self._tables.items()}

    def load(self, dump: dict[str, list[tuple[Any, Any]]]) -> None:
        self._tables = {name: SortedDict(items) for name, items in dump.items()}
        self._journal = None


class Overlay(State):
    """Writes over another state that stay apart from it: CheckTx's view, in which waiting transactions have paid.

    Nothing that CheckTx writes is iterated over, so tables are the other state's.
    """

    def __init__(self, base: State) -> None:
        super().__init__()
        self._base = base
        self._writes: dict[tuple[str, Any], Any] = {}

    def table(self, name: str) -> SortedDict:
        return self._base.table(name)

    def get(self, name: str, key: Any) -> Any:
        value = self._writes.get((name, key), self)
        if value is self:
            return self._base.get(name, key)
        return None if value is _ABSENT else value

    def put(self, name: str, key: Any, value: Any) -> None:
        if self._journal is not None:
            self._journal.append((name, key, self._writes.get((name, key), self)))
        self._writes[name, key] = value

    def delete(self, name: str, key: Any) -> None:
        self.put(name, key, _ABSENT)

    def rollback(self, mark: int = 0) -> None:
        journal = self._journal
        if journal is None:
            return
        while len(journal) > mark:
            name, key, old = journal.pop()
            if old is self:
                del self._writes[name, key]
            else:
                self._writes[name, key] = old
