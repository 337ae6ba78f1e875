"""Orders, bids and leases (akash x/market): creation, matching and the ways they end."""

from __future__ import annotations

from typing import Any

from gpulease.devnet import errors, escrow, matching, providers
from gpulease.devnet.context import Context
from gpulease.pb.akash.deployment.v1 import deployment_pb2
from gpulease.pb.akash.escrow.id.v1 import id_pb2
from gpulease.pb.akash.escrow.types.v1 import payment_pb2
from gpulease.pb.akash.market.v1 import bid_pb2 as bid_id_pb2
from gpulease.pb.akash.market.v1 import event_pb2, lease_pb2, types_pb2
from gpulease.pb.akash.market.v1 import order_pb2 as order_id_pb2
from gpulease.pb.akash.market.v1beta5 import bid_pb2, order_pb2
from gpulease.units import NS_PER_S

_ORDERS = "market/orders"
_BIDS = "market/bids"
_LEASES = "market/leases"
Order = order_pb2.Order
Bid = bid_pb2.Bid
Lease = lease_pb2.Lease
Key = tuple[str, int, int, int]


def order_key(oid: Any) -> Key:
    return (oid.owner, oid.dseq, oid.gseq, oid.oseq)


def bid_key(bid: Any) -> tuple[str, int, int, int, str]:
    return (*order_key(bid), bid.provider)


def get_order(ctx: Context, oid: Any) -> Order | None:
    found: Order | None = ctx.state.get(_ORDERS, order_key(oid))
    return found


def get_bid(ctx: Context, bid: Any) -> Bid | None:
    found: Bid | None = ctx.state.get(_BIDS, bid_key(bid))
    return found


def get_lease(ctx: Context, lease: Any) -> Lease | None:
    found: Lease | None = ctx.state.get(_LEASES, bid_key(lease))
    return found


def orders(ctx: Context) -> list[Order]:
    return list(ctx.state.values(_ORDERS))


def bids(ctx: Context) -> list[Bid]:
    return list(ctx.state.values(_BIDS))


def leases(ctx: Context) -> list[Lease]:
    return list(ctx.state.values(_LEASES))


def orders_of_group(ctx: Context, gid: Any) -> list[Order]:
    base = (gid.owner, gid.dseq, gid.gseq)
    return ctx.state.ranged(_ORDERS, (*base, 0), (*base, 1 << 33))


def bids_of_order(ctx: Context, oid: Any, state: int | None = None) -> list[Bid]:
    base = order_key(oid)
    found: list[Bid] = ctx.state.ranged(_BIDS, (*base, ""), (*base, "\U0010ffff"))
    return found if state is None else [b for b in found if b.state == state]


def bid_account(bid: Any) -> id_pb2.Account:
    return escrow.account_id(id_pb2.bid, f"{bid.owner}/{bid.dseq}/{bid.gseq}/{bid.oseq}/{bid.provider}")


def lease_payment(lease: Any) -> id_pb2.Payment:
    aid = escrow.account_id(id_pb2.deployment, f"{lease.owner}/{lease.dseq}")
    return escrow.payment_id(aid, f"{lease.gseq}/{lease.oseq}/{lease.provider}")


def _seconds_ns(text: str) -> int:
    whole, _, fraction = text.removesuffix("s").partition(".")
    return int(whole) * NS_PER_S + int(fraction.ljust(9, "0") or "0")


def reclamation_bounds_ns(ctx: Context) -> tuple[int, int]:
    params = ctx.params["market"]
    return _seconds_ns(params["min_reclamation_window"]), _seconds_ns(params["max_reclamation_window"])


def _as_lease_id(bid: Any) -> lease_pb2.LeaseID:
    return lease_pb2.LeaseID(
        owner=bid.owner, dseq=bid.dseq, gseq=bid.gseq, oseq=bid.oseq, provider=bid.provider, bseq=bid.bseq
    )


def _as_order_id(bid: Any) -> order_id_pb2.OrderID:
    return order_id_pb2.OrderID(owner=bid.owner, dseq=bid.dseq, gseq=bid.gseq, oseq=bid.oseq)


# --- orders --------------------------------------------------------------------------------------------------------


def create_order(ctx: Context, gid: Any, spec: Any, parent: deployment_pb2.Deployment) -> None:
    existing = orders_of_group(ctx, gid)
    for order in existing:
        if order.state in (Order.open, Order.active):
            raise errors.undefined("order active: create order: active order exists")
    oid = order_id_pb2.OrderID(owner=gid.owner, dseq=gid.dseq, gseq=gid.gseq, oseq=len(existing) + 1)
    order = Order(id=oid, state=Order.open, spec=spec, created_at=ctx.height)
    if parent.HasField("reclamation"):
        order.reclamation.CopyFrom(parent.reclamation)
    ctx.state.put(_ORDERS, order_key(oid), order)
    ctx.emit_typed(event_pb2.EventOrderCreated(id=oid))


