"""Takes the nodes' usage records into the operator's store: each record once, totals and cursor in the same write.

The cursor is what the agent later gets as a receipt, so a crash between pulling and storing only pulls again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from gpulease.agent.client import Cursor, RecordPage
from gpulease.errors import BadInput
from gpulease.inventory.facts import NodeFacts
from gpulease.meter.merkle import parse_memo, settlement_memo
from gpulease.meter.records import UsageRecord
from gpulease.meter.usage import Usage, by_namespace

_CURSOR, _TOTAL, _KEYS, _SETTLED = "usage-cursor", "usage-total", "usage-keys", "usage-settled"
_MOST_LATEST = 4096
MAX_SETTLED = 100_000
"""Records one settlement commits to at most; the next one takes up the rest."""


class StreamEntry(Protocol):
    """One entry of a stream, counted from 1 without gaps."""

    @property
    def seq(self) -> int: ...

    @property
    def key(self) -> str: ...

    @property
    def body(self) -> dict[str, Any]: ...


class UsageStore(Protocol):
    """The part of the operator's journal that is needed here."""

    def transaction(self) -> AbstractContextManager[None]: ...

    def get(self, kind: str, key: str) -> dict[str, Any] | None: ...

    def put(self, kind: str, key: str, body: dict[str, Any], *, owner: str = "", is_open: bool = True) -> None: ...

    def delete(self, kind: str, key: str) -> None: ...

    def append(self, name: str, entries: Iterable[tuple[str, dict[str, Any]]]) -> int: ...

    def read(self, name: str, *, after: int = 0, limit: int = 1000) -> Sequence[StreamEntry]: ...

    def list_open(self, kind: str, *, owner: str | None = None) -> list[tuple[str, dict[str, Any]]]: ...


class RecordSource(Protocol):
    async def records(self, cursor: Cursor, *, limit: int = 1000) -> RecordPage: ...


class AgentSource(RecordSource, Protocol):
    """One node's agent; errors as in :class:`gpulease.agent.client.AgentClient`."""

    async def node_devices(self) -> NodeFacts: ...


@dataclass(frozen=True, slots=True)
class Collected:
    """``lost`` records are known to be missing; ``behind`` says that there is more to pull."""

    new: int
    lost: int
    behind: bool
    namespaces: frozenset[str]


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A lease's records that no settlement has committed to yet: number of the first, and their hashes in order."""

    first: int
    hashes: tuple[str, ...]

    @property
    def last(self) -> int:
        """Number of the last one; ``first - 1`` when there is none."""
        return self.first + len(self.hashes) - 1

    @property
    def memo(self) -> str:
        """For the withdraw transaction; empty when there is nothing to commit to."""
        return settlement_memo(self.hashes, first=self.first)


def node_stream(node: str) -> str:
    return f"usage:{node}"


def lease_stream(namespace: str) -> str:
    return f"usage-of:{namespace}"


