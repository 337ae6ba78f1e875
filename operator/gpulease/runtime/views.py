"""From chain objects, records and outbox entries to what the planners look at. Pure translations, no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from gpulease.chain.outbox import Entry
from gpulease.inventory.devices import Node
from gpulease.inventory.health import DeviceTrouble, Quarantine
from gpulease.lease.states import CreditView, DrainView, HostedView, MoneyView
from gpulease.market.model import Deployment, Lease, LeaseState
from gpulease.meter.usage import Usage
from gpulease.money import runway, settlement
from gpulease.runtime.health import DeviceHealth
from gpulease.runtime.stock import Held
from gpulease.tenancy.states import FundsView, TxView
from gpulease.units import NS_PER_S

TOP_UP_MARGIN_S = 300
"""Funds are topped up this long before they end, or half a deposit's life before, whichever is shorter."""
NS_PER_MS = 1_000_000
_MOST_QUARANTINES = 64
LIVE = (LeaseState.ACTIVE, LeaseState.RECLAIMING)


def tx_view(entry: Entry | None) -> TxView | None:
    if entry is None:
        return None
    return TxView(not entry.state.final, entry.height or None, entry.problem)


def blocks_of(seconds: float, block_time_ns: int) -> int:
    return max(int(seconds * NS_PER_S) // max(block_time_ns, 1), 1)


def quarantine_list(quarantines: Iterable[Quarantine], nodes: frozenset[str]) -> list[dict[str, Any]]:
    """``status.quarantine`` of a GPUProvider that sells these nodes."""
    return [
        {
            "uuid": q.uuid,
            "node": q.node,
            "sign": q.sign,
            "message": q.words,
            "since": utc_text(q.fault_ms // 1000),
            "heals": q.heals.value,
        }
        for q in sorted(quarantines, key=lambda q: (q.node, q.uuid))
        if q.node in nodes
    ][:_MOST_QUARANTINES]


def utc_text(unix_s: int) -> str:
    """As the API writes a time."""
    return datetime.fromtimestamp(unix_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def credit_uact(price_raw: int, *, credit_ms: int, devices: int, block_time_ns: int) -> int:
    """What the time on faulty devices cost the tenant: each device's equal share of the lease's price, rounded down.

    The chain knows one price for the whole lease (``price_raw`` is ``uact`` per block times 10**18).
    """
    if not devices or not credit_ms:
        return 0
    return price_raw * credit_ms * NS_PER_MS // (block_time_ns * devices * 10**18)


def credit(usage: Usage | None, lease: Lease | None, held: Held | None, *, block_time_ns: int) -> CreditView | None:
    """None while the meter never stood still. The bid says how many devices the price is for."""
    if usage is None or lease is None or not usage.credit_ms:
        return None
    promised = sum(amounts.devices for amounts in held.nodes.values()) if held is not None else 0
    uact = credit_uact(
        lease.price.amount.raw,
        credit_ms=usage.credit_ms,
        devices=promised or len(usage.running) or len(usage.devices),
        block_time_ns=block_time_ns,
    )
    return CreditView(usage.credited_seconds, uact)


def troubles(health: DeviceHealth, usage: Usage | None) -> tuple[DeviceTrouble, ...]:
    """Of the devices that a lease holds now."""
    if usage is None or not usage.running:
        return ()
    held = {device.partition("::")[0] for _, _, device in usage.running}
    return health.troubles(held, since_ms=usage.first_ms)


def drain(nodes: Iterable[Node], held: Held | None, hosted: HostedView | None) -> DrainView | None:
    """Cordoned nodes that the lease was placed on."""
    if held is None:
        return None
    cordoned = tuple(sorted(node.name for node in nodes if node.cordoned and node.name in held.nodes))
    return DrainView(cordoned, (hosted.status.get("drainSeenHeight") if hosted is not None else None) or None)


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
