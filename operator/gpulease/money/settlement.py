"""When to withdraw: seldom, because the chain drops fractions at each settlement, but never after the money is gone."""

from __future__ import annotations

from dataclasses import dataclass

RUN_OUT_MARGIN_BLOCKS = 3
"""Withdraw this close to the run-out: early enough to be in a block before it."""


@dataclass(frozen=True, slots=True)
class SettlementPolicy:
    """``threshold_uact`` 0 switches the threshold off."""

    period_blocks: int
    threshold_uact: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """``next_check_height`` is when the answer may change."""

    withdraw: bool
    reason: str
    next_check_height: int | None


def decide(
    policy: SettlementPolicy, *, height: int, settled_at: int, owed_uact: int, run_out_height: int | None
) -> Decision:
    """``settled_at`` is the account's last settlement. Nothing is withdrawn in the block of a settlement, or for 0.

    The one exception is an account past its run-out: the chain notices only when somebody settles, so the provider
    does, whatever it is owed, and the lease ends one block after its money. Repeats with the same ``settled_at`` are
    the caller's to suppress: an account in debt may stay as it is (reference §3.3).
    """
    period = max(policy.period_blocks, 1)
    if height <= settled_at:
        return Decision(False, "the account was settled in this block", settled_at + 1)
    ended = near = None
    if run_out_height is not None:
        ended = run_out_height + 1
        near = max(run_out_height - RUN_OUT_MARGIN_BLOCKS, settled_at + RUN_OUT_MARGIN_BLOCKS + 1)
        if height >= ended:
            return Decision(True, "the funds have ended", height + 1)
    due = settled_at + period
    if owed_uact > 0:
        if near is not None and height >= near:
            return Decision(True, "the funds end soon", height + 1)
        if policy.threshold_uact and owed_uact >= policy.threshold_uact:
            return Decision(True, "the threshold is reached", height + 1)
        if height >= due:
            return Decision(True, "the period is over", height + 1)
    upcoming = [h for h in (due, near, ended) if h is not None and h > height]
    reason = "not due yet" if owed_uact > 0 else "nothing is owed"
    return Decision(False, reason, min(upcoming, default=height + period))