class UsageCollector:
    """Stream ``usage:NODE`` holds the signed records as sent; totals are kept by lease namespace.

    Stream ``usage-of:NAMESPACE`` numbers a lease's records, of all nodes, in the order they came: key is the record's
    hash, body says which node. Settlements refer to these numbers.
    """

    def __init__(self, store: UsageStore) -> None:
        self._store = store
        self._latest: dict[str, deque[UsageRecord]] = {}
        """By node, what was taken last: a fault is learnt of moments after the records that hold it."""
        self._running: dict[str, frozenset[str]] | None = None

    def cursor(self, node: str) -> Cursor:
        body = self._store.get(_CURSOR, node)
        return Cursor(**body) if body is not None else Cursor()

    def usage(self, namespace: str) -> Usage | None:
        """None when no record of this namespace was ever taken."""
        body = self._store.get(_TOTAL, namespace)
        return None if body is None else Usage.from_json(body)

    def keys(self, node: str) -> tuple[str, ...]:
        """Public keys (hexadecimal) that ever signed records of this node, oldest first."""
        body = self._store.get(_KEYS, node)
        return () if body is None else tuple(body["keys"])

    def settled(self, namespace: str) -> int:
        """Number of the lease's last record that a withdraw transaction in a block committed to; 0 for none."""
        body = self._store.get(_SETTLED, namespace)
        return 0 if body is None else int(body["last"])

    def records_since(self, namespace: str, after: int, *, limit: int = MAX_SETTLED) -> Unsettled:
        """The lease's records after number ``after`` (:meth:`settled`), to be committed to by the next withdrawal."""
        rows = self._store.read(lease_stream(namespace), after=after, limit=limit)
        return Unsettled(after + 1, tuple(row.key for row in rows))

    def mark_settled(self, namespace: str, last: int) -> None:
        """Call when the withdraw transaction with the memo is in a block with code 0; never goes back."""
        self._store.put(_SETTLED, namespace, {"last": max(last, self.settled(namespace))}, is_open=False)

    def note_withdrawn(self, namespace: str, memo: str) -> None:
        """:meth:`mark_settled` from the memo of a withdraw transaction that succeeded; other memos change nothing.

        A call that is missed, as by a crash, only makes the next settlement commit to the same records again.
        """
        anchor = parse_memo(memo)
        if anchor is not None:
            self.mark_settled(namespace, anchor.last)

    def forget_node(self, node: str) -> None:
        """Start a new chain for a node whose agent lost its store; what was taken stays in the books."""
        self._store.delete(_CURSOR, node)

    def running(self) -> dict[str, frozenset[str]]:
        """Devices that are held now, by lease namespace; shares of a device count as the device."""
        if self._running is None:
            self._running = {}
            for namespace, body in self._store.list_open(_TOTAL):
                self._note(namespace, Usage.from_json(body))
        return self._running

    def _note(self, namespace: str, usage: Usage) -> None:
        if self._running is None:
            return
        held = frozenset(device.partition("::")[0] for _, _, device in usage.running)
        if held:
            self._running[namespace] = held
        else:
            self._running.pop(namespace, None)

    def stop_meter(self, node: str, uuids: Iterable[str], *, at_ms: int) -> set[str]:
        """Nothing is billed for these devices from ``at_ms`` on; the namespaces that hold them."""
        touched: set[str] = set()
        for uuid in sorted(uuids):
            for namespace in [n for n, held in self.running().items() if uuid in held]:
                usage = self.usage(namespace)
                if usage is None:
                    continue
                taken = [r for r in self._latest.get(node, ()) if r.namespace == namespace]
                stopped = usage.with_fault(uuid, at_ms=at_ms, taken=taken)
                if stopped is not usage:
                    self._put(namespace, stopped)
                    touched.add(namespace)
        return touched

    def start_meter(self, uuids: Iterable[str], *, at_ms: int) -> set[str]:
        """The devices are well again; the namespaces whose meters go on."""
        touched: set[str] = set()
        for uuid in sorted(uuids):
            for namespace, _ in self._store.list_open(_TOTAL):
                usage = self.usage(namespace)
                if usage is not None and any(f.device == uuid and f.to_ms is None for f in usage.faults):
                    self._put(namespace, usage.without_fault(uuid, at_ms=at_ms))
                    touched.add(namespace)
        return touched

    def _put(self, namespace: str, usage: Usage) -> None:
        self._store.put(_TOTAL, namespace, usage.to_json(), is_open=bool(usage.running))
        self._note(namespace, usage)

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
            self._store.append(node_stream(node), [(raw["hash"], raw) for raw in page.raw])
            self._number(node, page.raw)
            for name, usage in by_namespace(page.records, known).items():
                self._put(name, usage)
            cursor = {"seq": page.cursor.seq, "hash": page.cursor.hash, "public_key": page.cursor.public_key}
            self._store.put(_CURSOR, node, cursor)
            if page.cursor.public_key not in (known_keys := self.keys(node)):
                self._store.put(_KEYS, node, {"keys": [*known_keys, page.cursor.public_key]})
        self._latest.setdefault(node, deque(maxlen=_MOST_LATEST)).extend(page.records)
        return namespaces

    def _number(self, node: str, records: Iterable[dict[str, Any]]) -> None:
        by_lease: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for raw in records:
            by_lease.setdefault(raw["namespace"], []).append((raw["hash"], {"node": node}))
        for namespace, entries in by_lease.items():
            self._store.append(lease_stream(namespace), entries)
