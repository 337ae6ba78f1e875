"""Deployments and their groups (akash x/deployment): what a tenant asks for, and its states."""

from __future__ import annotations

from typing import Any

from gpulease.devnet import errors, escrow, market
from gpulease.devnet.context import Context
from gpulease.pb.akash.deployment.v1 import deployment_pb2, event_pb2
from gpulease.pb.akash.deployment.v1 import group_pb2 as group_id_pb2
from gpulease.pb.akash.deployment.v1beta4 import group_pb2
from gpulease.pb.akash.escrow.id.v1 import id_pb2
from gpulease.pb.akash.escrow.types.v1 import account_pb2
from gpulease.units import UACT, UAKT

_DEPLOYMENTS = "deployment/deployments"
_GROUPS = "deployment/groups"
ACTIVE, CLOSED = deployment_pb2.Deployment.active, deployment_pb2.Deployment.closed
G_OPEN, G_PAUSED = group_pb2.Group.open, group_pb2.Group.paused
G_BROKE, G_CLOSED = group_pb2.Group.insufficient_funds, group_pb2.Group.closed


def key(owner: str, dseq: int) -> tuple[str, int]:
    return (owner, dseq)


def get(ctx: Context, did: Any) -> deployment_pb2.Deployment | None:
    found: deployment_pb2.Deployment | None = ctx.state.get(_DEPLOYMENTS, key(did.owner, did.dseq))
    return found


def all_deployments(ctx: Context) -> list[deployment_pb2.Deployment]:
    return list(ctx.state.values(_DEPLOYMENTS))


def get_group(ctx: Context, gid: Any) -> group_pb2.Group | None:
    found: group_pb2.Group | None = ctx.state.get(_GROUPS, (*key(gid.owner, gid.dseq), gid.gseq))
    return found


def groups(ctx: Context, owner: str, dseq: int) -> list[group_pb2.Group]:
    base = key(owner, dseq)
    return ctx.state.ranged(_GROUPS, (*base, 0), (*base, 1 << 33))


def _save_group(ctx: Context, group: group_pb2.Group, state: int) -> group_pb2.Group:
    updated = group_pb2.Group()
    updated.CopyFrom(group)
    updated.state = state  # type: ignore[assignment]
    ctx.state.put(_GROUPS, (*key(group.id.owner, group.id.dseq), group.id.gseq), updated)
    return updated


def _account(did: Any) -> id_pb2.Account:
    return escrow.account_id(id_pb2.deployment, f"{did.owner}/{did.dseq}")


def msg_create(ctx: Context, msg: Any) -> None:
    if get(ctx, msg.id) is not None:
        raise errors.deployment(3, "Deployment exists")
    _check_deposit(ctx, msg)
    _check_reclamation(ctx, msg)
    names: set[str] = set()
    for spec in msg.groups:
        if spec.name in names:
            words = f"duplicate deployment group name {spec.name}: duplicate group name: Invalid groups"
            raise errors.deployment(7, words)
        names.add(spec.name)
    denom = msg.groups[0].resources[0].price.denom
    if denom != UACT:
        raise errors.deployment(24, f"unsupported denomination {denom}: invalid price")
    deposits = escrow.authorize_deposits(ctx, msg.id.owner, msg.deposit, id_pb2.deployment)
    made = deployment_pb2.Deployment(id=msg.id, state=ACTIVE, hash=msg.hash, created_at=ctx.height)
    if msg.HasField("reclamation"):
        made.reclamation.CopyFrom(msg.reclamation)
    ctx.state.put(_DEPLOYMENTS, key(msg.id.owner, msg.id.dseq), made)
    ctx.emit_typed(event_pb2.EventDeploymentCreated(id=msg.id, hash=msg.hash))
    created = []
    for index, spec in enumerate(msg.groups, start=1):
        gid = group_id_pb2.GroupID(owner=msg.id.owner, dseq=msg.id.dseq, gseq=index)
        group = group_pb2.Group(id=gid, state=G_OPEN, group_spec=spec, created_at=ctx.height)
        created.append(_save_group(ctx, group, G_OPEN))
    for group in created:
        market.create_order(ctx, group.id, group.group_spec, made)
    escrow.account_create(ctx, _account(msg.id), msg.id.owner, deposits)


def _check_deposit(ctx: Context, msg: Any) -> None:
    """Enough of a denomination that is known; and never uakt, which only a later top-up may bring."""
    amount = msg.deposit.amount
    least = next((m for m in ctx.params["deployment"]["min_deposits"] if m["denom"] == amount.denom), None)
    if least is None:
        raise errors.undefined(f"Deposit invalid: Invalid deposit denomination {amount.denom}")
    if int(amount.amount or "0") < int(least["amount"]):
        words = f"Deposit too low - {amount.amount or 0} < {least['amount']}{least['denom']}: Deposit invalid"
        raise errors.deployment(20, words)
    if amount.denom == UAKT:
        raise errors.deployment(20, "Deposit invalid")


