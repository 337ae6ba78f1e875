"""What a refusal means, by (codespace, code): the one place that knows.

The same code means different things in two places. The ante handler speaks for the transaction (its fee, nonce or
sequence); a message speaks for what was wanted. A message's failure names its index in the log, or is a panic.
"""

from __future__ import annotations

import re
from enum import Enum

_INDEX = re.compile(r"message index: ([0-9]+)")
_SEQUENCES = re.compile(r"expected ([0-9]+), got ([0-9]+)")
PANIC_CODE = 111222


class Verdict(Enum):
    """``FINAL`` is about the intent; everything else is about these bytes or this moment."""

    ACCEPTED = "accepted"
    WAITING = "waiting"
    """Code 19: the node has these very bytes already. As good as accepted."""
    FINAL = "final"
    """The chain will not do this, now or later, however often it is asked."""
    PANIC = "panic"
    """A message panicked. Settling an account twice in one block does that, and passes; other panics stay."""
    LATER = "later"
    """Says nothing about the intent: mempool full, nonce taken, deadline over."""
    PAYER = "payer"
    """Whoever pays the fee cannot or may not: the intent waits until somebody mends that."""
    SEQUENCE = "sequence"
    """An ordered transaction's sequence is not the account's."""
    SIGNATURE = "signature"
    """The account's number, key or the chain id differ from what was signed."""
    GAS = "gas"
    TOO_LARGE = "too large"
    UNORDERED_OFF = "unordered off"
    """This chain takes ordered transactions only."""


# The sdk's own codes when the ante handler gives them (cosmos-sdk types/errors; reference §2.8, §7).
_ANTE = {
    4: Verdict.SIGNATURE,
    5: Verdict.PAYER,
    8: Verdict.SIGNATURE,
    9: Verdict.PAYER,
    11: Verdict.GAS,
    13: Verdict.PAYER,
    18: Verdict.LATER,
    19: Verdict.WAITING,
    20: Verdict.LATER,
    21: Verdict.TOO_LARGE,
    30: Verdict.LATER,
    32: Verdict.SEQUENCE,
    37: Verdict.UNORDERED_OFF,
    38: Verdict.PAYER,
    42: Verdict.LATER,
}
_PAYER_CODESPACES = ("feegrant",)


def message_index(log: str) -> int | None:
    """Which message of the transaction failed, where the log says so."""
    found = _INDEX.search(log)
    return int(found[1]) if found else None


def sequences(log: str) -> tuple[int, int] | None:
    """(expected, got) of a sequence mismatch."""
    found = _SEQUENCES.search(log)
    return (int(found[1]), int(found[2])) if found else None


def classify(codespace: str, code: int, log: str = "") -> Verdict:
    """Total: what is not known is final, so that nothing unknown is repeated for money."""
    if code == 0:
        return Verdict.ACCEPTED
    if code == PANIC_CODE:
        return Verdict.PANIC
    if codespace == "sdk" and code == 11:
        return Verdict.GAS
    if message_index(log) is not None:
        return Verdict.FINAL
    if codespace in _PAYER_CODESPACES:
        return Verdict.PAYER
    if codespace == "sdk":
        return _ANTE.get(code, Verdict.FINAL)
    return Verdict.FINAL


_PAYER_WORDS = {
    ("sdk", 5): "the account that pays fees has too little uakt; send it some",
    ("sdk", 9): "the account that pays fees does not exist on chain; send it uakt",
    ("sdk", 13): "the gas price is below what the node asks; raise spec.chain.gasPrice",
    ("sdk", 38): "the fee grant does not exist; grant it or take the granter out of the settings",
}


def payer_problem(codespace: str, code: int, log: str) -> str:
    """A sentence for whoever can mend a refused fee."""
    words = _PAYER_WORDS.get((codespace, code), "the fee grant does not allow this fee; renew or widen it")
    return f"no fee can be paid: {words} ({log.splitlines()[0] if log else 'no log'})"
