"""One session per chain: a client, a reader that follows it, the accounts we sign for, the books we keep.

Objects of both roles name a chain and its endpoints; those that name the same ones share a session.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import structlog
from google.protobuf.message import Message

from gpulease.chain.broadcaster import Broadcaster
from gpulease.chain.client import ChainClient
from gpulease.chain.events import Block, ChainEvent
from gpulease.chain.keys import Key
from gpulease.chain.outbox import Entry, Intent, Priority, State
from gpulease.chain.reader import RESYNC_BLOCKS, BlockReader, Tip
from gpulease.chain.tx import pack
from gpulease.errors import ChainError, ChainUnreachable
from gpulease.planning import Seen
from gpulease.runtime.books import Books
from gpulease.runtime.clock import Clock
from gpulease.runtime.outbox import JournalOutbox
from gpulease.runtime.outside import Pace
from gpulease.runtime.specs import ChainSpec, gas_price_uakt
from gpulease.runtime.work import WorkKey
from gpulease.store.journal import Journal
from gpulease.units import Dec

log = structlog.get_logger(__name__)
T = TypeVar("T")
MOST_SESSIONS = 16
MOST_TRIES = 8
_FIRST_PAUSE_BLOCKS = 5
_TRIES = "intent-tries"

EventListener = Callable[["ChainSession", ChainEvent, int], None]
Tick = Callable[["ChainSession"], None]


@dataclass(frozen=True, slots=True)
class _Tries:
    """How often an intent was planned: ``use`` is the outbox key of the latest try, ``at_height`` when it began."""

    use: str
    count: int
    at_height: int


class Failed:
    """Tasks that are nobody's to await: the first that fails is raised where somebody does."""

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._event = asyncio.Event()

    def watch(self, task: asyncio.Task[None]) -> None:
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._error = self._error or task.exception()
            self._event.set()

    async def raised(self) -> None:
        """Until cancelled or until a watched task has failed."""
        await self._event.wait()
        assert self._error is not None
        raise self._error


