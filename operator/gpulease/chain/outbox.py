"""Intents and their fate: the pure part of the broadcaster.

An intent has an idempotency key chosen by who wants it. Its signed bytes are stored before they are first sent, and the
same bytes are sent until they are in a block or can be in none any more. What a node says about bytes it may have seen
before proves nothing; only a block, or the chain's clock passing the transaction's deadline, does. Several intents may
travel in one transaction; what is stored of that is a :class:`SignedTx`, written together with its entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from gpulease.chain.fees import Purse
from gpulease.chain.verdicts import Verdict, classify
from gpulease.units import NS_PER_S

MAX_ATTEMPTS = 20
"""How often an intent is signed before it is given up."""
MAX_FAILURES = 3
"""How often an intent's messages may fail in passing (a panic, too little gas), each time for a fee."""
REBROADCAST_AFTER_NS = 4 * NS_PER_S
EXPIRY_MARGIN_NS = 2 * NS_PER_S
"""The chain's clock has to pass a deadline by this much before anyone is asked whether the transaction is dead."""


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
    """An intent with its fate.

    ``hash`` names the transaction it travels in and ``timeout_ns`` the chain time after which that is dead; both are
    empty while it is planned. ``alone`` and ``most_with`` keep it out of (large) batches after one failed; ``suspect``
    names the failed batch it was in until the batch has been examined. ``not_before_ns`` is chain time.
    """

    intent: Intent
    state: State
    created_ns: int
    attempts: int = 0
    hash: str = ""
    timeout_ns: int = 0
    sent_ns: int = 0
    height: int = 0
    code: int = 0
    codespace: str = ""
    log: str = ""
    gas_used: int = 0
    failures: int = 0
    most_with: int = 0
    suspect: str = ""
    not_before_ns: int = 0

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


@dataclass(frozen=True, slots=True)
class SignedTx:
    """Bytes that may be in a block some day. ``keys`` are its intents in message order.

    ``after_height`` is the last block seen when it was signed: no block up to there can hold it. ``sequence`` is None
    for unordered ones. Times are chain time.
    """

    hash: str
    raw: bytes
    signer: str
    keys: tuple[str, ...]
    priority: Priority
    gas: int
    fee_uakt: int
    signed_ns: int
    timeout_ns: int
    after_height: int = 0
    sequence: int | None = None
    sent_ns: int = 0


class Outbox(Protocol):
    """Where entries live. Every write is durable when the call returns."""

    def outbox_get(self, key: str) -> Entry | None: ...

    def outbox_put(self, entry: Entry) -> None: ...

    def outbox_open(self, signer: str) -> list[Entry]: ...

    def outbox_txs(self, signer: str) -> list[SignedTx]:
        """Transactions that are not settled yet."""
        ...

    def outbox_purse(self, signer: str) -> Purse: ...

    def outbox_commit(
        self,
        entries: Sequence[Entry],
        *,
        tx: SignedTx | None = None,
        settled: SignedTx | None = None,
        purse: Purse | None = None,
    ) -> None:
        """All of it together or none: entries, a transaction that is open from now on, one that is not any more."""
        ...


def due(txs: Iterable[SignedTx], *, chain_time_ns: int) -> list[SignedTx]:
    """What to hand to a node now, most urgent first: not sent yet, or sent long enough ago."""
    found = [
        tx
        for tx in txs
        if tx.timeout_ns >= chain_time_ns and (tx.sent_ns == 0 or chain_time_ns - tx.sent_ns >= REBROADCAST_AFTER_NS)
    ]
    return sorted(found, key=lambda tx: (tx.priority.value, tx.sequence or 0, tx.signed_ns, tx.hash))


def is_dead(tx: SignedTx, *, chain_time_ns: int) -> bool:
    """The chain's clock has passed the deadline: no later block can hold these bytes."""
    return chain_time_ns > tx.timeout_ns + EXPIRY_MARGIN_NS


def signed(entry: Entry, tx: SignedTx) -> Entry:
    return replace(
        entry, state=State.SIGNED, hash=tx.hash, timeout_ns=tx.timeout_ns, attempts=entry.attempts + 1, sent_ns=0
    )


def sent(entry: Entry, *, now_ns: int, log: str = "") -> Entry:
    return replace(entry, state=State.SENT, sent_ns=now_ns, log=log)


def planned_again(entry: Entry, *, log: str = "", not_before_ns: int = 0) -> Entry:
    """Its bytes are dead: sign anew, unless it was tried too often."""
    if entry.attempts >= MAX_ATTEMPTS:
        return replace(entry, state=State.EXPIRED, log=log or entry.log)
    return replace(
        entry,
        state=State.PLANNED,
        hash="",
        timeout_ns=0,
        sent_ns=0,
        log=log or entry.log,
        not_before_ns=not_before_ns,
    )


def unknown(entry: Entry, *, log: str) -> Entry:
    """Nobody can tell any more whether its bytes were included: it must not be signed again under this key."""
    return replace(entry, state=State.EXPIRED, log=f"whether it was included cannot be known any more: {log}")


def refused(entry: Entry, *, codespace: str, code: int, log: str) -> Entry:
    return replace(entry, state=State.REFUSED, codespace=codespace, code=code, log=log)


def included(entry: Entry, *, height: int, code: int, codespace: str, log: str, gas_used: int) -> Entry:
    return replace(
        entry,
        state=State.INCLUDED,
        height=height,
        code=code,
        codespace=codespace,
        log=log,
        gas_used=gas_used,
        suspect="",
    )


def isolated(entries: Sequence[Entry], bad: Iterable[int]) -> list[Entry]:
    """A failed batch whose bad messages are known: those go alone, the rest together again."""
    alone = set(bad)
    return [replace(e, suspect="", most_with=1 if i in alone else e.most_with) for i, e in enumerate(entries)]


def halved(entries: Sequence[Entry]) -> list[Entry]:
    """A failed batch that tells nothing about its messages: half of it at a time."""
    half = max(len(entries) // 2, 1)
    return [replace(e, suspect="", most_with=min(e.most_with or half, half)) for e in entries]


def after_inclusion(
    entries: Sequence[Entry],
    *,
    hash_: str,
    height: int,
    time_ns: int,
    code: int,
    codespace: str,
    log: str,
    gas_used: int,
    settles: bool,
) -> list[Entry]:
    """A block's word on a transaction, for each of its entries. ``settles``: its messages settle escrow accounts.

    Failed messages had no effect, so whatever is not final may be tried again; how often is bounded, for each try has
    its fee.
    """
    share = gas_used // max(len(entries), 1)
    final = [included(e, height=height, code=code, codespace=codespace, log=log, gas_used=share) for e in entries]
    verdict = classify(codespace, code, log)
    if verdict is Verdict.ACCEPTED:
        return final
    about_messages = verdict in (Verdict.FINAL, Verdict.PANIC)
    if about_messages and len(entries) > 1:
        return [replace(planned_again(e, log=log, not_before_ns=time_ns), suspect=hash_) for e in entries]
    if verdict is Verdict.FINAL or (verdict is Verdict.PANIC and not settles):
        return final
    return [
        replace(planned_again(e, log=log, not_before_ns=time_ns), failures=e.failures + 1)
        if e.failures + 1 < MAX_FAILURES
        else done
        for e, done in zip(entries, final, strict=True)
    ]
