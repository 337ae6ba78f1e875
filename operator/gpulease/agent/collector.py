"""Takes the nodes' usage records into the operator's store: each record once, totals and cursor in the same write.

The cursor is what the agent later gets as a receipt, so a crash between pulling and storing only pulls again.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from gpulease.agent.client import Cursor, RecordPage
from gpulease.errors import BadInput
from gpulease.meter.usage import Usage, by_namespace

_CURSOR, _TOTAL = "usage-cursor", "usage-total"


class UsageStore(Protocol):
    """The part of the operator's journal that is needed here."""

    def transaction(self) -> AbstractContextManager[None]: ...

    def get(self, kind: str, key: str) -> dict[str, Any] | None: ...

    def put(self, kind: str, key: str, body: dict[str, Any], *, owner: str = "", is_open: bool = True) -> None: ...

    def delete(self, kind: str, key: str) -> None: ...

    def append(self, name: str, entries: Iterable[tuple[str, dict[str, Any]]]) -> int: ...


class RecordSource(Protocol):
    async def records(self, cursor: Cursor, *, limit: int = 1000) -> RecordPage: ...


@dataclass(frozen=True, slots=True)
class Collected:
    """``lost`` records are known to be missing; ``behind`` says that there is more to pull."""

    new: int
    lost: int
    behind: bool
    namespaces: frozenset[str]


class UsageCollector:
    """Stream ``usage:NODE`` holds the signed records as sent; totals are kept by lease namespace."""

    def __init__(self, store: UsageStore) -> None:
        self._store = store

    def cursor(self, node: str) -> Cursor:
        body = self._store.get(_CURSOR, node)
        return Cursor(**body) if body is not None else Cursor()

    def usage(self, namespace: str) -> Usage | None:
        """None when no record of this namespace was ever taken."""
        body = self._store.get(_TOTAL, namespace)
        return None if body is None else Usage.from_json(body)

    def forget_node(self, node: str) -> None:
        """Start a new chain for a node whose agent lost its store; what was taken stays in the books."""
        self._store.delete(_CURSOR, node)

    async def collect(self, node: str, source: RecordSource, *, most_pages: int = 20) -> Collected:
        """Pull what is new. ``AgentUnreachable`` or ``BadInput`` take in nothing of the page they concern."""
        new = lost = 0
        touched: set[str] = set()
        behind = True
        for _ in range(most_pages):
            page = await source.records(self.cursor(node))
            if page.node != node:
                raise BadInput(f"the agent asked for node {node} is the one of node {page.node}; correct its endpoint")
            if page.records:
                touched |= self._take(node, page)
                new, lost = new + len(page.records), lost + page.lost
            behind = page.more
            if not behind:
                break
        return Collected(new, lost, behind, frozenset(touched))

    def _take(self, node: str, page: RecordPage) -> set[str]:
        namespaces = {record.namespace for record in page.records}
        with self._store.transaction():
            known = {name: usage for name in namespaces if (usage := self.usage(name)) is not None}
            self._store.append(f"usage:{node}", [(raw["hash"], raw) for raw in page.raw])
            for name, usage in by_namespace(page.records, known).items():
                self._store.put(_TOTAL, name, usage.to_json(), is_open=bool(usage.running))
            cursor = {"seq": page.cursor.seq, "hash": page.cursor.hash, "public_key": page.cursor.public_key}
            self._store.put(_CURSOR, node, cursor)
        return namespaces
