"""One session per chain: a client, a reader that follows it, the accounts we sign for, the books we keep.

Objects of both roles name a chain and its endpoints; those that name the same ones share a session.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

import structlog
from google.protobuf.message import Message

from gpulease.chain.broadcaster import Broadcaster
from gpulease.chain.client import ChainClient, Endpoint
from gpulease.chain.events import Block, ChainEvent
from gpulease.chain.keys import Key
from gpulease.chain.outbox import Entry, Intent, Priority
from gpulease.chain.reader import BlockReader, Tip
from gpulease.chain.tx import pack
from gpulease.errors import ChainError, ChainUnreachable
from gpulease.runtime.books import Books
from gpulease.runtime.clock import Clock
from gpulease.runtime.outbox import JournalOutbox
from gpulease.runtime.specs import ChainSpec, gas_price_uakt
from gpulease.store.journal import Journal
from gpulease.units import Dec

log = structlog.get_logger(__name__)
MOST_SESSIONS = 16

EventListener = Callable[["ChainSession", ChainEvent, int], None]
Tick = Callable[["ChainSession"], None]


class ChainSession:
    """Follows one chain until cancelled."""

    def __init__(
        self,
        spec: ChainSpec,
        *,
        journal: Journal,
        clock: Clock,
        tx_lifetime_s: float,
        fee_budget_uakt_per_day: int,
        on_event: EventListener,
        on_resync: Tick,
        on_settled: Callable[[ChainSession, Entry], None],
    ) -> None:
        self.spec = spec
        self.client = ChainClient([Endpoint(*pair) for pair in spec.endpoints], spec.chain_id)
        # Endpoints are somebody's claim about a chain: what one set says never mixes with what another says.
        self._cursor_key = f"{spec.chain_id}/{hashlib.sha256(repr(spec.endpoints).encode()).hexdigest()[:12]}"
        self.books = Books(journal, self._cursor_key)
        self._journal, self._clock = journal, clock
        self._lifetime_s, self._fee_budget = tx_lifetime_s, fee_budget_uakt_per_day
        self._on_event, self._on_resync_done, self._on_settled = on_event, on_resync, on_settled
        self._senders: dict[str, Broadcaster] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wanted_books: set[str] = set()
        self.reader = BlockReader(
            self.client,
            clock=clock,
            load_cursor=self._load_cursor,
            save_cursor=self._save_cursor,
            on_block=self._on_block,
            on_resync=self._on_resync,
            poll_s=0.2,
        )
        self._latest: dict[str, str] = {}

    @property
    def tip(self) -> Tip:
        return self.reader.tip

    @property
    def problem(self) -> tuple[str, str] | None:
        """(reason, sentence) while the chain cannot be used."""
        return self.tip.problem

    async def run(self) -> None:
        await self.client.open()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.reader.run(), name=f"reader:{self.spec.chain_id}")
                group.create_task(self._open_books(), name=f"books:{self.spec.chain_id}")
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            await self.client.close()

    async def _open_books(self) -> None:
        """An account's book needs its balance at exactly the height read: tried until a quiet moment comes."""
        while True:
            for address in sorted(self._wanted_books - self.books.accounts):
                try:
                    await self.books.open_account(self.client, address, height=self.tip.height)
                except (ChainError, ChainUnreachable) as error:
                    log.debug("book not opened yet", account=address, error=str(error))
            await self._clock.sleep(0.2 if self._wanted_books - self.books.accounts else 2.0)

    def account(self, key: Key) -> Broadcaster:
        """The broadcaster that signs with ``key``; started at first use."""
        sender = self._senders.get(key.address)
        if sender is None:
            sender = Broadcaster(
                client=self.client,
                outbox=JournalOutbox(self._journal),
                signer=key,
                clock=self._clock,
                chain_time_ns=lambda: self.tip.time_ns,
                gas_price_uakt=Dec.of(gas_price_uakt(self.spec.gas_price)),
                lifetime_s=self._lifetime_s,
                fee_budget_uakt_per_day=self._fee_budget,
                on_change=self._changed,
            )
            self._senders[key.address] = sender
            self._tasks[key.address] = asyncio.create_task(sender.run(idle_s=0.5), name=f"send:{key.address}")
            self._wanted_books.add(key.address)
        return sender

    def send(
        self,
        key: Key,
        intent_key: str,
        kind: str,
        *messages: Message,
        priority: Priority = Priority.LIFECYCLE,
        memo: str = "",
    ) -> Entry:
        """Hand an intent over. One that failed for good is tried anew under a further key."""
        sender = self.account(key)
        known = self.outcome(intent_key)
        use = intent_key
        if known is not None:
            if known.problem is None:
                return known
            use = f"{intent_key}@{self.tip.height}"
        packed = tuple(pack(message) for message in messages)
        entry = sender.submit(Intent(use, kind, packed, key.address, priority, memo))
        self._latest[intent_key] = use
        return entry

    def outcome(self, intent_key: str) -> Entry | None:
        """The fate of the latest try."""
        return JournalOutbox(self._journal).outbox_get(self._latest.get(intent_key, intent_key))

    def _changed(self, entry: Entry) -> None:
        if entry.state.final:
            self._on_settled(self, entry)

    def _load_cursor(self) -> int | None:
        body = self._journal.get("cursor", self._cursor_key)
        return None if body is None else int(body["height"])

    def _save_cursor(self, height: int) -> None:
        self._journal.put("cursor", self._cursor_key, {"height": height}, is_open=False)

    async def _on_block(self, block: Block) -> None:
        self.books.read_block(block)
        for sender in self._senders.values():
            await sender.on_block(block)
        for event in block.events:
            self._on_event(self, event, block.height)

    async def _on_resync(self, height: int) -> None:
        self._on_resync_done(self)


class ChainHub:
    """Sessions by chain id and endpoints."""

    def __init__(self, make: Callable[[ChainSpec], ChainSession]) -> None:
        self._make = make
        self._sessions: dict[tuple[str, tuple[tuple[str, str], ...]], ChainSession] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def session(self, spec: ChainSpec) -> ChainSession:
        """``ChainError`` when too many different chains are named."""
        key = (spec.chain_id, spec.endpoints)
        found = self._sessions.get(key)
        if found is None:
            if len(self._sessions) >= MOST_SESSIONS:
                raise ChainError(f"more than {MOST_SESSIONS} different chains or endpoint lists are in use")
            found = self._make(spec)
            self._sessions[key] = found
            self._tasks.append(asyncio.create_task(found.run(), name=f"chain:{spec.chain_id}"))
        return found

    @property
    def sessions(self) -> tuple[ChainSession, ...]:
        return tuple(self._sessions.values())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
