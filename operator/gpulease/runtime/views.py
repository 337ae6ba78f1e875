"""From chain objects and outbox entries to what the two planners look at. Pure translations, no I/O."""

from __future__ import annotations

from collections.abc import Iterable

from gpulease.chain.outbox import Entry
from gpulease.lease.states import MoneyView
from gpulease.market.model import Deployment, Lease, LeaseState
from gpulease.money import runway, settlement
from gpulease.tenancy.states import FundsView, TxView
from gpulease.units import NS_PER_S

TOP_UP_MARGIN_S = 300
"""Funds are topped up this long before they end, or half a deposit's life before, whichever is shorter."""
LIVE = (LeaseState.ACTIVE, LeaseState.RECLAIMING)


def tx_view(entry: Entry | None) -> TxView | None:
    if entry is None:
        return None
    return TxView(not entry.state.final, entry.height or None, entry.problem)


def blocks_of(seconds: float, block_time_ns: int) -> int:
    return max(int(seconds * NS_PER_S) // max(block_time_ns, 1), 1)


def money_view(
    lease: Lease, deployment: Deployment | None, *, height: int, block_time_ns: int, period_s: int, threshold_uact: int
) -> MoneyView | None:
    """None while the escrow account is not known."""
    if lease.payment is None or deployment is None:
        return None
    account = deployment.escrow
    owed = runway.owed_uact(lease.payment, account, height=height)
    projected = runway.project(account, [lease.payment], height=height)
    decision = settlement.decide(
        settlement.SettlementPolicy(blocks_of(period_s, block_time_ns), threshold_uact),
        height=height,
        settled_at=account.settled_at,
        owed_uact=owed,
        run_out_height=projected.run_out_height,
    )
    live = lease.state in LIVE
    return MoneyView(
        owed_uact=owed,
        withdrawn_uact=lease.payment.withdrawn.amount,
        run_out_height=projected.run_out_height,
        withdraw_now=live and decision.withdraw,
        withdraw_key=f"withdraw/{lease.id}/{account.settled_at}",
        next_check_height=decision.next_check_height,
    )


def funds_view(
    deployment: Deployment,
    leases: Iterable[Lease],
    *,
    height: int,
    block_time_ns: int,
    deposit_uact: int,
    budget_uact: int,
) -> FundsView:
    payments = [lease.payment for lease in leases if lease.payment is not None and lease.state in LIVE]
    view = runway.project(deployment.escrow, payments, height=height)
    top_up, margin = 0, 0
    if view.run_out_height is not None:
        rate_raw = sum(p.rate.amount.raw for p in payments) or 1
        half_life = deposit_uact * 10**18 // rate_raw // 2
        margin = max(min(blocks_of(TOP_UP_MARGIN_S, block_time_ns), half_life), 2)
        if view.run_out_height - height <= margin:
            top_up = max(min(deposit_uact, budget_uact - view.deposited_uact), 0)
    return FundsView(
        spent_uact=view.accrued_uact + view.transferred_uact,
        funds_uact=view.funds_uact,
        deposited_uact=view.deposited_uact,
        run_out_height=view.run_out_height,
        top_up_uact=top_up,
        top_up_key=f"top-up/{deployment.id}/{view.run_out_height}",
        next_check_height=None if view.run_out_height is None else view.run_out_height - margin,
    )