class ChainSession:
    """Follows one chain until cancelled."""

    def __init__(
        self,
        spec: ChainSpec,
        *,
        client: ChainClient,
        pace: Pace,
        journal: Journal,
        clock: Clock,
        tx_lifetime_s: float,
        fee_budget_uakt_per_day: int,
        on_event: EventListener,
        on_resync: Tick,
        on_settled: Callable[[WorkKey], None],
    ) -> None:
        self.spec = spec
        self.client, self._pace = client, pace
        # Endpoints are somebody's claim about a chain: what one set says never mixes with what another says.
        self._cursor_key = f"{spec.chain_id}/{hashlib.sha256(repr(spec.endpoints).encode()).hexdigest()[:12]}"
        self._journal, self._clock = journal, clock
        self.books = Books(journal, self._cursor_key, height=self._load_cursor() or 0)
        self._lifetime_s, self._fee_budget = tx_lifetime_s, fee_budget_uakt_per_day
        self._on_event, self._on_resync_done, self._on_settled = on_event, on_resync, on_settled
        self._senders: dict[str, Broadcaster] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wanted_books: set[str] = set()
        self._failed = Failed()
        self.reader = BlockReader(
            self.client,
            clock=clock,
            load_cursor=self._load_cursor,
            save_cursor=self._save_cursor,
            on_block=self._on_block,
            on_resync=self._on_resync,
            poll_s=pace.chain_poll_s,
        )
        self._interest: dict[str, WorkKey] = {}
        self.settled_total: Counter[tuple[str, str]] = Counter()
        """Transactions by kind and outcome: included, failed (in a block, with a code), refused, expired."""
        self.ledger_difference: dict[str, dict[str, int]] | None = None
        """Chain minus ledger by account at the last comparison; None before the first."""
        self._compared_entries, self._compared_height = -1, 0

    @property
    def tip(self) -> Tip:
        return self.reader.tip

    @property
    def problem(self) -> tuple[str, str] | None:
        """(reason, sentence) while the chain cannot be used."""
        if self.tip.problem is None and not self.tip.measured:
            return ("BlockTimeUnknown", "The pace of the chain's blocks is being measured; prices depend on it.")
        return self.tip.problem

    async def run(self) -> None:
        await self.client.open()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.reader.run(), name=f"reader:{self.spec.chain_id}")
                group.create_task(self._open_books(), name=f"books:{self.spec.chain_id}")
                group.create_task(self._failed.raised(), name=f"senders:{self.spec.chain_id}")
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
                    await self.books.open_account(self.client, address)
                except (ChainError, ChainUnreachable) as error:
                    log.debug("book not opened yet", account=address, error=str(error))
            await self._compare_books()
            waiting = self._wanted_books - self.books.accounts
            await self._clock.sleep(self._pace.chain_poll_s if waiting else self._pace.books_s)

    async def _compare_books(self) -> None:
        """Hold the ledger against the bank after every change, and now and then, for what the ledger may have missed.

        A difference is told, never mended by itself.
        """
        entries, height = len(self.books.ledger), self.books.height
        if entries == self._compared_entries and height < self._compared_height + RESYNC_BLOCKS:
            return
        try:
            found = await self.books.difference(self.client)
        except (ChainError, ChainUnreachable) as error:
            log.debug("ledger not compared yet", error=str(error))
            return
        if found is None:
            return
        self._compared_entries, self.ledger_difference = entries, found
        self._compared_height = height
        wrong = {account: difference for account, difference in found.items() if difference}
        if wrong:
            log.error("ledger differs from the chain", chain=self.spec.chain_id, difference=wrong)

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
            self._tasks[key.address] = asyncio.create_task(
                sender.run(idle_s=self._pace.send_s), name=f"send:{key.address}"
            )
            self._failed.watch(self._tasks[key.address])
            self._wanted_books.add(key.address)
        return sender

    @property
    def senders(self) -> Mapping[str, Broadcaster]:
        """Broadcasters by the account they sign for."""
        return self._senders

    async def see(self, query: Awaitable[T]) -> Seen[T]:
        """A query's answer with the height it holds at least at; one from a node behind us is not taken for news."""
        height = self.tip.height
        return Seen(await query, height)

    def send(
        self,
        key: Key,
        intent_key: str,
        kind: str,
        *messages: Message,
        priority: Priority = Priority.LIFECYCLE,
        memo: str = "",
        then: WorkKey | None = None,
    ) -> Entry:
        """Hand an intent over and have ``then`` looked at once it is settled.

        One that failed for good is tried anew when it is sent again, after a pause that doubles with every try and
        ends after ``MOST_TRIES``: a transaction that cannot succeed must not drain the wallet by its fees.
        """
        sender = self.account(key)
        tries = self._tries(intent_key)
        known = JournalOutbox(self._journal).outbox_get(tries.use)
        if known is not None:
            pause = _FIRST_PAUSE_BLOCKS << (tries.count - 1)
            if known.problem is None or tries.count >= MOST_TRIES or self.tip.height < tries.at_height + pause:
                return known
            tries = _Tries(f"{intent_key}#{tries.count + 1}", tries.count + 1, self.tip.height)
        if tries.count > 1:
            body = {"use": tries.use, "count": tries.count, "at_height": tries.at_height}
            self._journal.put(_TRIES, intent_key, body, is_open=False)
        packed = tuple(pack(message) for message in messages)
        if then is not None:
            self._interest[tries.use] = then
        return sender.submit(Intent(tries.use, kind, packed, key.address, priority, memo))

    def outcome(self, intent_key: str) -> Entry | None:
        """The fate of the latest try."""
        return JournalOutbox(self._journal).outbox_get(self._tries(intent_key).use)

    def _tries(self, intent_key: str) -> _Tries:
        body = self._journal.get(_TRIES, intent_key)
        if body is not None:
            return _Tries(str(body["use"]), int(body["count"]), int(body["at_height"]))
        first = JournalOutbox(self._journal).outbox_get(intent_key)
        return _Tries(intent_key, 1, first.height if first is not None else 0)

    def _changed(self, entry: Entry) -> None:
        if not entry.state.final:
            return
        failed = entry.state is State.INCLUDED and entry.code != 0
        self.settled_total[entry.intent.kind, "failed" if failed else entry.state.value] += 1
        waiting = self._interest.pop(entry.intent.key, None)
        if waiting is not None:
            self._on_settled(waiting)

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
        if not self.books.height:
            # The first look at this chain. Later gaps are noticed by the books themselves.
            self.books.skip_to(height)
        self._on_resync_done(self)

    @property
    def name(self) -> str:
        """Unique among sessions: the chain and a digest of its endpoints."""
        return self._cursor_key


class ChainHub:
    """Sessions by chain id and endpoints."""

    def __init__(self, make: Callable[[ChainSpec], ChainSession]) -> None:
        self._make = make
        self._sessions: dict[tuple[str, tuple[tuple[str, str], ...]], ChainSession] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.failed = Failed()

    def session(self, spec: ChainSpec) -> ChainSession:
        """``ChainError`` when too many different chains are named."""
        key = (spec.chain_id, spec.endpoints)
        found = self._sessions.get(key)
        if found is None:
            if len(self._sessions) >= MOST_SESSIONS:
                raise ChainError(f"more than {MOST_SESSIONS} different chains or endpoint lists are in use")
            found = self._make(spec)
            self._sessions[key] = found
            task = asyncio.create_task(found.run(), name=f"chain:{spec.chain_id}")
            self._tasks.append(task)
            self.failed.watch(task)
        return found

    def named(self, name: str) -> ChainSession | None:
        return next((session for session in self._sessions.values() if session.name == name), None)

    @property
    def sessions(self) -> tuple[ChainSession, ...]:
        return tuple(self._sessions.values())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