def _set_order(ctx: Context, order: Order, state: int) -> None:
    updated = Order()
    updated.CopyFrom(order)
    updated.state = state  # type: ignore[assignment]
    ctx.state.put(_ORDERS, order_key(order.id), updated)


def _close_order(ctx: Context, oid: Any) -> None:
    order = get_order(ctx, oid)
    if order is None or order.state == Order.closed:
        return
    _set_order(ctx, order, Order.closed)
    ctx.emit_typed(event_pb2.EventOrderClosed(id=order.id))


# --- bids ----------------------------------------------------------------------------------------------------------


def _set_bid(ctx: Context, bid: Bid, state: int) -> None:
    updated = Bid()
    updated.CopyFrom(bid)
    updated.state = state  # type: ignore[assignment]
    ctx.state.put(_BIDS, bid_key(bid.id), updated)


def _close_bid(ctx: Context, bid: Bid) -> None:
    if bid.state in (Bid.closed, Bid.lost):
        return
    _set_bid(ctx, bid, Bid.closed)
    # The refund happens; the hook's error (see escrow) is not passed on here.
    escrow.account_close(ctx, bid_account(bid.id))
    ctx.emit_typed(event_pb2.EventBidClosed(id=bid.id))


def msg_create_bid(ctx: Context, msg: Any) -> None:
    params = ctx.params["market"]
    _check_deposit(params, msg)
    oid = _as_order_id(msg.id)
    counted = [b for b in bids_of_order(ctx, oid) if b.state != Bid.lost]
    if len(counted) > int(params["order_max_bids"]):
        raise errors.undefined(f"invalid bid: too many existing bids ({params['order_max_bids']})")
    order = get_order(ctx, oid)
    if order is None:
        raise errors.market(15, "invalid order: order not found")
    _check_order_open(order)
    _check_price(order, msg)
    _check_offer(order, msg)
    _check_provider(ctx, order, msg.id.provider)
    deposits = escrow.authorize_deposits(ctx, msg.id.provider, msg.deposit, id_pb2.bid)
    _check_bid_window(ctx, order, msg)
    if get_bid(ctx, msg.id) is not None:
        raise errors.market(21, "invalid bid: bid exists from provider")
    bid = Bid(id=msg.id, state=Bid.open, price=msg.price, created_at=ctx.height, resources_offer=msg.resources_offer)
    if msg.HasField("reclamation_window"):
        bid.reclamation_window.CopyFrom(msg.reclamation_window)
    ctx.state.put(_BIDS, bid_key(msg.id), bid)
    ctx.emit_typed(event_pb2.EventBidCreated(id=msg.id, price=msg.price))
    escrow.account_create(ctx, bid_account(msg.id), msg.id.provider, deposits)


def _check_deposit(params: dict[str, Any], msg: Any) -> None:
    amount = msg.deposit.amount
    sources = " ".join("balance" if s == 1 else "grant" for s in msg.deposit.sources)
    least = next((int(m["amount"]) for m in params["bid_min_deposits"] if m["denom"] == amount.denom), 0)
    if not least:
        raise errors.undefined(f"deposit invalid: unsupported denom {amount.denom}")
    if int(amount.amount or "0") < least:
        shown = f"{{{amount.amount or 0}{amount.denom} [{sources}]}}"
        raise errors.undefined(f"deposit invalid: minimum:{least}{amount.denom} received:{shown}")


def _check_order_open(order: Order) -> None:
    if order.state == Order.active:
        raise errors.market(23, "order active")
    if order.state == Order.closed:
        raise errors.market(24, "order closed")


def _check_price(order: Order, msg: Any) -> None:
    ceiling = sum(int(unit.price.amount or "0") * unit.count for unit in order.spec.resources)
    denom = order.spec.resources[0].price.denom
    if denom != msg.price.denom:
        first, second = sorted((denom, msg.price.denom))
        raise errors.Panic(f"invalid coin denominations; {first}, {second}")
    if ceiling < int(msg.price.amount or "0"):
        raise errors.market(22, "bid price is invalid")


def _check_offer(order: Order, msg: Any) -> None:
    if not msg.resources_offer:
        return
    wanted: dict[int, int | None] = {unit.resource.id: unit.count for unit in order.spec.resources}
    for offer in msg.resources_offer:
        if offer.resources.id not in wanted:
            raise errors.market(32, "capabilities mismatch")
        count = wanted[offer.resources.id]
        if count is None:
            # Bug: a unit that is offered twice is looked up as nil the second time.
            raise errors.Panic("runtime error: invalid memory address or nil pointer dereference")
        wanted[offer.resources.id] = None
        if count != offer.count:
            raise errors.market(32, "capabilities mismatch")