def _check_reclamation(ctx: Context, msg: Any) -> None:
    if not msg.HasField("reclamation"):
        return
    window_ns = msg.reclamation.min_window.ToNanoseconds()
    low, high = market.reclamation_bounds_ns(ctx)
    if not low <= window_ns <= high:
        side = "below governance minimum" if window_ns < low else "above governance maximum"
        raise errors.deployment(26, f"min_window {side}: invalid reclamation configuration")


def msg_update(ctx: Context, msg: Any) -> None:
    found = get(ctx, msg.id)
    if found is None:
        raise errors.deployment(4, "Deployment not found")
    if found.state != ACTIVE:
        raise errors.deployment(5, "Deployment closed")
    if found.hash == msg.hash:
        raise errors.deployment(10, "Invalid: deployment hash")
    updated = deployment_pb2.Deployment()
    updated.CopyFrom(found)
    updated.hash = msg.hash
    ctx.state.put(_DEPLOYMENTS, key(msg.id.owner, msg.id.dseq), updated)
    ctx.emit_typed(event_pb2.EventDeploymentUpdated(id=msg.id, hash=msg.hash))


def msg_close(ctx: Context, msg: Any) -> None:
    found = get(ctx, msg.id)
    if found is None:
        raise errors.deployment(4, "Deployment not found")
    if found.state != ACTIVE:
        raise errors.deployment(5, "Deployment closed")
    problem = escrow.account_close(ctx, _account(msg.id))
    if problem is not None:
        raise problem


def on_account_closed(ctx: Context, account: account_pb2.Account) -> None:
    """Escrow hook: a closed or overdrawn account ends its deployment."""
    if account.id.scope != id_pb2.deployment:
        return
    owner, _, dseq = account.id.xid.partition("/")
    found = ctx.state.get(_DEPLOYMENTS, key(owner, int(dseq)))
    if found is None or found.state != ACTIVE:
        return
    updated = deployment_pb2.Deployment()
    updated.CopyFrom(found)
    updated.state = CLOSED
    ctx.state.put(_DEPLOYMENTS, key(owner, int(dseq)), updated)
    ctx.emit_typed(event_pb2.EventDeploymentClosed(id=found.id))
    broke = account.state.state == escrow.OVERDRAWN
    for group in groups(ctx, owner, int(dseq)):
        if group.state == G_CLOSED:
            continue
        _close_group(ctx, group, G_BROKE if broke else G_CLOSED)


def _close_group(ctx: Context, group: group_pb2.Group, state: int) -> None:
    _save_group(ctx, group, state)
    ctx.emit_typed(event_pb2.EventGroupClosed(id=group.id))
    market.on_group_closed(ctx, group.id, broke=state == G_BROKE)


def _closable(group: group_pb2.Group) -> None:
    if group.state == G_CLOSED:
        raise errors.deployment(15, "Group already closed")


def _found_group(ctx: Context, msg: Any) -> group_pb2.Group:
    group = get_group(ctx, msg.id)
    if group is None:
        raise errors.deployment(11, "Group not found")
    return group


def msg_close_group(ctx: Context, msg: Any) -> None:
    group = _found_group(ctx, msg)
    _closable(group)
    _close_group(ctx, group, G_CLOSED)


def msg_pause_group(ctx: Context, msg: Any) -> None:
    group = _found_group(ctx, msg)
    if group.state == G_CLOSED:
        raise errors.deployment(15, "Group already closed")
    if group.state == G_PAUSED:
        raise errors.deployment(17, "Group paused")
    pause_group(ctx, group)
    market.on_group_closed(ctx, group.id, broke=False)


def pause_group(ctx: Context, group: group_pb2.Group) -> None:
    _save_group(ctx, group, G_PAUSED)
    ctx.emit_typed(event_pb2.EventGroupPaused(id=group.id))


def msg_start_group(ctx: Context, msg: Any) -> None:
    group = _found_group(ctx, msg)
    if group.state == G_CLOSED:
        raise errors.deployment(15, "Group already closed")
    if group.state == G_OPEN:
        raise errors.deployment(16, "Group open")
    parent = get(ctx, msg.id)
    opened = _save_group(ctx, group, G_OPEN)
    ctx.emit_typed(event_pb2.EventGroupStarted(id=group.id))
    assert parent is not None
    market.create_order(ctx, opened.id, opened.group_spec, parent)


escrow.account_hooks.append(on_account_closed)
