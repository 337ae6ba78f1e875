"""What a replay does not compare, each with its reason; nothing else is left out.

Gas figures: gas is metered by store operations, which this state machine does not have; the replay never reads them.
Staking, mint and distribution are not modelled: a recording's end-of-block events, answers and balances are those of
the other modules and of people, and hold nothing of theirs (fees stay with the collector, who is not recorded either).
"""

from __future__ import annotations

from typing import Any

from gpulease.devnet.chain import TxResult


def is_exempt(tx: dict[str, Any]) -> bool:
    """A transaction that ran out of gas: where it did so cannot be told without metering; only its fee is taken."""
    return bool(tx["codespace"] == "sdk" and tx["code"] == 11)


def paid_its_fee(tx: dict[str, Any]) -> bool:
    """Whether an exempt transaction got as far as paying: then its events begin with the fee's."""
    return any(event["type"] == "tx" for event in tx.get("events") or ())


def is_exempt_end_event(event: dict[str, Any]) -> bool:
    """Epochs' begin-block marks: the recordings' genesis does not hold that module's schedule.

    Only mint and the pruning of day-old prices hang on it. The recordings keep the end-of-block events of ``akash.*``
    modules, and all others of them are compared.
    """
    return bool(event["type"].startswith("akash.epochs."))


def same_refusal(check: dict[str, Any], ours: TxResult) -> bool:
    """Whether our CheckTx refusal is the recorded one, text included.

    The JSON-RPC layer's own error for bytes it has seen is our code 19. Fee grant refusals carry the addresses' raw
    bytes (a formatting slip of the real chain), which are reproduced and so compared as well.
    """
    if check["code"] == -32603:
        return ours.code == 19 and check.get("data") == "tx already exists in cache"
    return (check["code"], check["codespace"], check["log"]) == (ours.code, ours.codespace, ours.log)
