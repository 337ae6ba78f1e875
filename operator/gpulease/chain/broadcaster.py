"""The broadcaster: one per account, driven by a loop; survives being killed between any two effects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

import structlog

from gpulease.chain import outbox as box
from gpulease.chain.client import ChainClient
from gpulease.chain.events import Block, TxOutcome
from gpulease.chain.outbox import Entry, Intent, Outbox, State
from gpulease.chain.reader import Clock
from gpulease.chain.tx import Fee, Ordering, Signer, build, tx_hash
from gpulease.errors import ChainError, ChainUnreachable, StoreError
from gpulease.units import NS_PER_S, Dec

log = structlog.get_logger(__name__)
_DAY_NS = 24 * 3600 * NS_PER_S


class Broadcaster:
    """Turns intents into included transactions, each exactly once.

    ``chain_time_ns`` is the time of the last block read: deadlines are set and judged by the chain's clock alone.
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
    ) -> None:
        self._client, self._outbox, self._signer, self._clock = client, outbox, signer, clock
        self._chain_time_ns = chain_time_ns
        self._gas_price = gas_price_uakt
        self._lifetime_ns = int(lifetime_s * NS_PER_S)
        self._budget = fee_budget_uakt_per_day
        self._spent: list[tuple[int, int]] = []
        self._on_change = on_change
        self._account_number: int | None = None
        self._learned: dict[str, int] = {}
        self._last_timeout_ns = 0
        self._wake = asyncio.Event()
        self.problem: str | None = None

    @property
    def address(self) -> str:
        return self._signer.address

    def submit(self, intent: Intent) -> Entry:
        """Take an intent over, durably. The same key again changes nothing and returns its fate."""
        known = self._outbox.outbox_get(intent.key)
        if known is not None:
            return known
        if intent.signer != self.address:
            raise ChainError(f"intent {intent.key} is for {intent.signer}, this broadcaster signs for {self.address}")
        entry = Entry(intent, State.PLANNED, self._clock.now_ns())
        self._outbox.outbox_put(entry)
        self._wake.set()
        return entry

    def outcome(self, key: str) -> Entry | None:
        return self._outbox.outbox_get(key)

    async def run(self, *, idle_s: float = 1.0) -> None:
        """Until cancelled."""
        with contextlib.suppress(StoreError):
            # What could not be noted is found again when its deadline has passed.
            await self.recover()
        while True:
            await self.step()
            with contextlib.suppress(TimeoutError):
                # Not wait_for: up to Python 3.11 it loses a cancellation that comes together with the wake-up.
                async with asyncio.timeout(idle_s):
                    await self._wake.wait()
            self._wake.clear()

    async def recover(self) -> None:
        """After a start: find out what happened to what was under way."""
        for entry in self._outbox.outbox_open(self.address):
            self._last_timeout_ns = max(self._last_timeout_ns, entry.timeout_ns)
            if entry.state in (State.SIGNED, State.SENT):
                with contextlib.suppress(ChainUnreachable):
                    await self._look_up(entry)

    async def step(self) -> None:
        """Send what is due; nothing here raises for the chain's sake."""
        chain_time_ns = self._chain_time_ns()
        if chain_time_ns == 0:
            return
        try:
            for entry in self._outbox.outbox_open(self.address):
                if box.is_dead(entry, chain_time_ns=chain_time_ns):
                    await self._bury(entry)
            for entry in box.next_to_send(self._outbox.outbox_open(self.address), now_ns=self._clock.now_ns()):
                await self._send(entry, chain_time_ns)
            self.problem = None
        except ChainUnreachable as error:
            self.problem = str(error)
        except StoreError as error:
            # What was sent and not noted is sent again: the same bytes, once in a block.
            self.problem = str(error)
        except ChainError as error:
            self.problem = str(error)
            log.warning("transaction could not be handed over", error=str(error))

    async def on_block(self, block: Block) -> None:
        """Match a block's transactions with what is under way."""
        if not block.txs:
            return
        by_hash = {tx.hash: tx for tx in block.txs}
        for entry in self._outbox.outbox_open(self.address):
            outcome = by_hash.get(entry.hash)
            if entry.hash and outcome is not None:
                self._settle(entry, block.height, outcome)

    async def _send(self, entry: Entry, chain_time_ns: int) -> None:
        if entry.state is State.PLANNED:
            signed = await self._sign(entry, chain_time_ns)
            if signed is None:
                return
            entry = signed
        answer = await self._client.broadcast(entry.raw)
        changed = box.after_broadcast(
            entry, code=answer.code, codespace=answer.codespace, log=answer.log, now_ns=self._clock.now_ns()
        )
        self._put(changed)
        if changed.state is State.SENT and answer.code not in (0, box.ALREADY_WAITING):
            await self._look_up(changed)

    async def _sign(self, entry: Entry, chain_time_ns: int) -> Entry | None:
        """Sign and store; None when the account does not exist yet or the day's fees are spent."""
        if self._account_number is None:
            account = await self._client.account(self.address)
            if account is None:
                self.problem = f"account {self.address} does not exist on chain; send it funds first"
                return None
            self._account_number = account.number
        gas = box.gas_for(entry.intent, self._learned)
        fee = box.fee_for(gas, self._gas_price)
        if not self._within_budget(fee.amount):
            self.problem = f"the fee budget of {self._budget}uakt per day is spent"
            return None
        # Unique per signer: one nanosecond apart is enough for the chain.
        timeout_ns = max(chain_time_ns + self._lifetime_ns, self._last_timeout_ns + 1)
        self._last_timeout_ns = timeout_ns
        raw = build(
            entry.intent.messages,
            signer=self._signer,
            chain_id=self._client.chain_id,
            account_number=self._account_number,
            fee=Fee((fee,), gas),
            ordering=Ordering(timeout_ns=timeout_ns),
            memo=entry.intent.memo,
        )
        signed = replace(
            entry,
            state=State.SIGNED,
            raw=raw,
            hash=tx_hash(raw),
            timeout_ns=timeout_ns,
            attempts=entry.attempts + 1,
            sent_ns=0,
        )
        self._put(signed)
        self._spent.append((self._clock.now_ns(), fee.amount))
        return signed

    def _within_budget(self, amount: int) -> bool:
        now_ns = self._clock.now_ns()
        self._spent = [(at, paid) for at, paid in self._spent if now_ns - at < _DAY_NS]
        return sum(paid for _, paid in self._spent) + amount <= self._budget

    async def _look_up(self, entry: Entry) -> bool:
        found = await self._client.find_tx(entry.hash)
        if found is None:
            return False
        self._settle(entry, *found)
        return True

    async def _bury(self, entry: Entry) -> None:
        """Past its deadline: included unseen, or dead for good."""
        if not await self._look_up(entry):
            self._put(box.after_death(entry))

    def _settle(self, entry: Entry, height: int, outcome: TxOutcome) -> None:
        if outcome.gas_used:
            kind = entry.intent.kind
            self._learned[kind] = max(self._learned.get(kind, 0), outcome.gas_used)
        self._put(
            box.included(
                entry,
                height=height,
                code=outcome.code,
                codespace=outcome.codespace,
                log=outcome.log.split("\n")[0],
                gas_used=outcome.gas_used,
            )
        )

    def _put(self, entry: Entry) -> None:
        self._outbox.outbox_put(entry)
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
