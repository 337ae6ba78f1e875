"""Intents and their fate: the pure part of the broadcaster.

An intent has an idempotency key chosen by who wants it. Its signed bytes are stored before they are first sent, and the
same bytes are sent until they are in a block or can be in none any more. What a node says about bytes it may have seen
before proves nothing; only a block, or the chain's clock passing the transaction's deadline, does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from gpulease.units import NS_PER_S, Coin, Dec

ALREADY_WAITING = 19
MEMPOOL_FULL = 20
MAX_ATTEMPTS = 20
REBROADCAST_AFTER_NS = 4 * NS_PER_S
EXPIRY_MARGIN_NS = 2 * NS_PER_S
"""The chain's clock has to pass a deadline by this much before a missing transaction counts as dead."""


class Priority(Enum):
    """What goes first when several intents wait: an order is lost within blocks, a withdrawal is not."""

    MARKET = 0
    LIFECYCLE = 1
    MONEY = 2


class State(Enum):
    PLANNED = "planned"
    SIGNED = "signed"
    SENT = "sent"
    INCLUDED = "included"
    REFUSED = "refused"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        return self in (State.INCLUDED, State.REFUSED, State.EXPIRED)


@dataclass(frozen=True, slots=True)
class Intent:
    """Something that shall happen on chain exactly once. ``messages`` are (type URL, bytes)."""

    key: str
    kind: str
    messages: tuple[tuple[str, bytes], ...]
    signer: str
    priority: Priority = Priority.LIFECYCLE
    memo: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """An intent with its fate. ``timeout_ns`` is the chain time after which the bytes are dead."""

    intent: Intent
    state: State
    created_ns: int
    attempts: int = 0
    raw: bytes = b""
    hash: str = ""
    timeout_ns: int = 0
    sent_ns: int = 0
    height: int = 0
    code: int = 0
    codespace: str = ""
    log: str = ""
    gas_used: int = 0

    @property
    def succeeded(self) -> bool:
        return self.state is State.INCLUDED and self.code == 0

    @property
    def problem(self) -> str | None:
        """Why the intent failed for good, None while it may still succeed or has."""
        if self.state is State.REFUSED or (self.state is State.INCLUDED and self.code != 0):
            return f"{self.log} (codespace {self.codespace}, code {self.code})"
        if self.state is State.EXPIRED:
            return f"not included after {self.attempts} attempts: {self.log or 'the chain did not take it in time'}"
        return None


class Outbox(Protocol):
    """Where entries live. Every write is durable when the call returns."""

    def outbox_get(self, key: str) -> Entry | None: ...

    def outbox_put(self, entry: Entry) -> None: ...

    def outbox_open(self, signer: str) -> list[Entry]: ...


# What one message of each kind used at most on the recorded chain, with half as much again on top.
GAS_BY_TYPE = {
    "/akash.audit.v1.MsgSignProviderAttributes": 115_000,
    "/akash.cert.v1.MsgCreateCertificate": 155_000,
    "/akash.cert.v1.MsgRevokeCertificate": 125_000,
    "/akash.deployment.v1beta4.MsgCloseDeployment": 600_000,
    "/akash.deployment.v1beta4.MsgCloseGroup": 260_000,
    "/akash.deployment.v1beta4.MsgCreateDeployment": 350_000,
    "/akash.deployment.v1beta4.MsgUpdateDeployment": 95_000,
    "/akash.escrow.v1.MsgAccountDeposit": 200_000,
    "/akash.market.v1beta5.MsgCloseBid": 370_000,
    "/akash.market.v1beta5.MsgCloseLease": 370_000,
    "/akash.market.v1beta5.MsgCreateBid": 200_000,
    "/akash.market.v1beta5.MsgCreateLease": 350_000,
    "/akash.market.v1beta5.MsgLeaseStartReclaim": 115_000,
    "/akash.market.v1beta5.MsgWithdrawLease": 690_000,
    "/akash.provider.v1beta4.MsgCreateProvider": 120_000,
    "/akash.provider.v1beta4.MsgUpdateProvider": 120_000,
    "/cosmos.bank.v1beta1.MsgSend": 140_000,
}
DEFAULT_GAS = 400_000


def gas_for(intent: Intent, learned: dict[str, int]) -> int:
    """Gas limit: the larger of the table and one and a half times what this kind was seen to use."""
    table = sum(GAS_BY_TYPE.get(url, DEFAULT_GAS) for url, _ in intent.messages)
    return max(table, learned.get(intent.kind, 0) * 3 // 2)


def fee_for(gas: int, gas_price_uakt: Dec) -> Coin:
    return Coin("uakt", (gas_price_uakt * gas).ceil())


def next_to_send(entries: Iterable[Entry], *, now_ns: int) -> list[Entry]:
    """What to hand to a node now, most urgent first: new, unsent, or sent long enough ago."""
    due = [
        e
        for e in entries
        if e.state in (State.PLANNED, State.SIGNED)
        or (e.state is State.SENT and now_ns - e.sent_ns >= REBROADCAST_AFTER_NS)
    ]
    return sorted(due, key=lambda e: (e.intent.priority.value, e.created_ns, e.intent.key))


def after_broadcast(entry: Entry, *, code: int, codespace: str, log: str, now_ns: int) -> Entry:
    """What a node's CheckTx means for an entry.

    On the first send a refusal is final: the bytes are in no mempool. On a later one it is not: they may be in a block
    already (a used nonce looks like a refusal), so only inclusion or expiry decides.
    """
    if code in (0, ALREADY_WAITING):
        return replace(entry, state=State.SENT, sent_ns=now_ns, log="")
    first = entry.state is State.SIGNED and entry.sent_ns == 0
    if first and not is_passing(codespace, code):
        return replace(entry, state=State.REFUSED, code=code, codespace=codespace, log=log)
    return replace(entry, state=State.SENT, sent_ns=now_ns, log=log)


def is_passing(codespace: str, code: int) -> bool:
    """Refusals that say nothing about the intent: full mempool (20), timeout (42), used nonce or ttl (18)."""
    return codespace == "sdk" and code in (MEMPOOL_FULL, 42, 18)


def included(entry: Entry, *, height: int, code: int, codespace: str, log: str, gas_used: int) -> Entry:
    return replace(
        entry, state=State.INCLUDED, height=height, code=code, codespace=codespace, log=log, gas_used=gas_used
    )


def is_dead(entry: Entry, *, chain_time_ns: int) -> bool:
    """The chain's clock has passed the deadline: no later block can hold these bytes."""
    return entry.state in (State.SIGNED, State.SENT) and chain_time_ns > entry.timeout_ns + EXPIRY_MARGIN_NS


def after_death(entry: Entry) -> Entry:
    """Dead bytes: plan the intent anew, unless it was tried too often."""
    if entry.attempts >= MAX_ATTEMPTS:
        return replace(entry, state=State.EXPIRED)
    return replace(entry, state=State.PLANNED, raw=b"", hash="", timeout_ns=0, sent_ns=0)