def _check_provider(ctx: Context, order: Order, address: str) -> None:
    record = providers.get(ctx, address)
    if record is None:
        raise errors.market(30, "unknown provider")
    own = {a.key: a.value for a in record.attributes}
    if not matching.requirements_met(order.spec.requirements, own, providers.audited(ctx, address)):
        raise errors.market(5, "attribute mismatch")
    if not matching.capabilities_met(order.spec, own):
        raise errors.market(32, "capabilities mismatch")


def _check_bid_window(ctx: Context, order: Order, msg: Any) -> None:
    low, high = reclamation_bounds_ns(ctx)
    offered = msg.HasField("reclamation_window")
    window_ns = msg.reclamation_window.seconds * NS_PER_S + msg.reclamation_window.nanos
    if order.HasField("reclamation"):
        if not offered:
            raise errors.market(40, "order requires reclamation but bid does not offer it")
        least = order.reclamation.min_window
        if window_ns < least.seconds * NS_PER_S + least.nanos:
            raise errors.market(41, "reclamation window shorter than order minimum")
    if offered and not low <= window_ns <= high:
        raise errors.market(39, "reclamation window outside governance bounds")


def msg_close_bid(ctx: Context, msg: Any) -> None:
    bid = get_bid(ctx, msg.id)
    if bid is None:
        raise errors.market(6, "unknown bid")
    order = get_order(ctx, _as_order_id(msg.id))
    if order is None:
        raise errors.market(9, "unknown order for bid")
    if bid.state == Bid.open:
        _close_bid(ctx, bid)
        return
    lease = get_lease(ctx, msg.id)
    if lease is None:
        raise errors.market(8, "unknown lease for bid")
    _check_lease_closable(ctx, lease, bid)
    from gpulease.devnet import deployment

    group = deployment.get_group(ctx, msg.id)
    assert group is not None
    deployment.pause_group(ctx, group)
    _close_lease(ctx, lease, Lease.closed, msg.reason)
    _close_bid(ctx, bid)
    _close_order(ctx, order.id)
    escrow.payment_close(ctx, lease_payment(lease.id))


def _check_lease_closable(ctx: Context, lease: Lease, bid: Bid) -> None:
    if lease.state not in (Lease.active, Lease.reclaiming):
        raise errors.market(10, "lease not active")
    if bid.state != Bid.active:
        raise errors.market(11, "bid not active")
    if lease.state == Lease.active and lease.HasField("reclamation"):
        raise errors.market(37, "reclamation not started; call MsgLeaseStartReclaim first")
    if lease.state == Lease.reclaiming and ctx.time_ns // NS_PER_S < lease.reclamation.deadline:
        raise errors.market(38, "reclamation window has not elapsed")


# --- leases --------------------------------------------------------------------------------------------------------


def msg_create_lease(ctx: Context, msg: Any) -> None:
    from gpulease.devnet import deployment

    bid = get_bid(ctx, msg.bid_id)
    if bid is None:
        raise errors.market(18, "invalid bid: bid not found")
    if bid.state != Bid.open:
        raise errors.market(12, "bid not open")
    order = get_order(ctx, _as_order_id(msg.bid_id))
    if order is None:
        raise errors.market(15, "invalid order: order not found")
    if order.state != Order.open:
        raise errors.market(13, "bid: order not open")
    group = deployment.get_group(ctx, msg.bid_id)
    if group is None:
        raise errors.market(16, "group not found")
    if group.state != deployment.G_OPEN:
        raise errors.market(17, "group not open")
    lid = _as_lease_id(msg.bid_id)
    escrow.payment_create(ctx, lease_payment(lid), lid.provider, bid.price)
    lease = Lease(id=lid, state=Lease.active, price=bid.price, created_at=ctx.height)
    if bid.HasField("reclamation_window"):
        lease.reclamation.window.CopyFrom(bid.reclamation_window)
    ctx.state.put(_LEASES, bid_key(lid), lease)
    ctx.emit_typed(event_pb2.EventLeaseCreated(id=lid, price=bid.price))
    _set_order(ctx, order, Order.active)
    _set_bid(ctx, bid, Bid.active)
    for loser in bids_of_order(ctx, order.id, Bid.open):
        _set_bid(ctx, loser, Bid.lost)
        # Bug: closing a bid's account reports an error after the refund, and the loop over the losers ends with it.
        if escrow.account_close(ctx, bid_account(loser.id)) is not None:
            break


def _close_lease(ctx: Context, lease: Lease, state: int, reason: int) -> None:
    if lease.state not in (Lease.active, Lease.reclaiming):
        return
    updated = Lease()
    updated.CopyFrom(lease)
    updated.state = state  # type: ignore[assignment]
    updated.closed_on = ctx.height
    updated.reason = reason  # type: ignore[assignment]
    ctx.state.put(_LEASES, bid_key(lease.id), updated)
    ctx.emit_typed(event_pb2.EventLeaseClosed(id=lease.id, reason=reason))  # type: ignore[arg-type]


