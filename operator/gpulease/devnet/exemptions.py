"""What a replay does not compare, each with its reason; nothing else is left out."""

from __future__ import annotations

from typing import Any

from gpulease.devnet.chain import TxResult


def is_exempt(tx: dict[str, Any]) -> bool:
    """Gas is metered by store operations that this state machine does not have.

    The one transaction that ran out of gas is therefore not compared, only its fee is taken. Gas figures of all
    others are not compared either (the replay never reads them).
    """
    return bool(tx["codespace"] == "sdk" and tx["code"] == 11)


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
