"""From intents to signed bytes: account, gas, fee, deadline, and the day's fee budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gpulease.chain.batches import DEFAULT_LIMITS, Limits, batches, kinds_of
from gpulease.chain.client import Account, ChainClient
from gpulease.chain.fees import Purse, fee_for, gas_limit
from gpulease.chain.outbox import Entry, Outbox, Priority, SignedTx, State, signed
from gpulease.chain.tx import Fee, Ordering, Signer, build, tx_hash
from gpulease.errors import ChainError
from gpulease.units import NS_PER_S, Dec


class Signing:
    """Signs for one account. ``ordered`` may turn on by itself where the chain takes no unordered transactions."""

    def __init__(
        self,
        *,
        client: ChainClient,
        outbox: Outbox,
        signer: Signer,
        gas_price_uakt: Dec,
        lifetime_s: float,
        fee_budget_uakt_per_day: int,
        fee_granter: str = "",
        limits: Mapping[str, Limits] = DEFAULT_LIMITS,
        ordered: bool = False,
    ) -> None:
        self._client, self._outbox, self._signer = client, outbox, signer
        self._gas_price, self._granter, self._limits = gas_price_uakt, fee_granter, limits
        self._lifetime_ns = int(lifetime_s * NS_PER_S)
        self._account: Account | None = None
        self._purse: Purse | None = None
        self._tried: set[str] = set()
        self.budget_uakt = fee_budget_uakt_per_day
        self.ordered = ordered

    @property
    def purse(self) -> Purse:
        if self._purse is None:
            self._purse = self._outbox.outbox_purse(self._signer.address)
        return self._purse

    def keep(self, purse: Purse) -> Purse:
        """Remember what was just committed."""
        self._purse = purse
        return purse

    def forget_account(self) -> None:
        self._account = None

    async def prepare(self, entries: Sequence[Entry], chain_time_ns: int) -> str | None:
        """Everything that has to be asked before signing; a sentence where the account cannot sign."""
        if self._account is None or self.ordered:
            self._account = await self._client.account(self._signer.address)
        if self._account is None:
            return f"account {self._signer.address} does not exist on chain; send it funds first"
        for entry in entries:
            kinds = kinds_of(entry.intent.messages)
            unknown = [kind for kind in kinds if not self.purse.knows(kind) and kind not in self._tried]
            if unknown:
                await self._simulate_once(entry, kinds, chain_time_ns)
        return None

    async def _simulate_once(self, entry: Entry, kinds: tuple[str, ...], chain_time_ns: int) -> None:
        self._tried.update(kinds)
        try:
            answer = await self._client.simulate(self.dry([entry], chain_time_ns))
        except ChainError:
            return
        if answer.problem is None:
            purse = self.purse.learned(kinds, answer.gas_used)
            self._outbox.outbox_commit((), purse=self.keep(purse))

    def dry(self, entries: Sequence[Entry], chain_time_ns: int) -> bytes:
        """Bytes to simulate: without fee and without a signature, so that no block can hold them."""
        account = self._account
        sequence = account.sequence if account is not None and self.ordered else 0
        return build(
            [message for entry in entries for message in entry.intent.messages],
            signer=self._signer,
            chain_id=self._client.chain_id,
            account_number=account.number if account is not None else 0,
            fee=Fee((), 0),
            ordering=Ordering(chain_time_ns + self._lifetime_ns, sequence, ordered=self.ordered),
            memo=entries[0].intent.memo,
            dry=True,
        )

    def sign(
        self, entries: Sequence[Entry], lane: Priority, *, chain_time_ns: int, after_height: int, under_way: int
    ) -> tuple[list[tuple[SignedTx, list[Entry]]], str | None]:
        """Sign and store what is ready in this lane: no await between looking and storing.

        Returns what was signed, and a sentence when the budget stopped it.
        """
        done: list[tuple[SignedTx, list[Entry]]] = []
        if self.ordered and under_way:
            return done, None
        for batch in batches(entries, chain_time_ns=chain_time_ns, learned=self.purse.gas, limits=self._limits):
            if batch[0].intent.priority is not lane:
                continue
            made = self._sign_one(batch, chain_time_ns, after_height)
            if made is None:
                return done, (
                    f"the fee budget of {self.budget_uakt}uakt per day is spent; transactions wait until an hour of it "
                    "is a day old, or raise the budget"
                )
            done.append(made)
            if self.ordered:
                break
        return done, None

    def _sign_one(
        self, batch: Sequence[Entry], chain_time_ns: int, after_height: int
    ) -> tuple[SignedTx, list[Entry]] | None:
        assert self._account is not None
        assert all(entry.state is State.PLANNED for entry in batch)
        messages = [message for entry in batch for message in entry.intent.messages]
        gas = gas_limit(kinds_of(messages), self.purse.gas, failures=max(entry.failures for entry in batch))
        fee = fee_for(gas, self._gas_price)
        if self.purse.spent_uakt(chain_time_ns=chain_time_ns) + fee.amount > self.budget_uakt:
            return None
        # Unique per signer: one nanosecond apart is enough for the chain.
        timeout_ns = max(chain_time_ns + self._lifetime_ns, self.purse.last_timeout_ns + 1)
        raw = build(
            messages,
            signer=self._signer,
            chain_id=self._client.chain_id,
            account_number=self._account.number,
            fee=Fee((fee,), gas, self._granter),
            ordering=Ordering(timeout_ns, self._account.sequence, ordered=self.ordered),
            memo=batch[0].intent.memo,
        )
        tx = SignedTx(
            hash=tx_hash(raw),
            raw=raw,
            signer=self._signer.address,
            keys=tuple(entry.intent.key for entry in batch),
            priority=batch[0].intent.priority,
            gas=gas,
            fee_uakt=fee.amount,
            signed_ns=chain_time_ns,
            timeout_ns=timeout_ns,
            after_height=after_height,
            sequence=self._account.sequence if self.ordered else None,
        )
        changed = [signed(entry, tx) for entry in batch]
        purse = replace(self.purse.reserved(fee.amount, at_ns=chain_time_ns), last_timeout_ns=timeout_ns)
        self._outbox.outbox_commit(changed, tx=tx, purse=purse)
        self.keep(purse)
        return tx, changed