def msg_withdraw(ctx: Context, msg: Any) -> None:
    lease = get_lease(ctx, msg.id)
    if lease is None:
        raise errors.market(7, "unknown lease")
    escrow.payment_withdraw(ctx, lease_payment(msg.id))


def msg_close_lease(ctx: Context, msg: Any) -> None:
    from gpulease.devnet import deployment

    order = get_order(ctx, _as_order_id(msg.id))
    if order is None:
        raise errors.market(15, "invalid order: order not found")
    if order.state != Order.active:
        raise errors.market(24, "order closed")
    bid = get_bid(ctx, msg.id)
    if bid is None:
        raise errors.market(18, "invalid bid: bid not found")
    if bid.state != Bid.active:
        raise errors.market(11, "bid not active")
    lease = get_lease(ctx, msg.id)
    if lease is None:
        raise errors.market(20, "invalid lease: lease not found")
    if lease.state not in (Lease.active, Lease.reclaiming):
        raise errors.market(24, "order closed")
    _close_lease(ctx, lease, Lease.closed, types_pb2.lease_closed_owner)
    _close_bid(ctx, bid)
    _close_order(ctx, order.id)
    escrow.payment_close(ctx, lease_payment(lease.id))
    group = deployment.get_group(ctx, msg.id)
    if group is not None and group.state == deployment.G_OPEN:
        parent = deployment.get(ctx, msg.id)
        assert parent is not None
        create_order(ctx, group.id, group.group_spec, parent)


def msg_start_reclaim(ctx: Context, msg: Any) -> None:
    lease = get_lease(ctx, msg.id)
    if lease is None:
        raise errors.market(7, "unknown lease")
    if lease.state != Lease.active:
        raise errors.market(10, "lease not active")
    if not lease.HasField("reclamation"):
        raise errors.market(35, "lease does not have reclamation configured")
    updated = Lease()
    updated.CopyFrom(lease)
    updated.state = Lease.reclaiming
    window = lease.reclamation.window
    updated.reclamation.started_at = ctx.height
    updated.reclamation.deadline = (ctx.time_ns + window.seconds * NS_PER_S + window.nanos) // NS_PER_S
    updated.reclamation.reason = msg.reason
    ctx.state.put(_LEASES, bid_key(lease.id), updated)
    ctx.emit_typed(
        event_pb2.EventLeaseReclaimStarted(id=lease.id, reason=msg.reason, deadline=updated.reclamation.deadline)
    )


# --- hooks ---------------------------------------------------------------------------------------------------------


def on_group_closed(ctx: Context, gid: Any, *, broke: bool) -> None:
    """A group that is closed or paused takes its orders, bids and leases with it."""
    state, reason = Lease.closed, types_pb2.lease_closed_owner
    if broke:
        state, reason = Lease.insufficient_funds, types_pb2.lease_closed_reason_insufficient_funds
    for order in orders_of_group(ctx, gid):
        if order.state == Order.closed:
            continue
        _close_order(ctx, order.id)
        for bid in bids_of_order(ctx, order.id, Bid.open):
            _close_bid(ctx, bid)
        for bid in bids_of_order(ctx, order.id, Bid.active):
            _close_bid(ctx, bid)
            lease = get_lease(ctx, bid.id)
            if lease is None:
                continue
            _close_lease(ctx, lease, state, reason)
            try:
                escrow.payment_close(ctx, lease_payment(lease.id))
            except errors.ModuleError:
                # Closed with its account already; the real hook ignores this error as well.
                continue


def on_payment_closed(ctx: Context, payment: payment_pb2.Payment) -> None:
    """Escrow hook: a payment that ended ends its lease, where the lease still stands."""
    if payment.id.aid.scope != id_pb2.deployment:
        return
    owner, _, dseq = payment.id.aid.xid.partition("/")
    gseq, oseq, provider = payment.id.xid.split("/")
    lid = bid_id_pb2.BidID(owner=owner, dseq=int(dseq), gseq=int(gseq), oseq=int(oseq), provider=provider)
    bid = get_bid(ctx, lid)
    if bid is None or bid.state != Bid.active:
        return
    lease = get_lease(ctx, lid)
    _close_order(ctx, _as_order_id(lid))
    _close_bid(ctx, bid)
    if lease is None:
        return
    if payment.state.state == escrow.OVERDRAWN:
        _close_lease(ctx, lease, Lease.insufficient_funds, types_pb2.lease_closed_reason_insufficient_funds)
    else:
        _close_lease(ctx, lease, Lease.closed, types_pb2.lease_closed_reason_unspecified)


escrow.payment_hooks.append(on_payment_closed)
