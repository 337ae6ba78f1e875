"""The broadcaster: one per account, driven by loops; survives being killed between any two effects.

Lanes by priority run side by side, so that a bid never waits behind a withdrawal that hangs on a silent node; a fourth
loop looks after what is dead and what failed. Between an await and a write the stored entry is always read again:
blocks are matched by another task meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from gpulease.chain import outbox as box
from gpulease.chain.batches import DEFAULT_LIMITS, Limits, accounts_of, kinds_of
from gpulease.chain.client import ChainClient
from gpulease.chain.events import Block, TxOutcome
from gpulease.chain.examine import examined, first_entry
from gpulease.chain.fees import Purse
from gpulease.chain.outbox import Entry, Intent, Outbox, Priority, SignedTx, State
from gpulease.chain.reader import Clock
from gpulease.chain.rpc import Broadcast
from gpulease.chain.signing import Signing
from gpulease.chain.tx import Signer
from gpulease.chain.verdicts import Verdict, classify, message_index, payer_problem, sequences
from gpulease.errors import ChainError, ChainPruned, ChainUnreachable, StoreError
from gpulease.units import Dec

log = structlog.get_logger(__name__)
MAX_OPEN = 10_000
AT_ONCE = 8
_CARE = "care"
_PAID = (Verdict.ACCEPTED, Verdict.FINAL, Verdict.PANIC, Verdict.GAS)
"""In a block these cost the fee; what the ante handler turns away costs nothing."""


class Broadcaster:
    """Turns intents into included transactions, each exactly once.

    ``chain_time_ns`` is the time of the last block read: deadlines, repeats and the day's fees go by the chain's clock
    alone. ``fee_granter`` pays the fees when set.
    """

    def __init__(
        self,
        *,
        client: ChainClient,
        outbox: Outbox,
        signer: Signer,
        clock: Clock,
        chain_time_ns: Callable[[], int],
        gas_price_uakt: Dec,
        lifetime_s: float = 60.0,
        fee_budget_uakt_per_day: int = 50_000_000,
        on_change: Callable[[Entry], None] | None = None,
        fee_granter: str = "",
        limits: Mapping[str, Limits] = DEFAULT_LIMITS,
        ordered: bool = False,
    ) -> None:
        self._client, self._outbox, self._signer, self._clock = client, outbox, signer, clock
        self._chain_time_ns, self._on_change = chain_time_ns, on_change
        self._signing = Signing(
            client=client,
            outbox=outbox,
            signer=signer,
            gas_price_uakt=gas_price_uakt,
            lifetime_s=lifetime_s,
            fee_budget_uakt_per_day=fee_budget_uakt_per_day,
            fee_granter=fee_granter,
            limits=limits,
            ordered=ordered,
        )
        self._fresh: set[str] = set()
        self._missed: dict[str, int] = {}
        self._seen_from = self._seen_to = self._seen_ns = 0
        self._problems: dict[str, str] = {}
        self._payer_problem: str | None = None
        self._suspects = True
        self._rung = 0
        self._wake = asyncio.Event()

    # --- for callers -------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        return self._signer.address

    @property
    def problem(self) -> str | None:
        """Why nothing (or not everything) is sent just now, as a sentence."""
        return next(iter(self._problems.values()), None) or self._payer_problem

    @property
    def fee_budget_uakt(self) -> int:
        return self._signing.budget_uakt

    @property
    def fees_last_day_uakt(self) -> int:
        """What the budget is compared with: fees of the last 24 hours of chain time, those under way included."""
        return self._signing.purse.spent_uakt(chain_time_ns=self._chain_time_ns())

    @property
    def fees_paid_uakt(self) -> int:
        """For a counter: what blocks have taken since the store was made."""
        return self._signing.purse.paid_uakt

    def pending(self) -> list[Entry]:
        """What is under way: planned, signed or sent, in no block yet."""
        return self._outbox.outbox_open(self.address)

    def submit(self, intent: Intent) -> Entry:
        """Take an intent over, durably. The same key again changes nothing and returns its fate."""
        known = self._outbox.outbox_get(intent.key)
        if known is not None:
            return known
        if intent.signer != self.address:
            raise ChainError(f"intent {intent.key} is for {intent.signer}, this broadcaster signs for {self.address}")
        if not intent.messages:
            raise ChainError(f"intent {intent.key} has no message")
        if len(self._outbox.outbox_open(self.address)) >= MAX_OPEN:
            raise ChainError(f"{MAX_OPEN} transactions of {self.address} wait already; the chain takes none")
        entry = Entry(intent, State.PLANNED, self._clock.now_ns())
        self._outbox.outbox_put(entry)
        self._ring()
        return entry

    def outcome(self, key: str) -> Entry | None:
        return self._outbox.outbox_get(key)

    # --- loops -------------------------------------------------------------------------------------------------

    async def run(self, *, idle_s: float = 1.0) -> None:
        """Until cancelled."""
        with contextlib.suppress(StoreError):
            # What could not be noted is found again when its deadline has passed.
            await self.recover()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop(_CARE, self._care, idle_s))
            for lane in Priority:
                group.create_task(self._loop(lane.name, self._lane(lane), idle_s))

    async def _loop(self, name: str, work: Callable[[int], Awaitable[str | None]], idle_s: float) -> None:
        while True:
            rung = self._rung
            await self._guarded(name, work)
            if self._rung != rung:
                continue
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                # Not wait_for: up to Python 3.11 it loses a cancellation that comes together with the wake-up.
                async with asyncio.timeout(idle_s):
                    await self._wake.wait()

    def _ring(self) -> None:
        self._rung += 1
        self._wake.set()

    def _lane(self, lane: Priority) -> Callable[[int], Awaitable[str | None]]:
        async def serve(chain_time_ns: int) -> str | None:
            return await self._serve(lane, chain_time_ns)

        return serve

    async def step(self) -> None:
        """Do once what the loops do: look after the dead, then send lane by lane. Nothing here raises."""
        await self._guarded(_CARE, self._care)
        for lane in Priority:
            await self._guarded(lane.name, self._lane(lane))

    async def _guarded(self, name: str, work: Callable[[int], Awaitable[str | None]]) -> None:
        chain_time_ns = self._chain_time_ns()
        if chain_time_ns == 0:
            return
        try:
            problem = await work(chain_time_ns)
        except ChainUnreachable as error:
            problem = str(error)
        except StoreError as error:
            # What was sent and not noted is sent again: the same bytes, once in a block.
            problem = str(error)
        except ChainError as error:
            problem = str(error)
            log.warning("transaction could not be handed over", lane=name, error=problem)
        if problem is None:
            self._problems.pop(name, None)
        else:
            self._problems[name] = problem

    async def recover(self) -> None:
        """After a start: find out what happened to what was under way."""
        if not any(e.state in (State.SIGNED, State.SENT) for e in self._outbox.outbox_open(self.address)):
            return
        for tx in self._outbox.outbox_txs(self.address):
            with contextlib.suppress(ChainUnreachable):
                await self._look_up(tx)

    async def on_block(self, block: Block) -> None:
        """Match a block's transactions with what is under way. A block given again changes nothing."""
        if block.height > self._seen_to:
            if block.height != self._seen_to + 1:
                self._seen_from = block.height
            self._seen_to, self._seen_ns = block.height, block.time_ns
        if block.txs:
            by_hash = {tx.hash: tx for tx in block.txs}
            for tx in self._outbox.outbox_txs(self.address):
                outcome = by_hash.get(tx.hash)
                if outcome is not None:
                    self._settle(tx, block.height, outcome)
        self._ring()

    # --- sending -----------------------------------------------------------------------------------------------

    async def _serve(self, lane: Priority, chain_time_ns: int) -> str | None:
        """Sign what waits in a lane and hand over what is due in it."""
        problem = None
        waiting = [e for e in self._open() if e.state is State.PLANNED and e.intent.priority is lane and not e.suspect]
        if waiting:
            problem = await self._signing.prepare(waiting, chain_time_ns)
            if problem is None:
                made, problem = self._signing.sign(
                    self._open(),
                    lane,
                    chain_time_ns=chain_time_ns,
                    after_height=self._seen_to,
                    under_way=len(self._txs()) if self._signing.ordered else 0,
                )
                for tx, changed in made:
                    self._fresh.add(tx.hash)
                    self._tell(changed)
        due = [tx for tx in box.due(self._txs(), chain_time_ns=chain_time_ns) if tx.priority is lane]
        for start in range(0, len(due), AT_ONCE):
            answers = await asyncio.gather(
                *(self._hand_over(tx, chain_time_ns) for tx in due[start : start + AT_ONCE]), return_exceptions=True
            )
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
        return problem

    async def _hand_over(self, tx: SignedTx, chain_time_ns: int) -> None:
        fresh = tx.hash in self._fresh
        self._fresh.discard(tx.hash)
        answer = await self._client.broadcast(tx.raw)
        entries = self._under_way(tx)
        if not entries:
            return
        verdict = classify(answer.codespace, answer.code, answer.log)
        self._payer_problem = (
            payer_problem(answer.codespace, answer.code, answer.log) if verdict is Verdict.PAYER else None
        )
        if verdict in (Verdict.ACCEPTED, Verdict.WAITING):
            self._sent(tx, entries, chain_time_ns)
        elif not (fresh and answer.sole and self._turned_away(tx, entries, answer, verdict, chain_time_ns)):
            # These bytes may be in a mempool or a block already (a used nonce looks like a refusal): a block decides.
            self._sent(tx, entries, chain_time_ns, answer.log)
            await self._look_up(tx)

    def _sent(self, tx: SignedTx, entries: Sequence[Entry], chain_time_ns: int, words: str = "") -> None:
        changed = [box.sent(e, now_ns=chain_time_ns, log=words) for e in entries]
        self._commit(changed, tx=replace(tx, sent_ns=chain_time_ns))

    def _turned_away(
        self, tx: SignedTx, entries: Sequence[Entry], answer: Broadcast, verdict: Verdict, chain_time_ns: int
    ) -> bool:
        """The first refusal of bytes that no node has: True when they are given up here and now."""
        if verdict is Verdict.SEQUENCE:
            pair = sequences(answer.log)
            if pair is None or pair[0] <= pair[1]:
                # A sequence that is still to come may yet become valid: wait for the deadline.
                return False
        if verdict in (Verdict.SEQUENCE, Verdict.SIGNATURE, Verdict.UNORDERED_OFF):
            self._signing.forget_account()
            self._signing.ordered = self._signing.ordered or verdict is Verdict.UNORDERED_OFF
            changed = [box.planned_again(e, log=answer.log) for e in entries]
        elif verdict in (Verdict.FINAL, Verdict.PANIC, Verdict.TOO_LARGE):
            if len(entries) == 1:
                changed = [box.refused(entries[0], codespace=answer.codespace, code=answer.code, log=answer.log)]
            else:
                again = [box.planned_again(e, log=answer.log) for e in entries]
                if verdict is Verdict.TOO_LARGE:
                    changed = box.halved(again)
                else:
                    changed = [replace(e, suspect=tx.hash) for e in again]
        else:
            return False
        self._give_up(tx, changed)
        self._ring()
        return True

    # --- looking after ------------------------------------------------------------------------------------------

    async def _care(self, chain_time_ns: int) -> str | None:
        if self._suspects:
            await self._examine(chain_time_ns)
        for tx in self._txs():
            if box.is_dead(tx, chain_time_ns=chain_time_ns):
                await self._bury(tx, chain_time_ns)
        return None

    async def _bury(self, tx: SignedTx, chain_time_ns: int) -> None:
        """Past its deadline: included unseen, or dead for good.

        Dead is what every block up to the deadline was read without, or what nodes that are not behind do not know,
        asked twice with the chain moving in between. Where they have pruned its blocks nobody can know: the intent
        expires, and whoever wants it looks at the chain's state.
        """
        entries = self._under_way(tx)
        if not (self._seen_from <= tx.after_height + 1 and self._seen_ns > tx.timeout_ns):
            try:
                if await self._look_up(tx, after_height=tx.after_height):
                    return
            except ChainPruned as error:
                self._give_up(tx, [box.unknown(e, log=str(error)) for e in self._under_way(tx)])
                return
            asked_ns = self._missed.setdefault(tx.hash, chain_time_ns)
            if asked_ns == chain_time_ns:
                return
            entries = self._under_way(tx)
        words = "the chain did not take it in time"
        self._give_up(tx, [box.planned_again(e, log=e.log or words) for e in entries])
        self._ring()

    async def _look_up(self, tx: SignedTx, *, after_height: int | None = None) -> bool:
        least = max(self._seen_to, self._client.floor_height)
        found = await self._client.find_tx(tx.hash, at_least_height=least, after_height=after_height)
        if found is None:
            return False
        self._settle(tx, *found)
        return True

    async def _examine(self, chain_time_ns: int) -> None:
        """Find the bad messages of failed batches."""
        self._suspects = False
        groups: dict[str, list[Entry]] = {}
        for entry in sorted(self._open(), key=lambda e: (e.created_ns, e.intent.key)):
            if entry.suspect:
                groups.setdefault(entry.suspect, []).append(entry)
        for batch in groups.values():
            try:
                changed = await examined(
                    batch, lambda part: self._client.simulate(self._signing.dry(part, chain_time_ns))
                )
            except ChainUnreachable:
                self._suspects = True
                raise
            suspects = {e.intent.key for e in self._open() if e.suspect}
            self._commit([e for e in changed if e.intent.key in suspects])
        if groups:
            self._ring()

    # --- the books ----------------------------------------------------------------------------------------------

    def _open(self) -> list[Entry]:
        return self._outbox.outbox_open(self.address)

    def _txs(self) -> list[SignedTx]:
        return self._outbox.outbox_txs(self.address)

    def _under_way(self, tx: SignedTx) -> list[Entry]:
        """The transaction's entries as they are now, in message order; none once it is settled."""
        found = [self._outbox.outbox_get(key) for key in tx.keys]
        return [e for e in found if e is not None and e.hash == tx.hash and not e.state.final]

    def _settle(self, tx: SignedTx, height: int, outcome: TxOutcome) -> None:
        entries = self._under_way(tx)
        if not entries:
            return
        words = outcome.log.split("\n")[0]
        kinds = kinds_of(m for e in entries for m in e.intent.messages)
        changed = box.after_inclusion(
            entries,
            hash_=tx.hash,
            height=height,
            time_ns=self._seen_ns,
            code=outcome.code,
            codespace=outcome.codespace,
            log=words,
            gas_used=outcome.gas_used,
            settles=bool(accounts_of(m for e in entries for m in e.intent.messages)),
        )
        index = message_index(words)
        if index is not None and len(changed) > 1:
            # The named one is known; there may be more behind it, so the rest stay suspects.
            named = first_entry(entries, index)
            changed[named] = box.isolated([changed[named]], [0])[0]
        purse = self._signing.purse
        verdict = classify(outcome.codespace, outcome.code, words)
        purse = purse.paid(tx.fee_uakt) if verdict in _PAID else purse.refunded(tx.fee_uakt, at_ns=tx.signed_ns)
        if verdict in (Verdict.ACCEPTED, Verdict.GAS):
            purse = purse.learned(kinds, outcome.gas_used)
        self._done_with(tx)
        self._commit(changed, settled=tx, purse=self._signing.keep(purse))

    def _give_up(self, tx: SignedTx, changed: Sequence[Entry]) -> None:
        """These bytes will be in no block: their fee was not paid."""
        purse = self._signing.purse.refunded(tx.fee_uakt, at_ns=tx.signed_ns)
        self._done_with(tx)
        self._commit(changed, settled=tx, purse=self._signing.keep(purse))

    def _done_with(self, tx: SignedTx) -> None:
        self._fresh.discard(tx.hash)
        self._missed.pop(tx.hash, None)

    def _commit(
        self,
        entries: Sequence[Entry],
        *,
        tx: SignedTx | None = None,
        settled: SignedTx | None = None,
        purse: Purse | None = None,
    ) -> None:
        self._outbox.outbox_commit(entries, tx=tx, settled=settled, purse=purse)
        self._tell(entries)

    def _tell(self, entries: Sequence[Entry]) -> None:
        self._suspects = self._suspects or any(entry.suspect for entry in entries)
        for entry in entries:
            if entry.state.final:
                log.info(
                    "transaction settled",
                    key=entry.intent.key,
                    state=entry.state.value,
                    height=entry.height,
                    code=entry.code,
                    problem=entry.problem,
                )
            if self._on_change is not None:
                self._on_change(entry)
