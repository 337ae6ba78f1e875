"""Fee allowances: basic and periodic."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from gpulease.devnet import errors, registry
from gpulease.devnet.context import Context
from gpulease.units import NS_PER_S, Coin

from cosmos.feegrant.v1beta1 import feegrant_pb2

_ALLOWANCES = "feegrant/allowances"


def get(ctx: Context, granter: str, grantee: str) -> feegrant_pb2.Grant | None:
    found: feegrant_pb2.Grant | None = ctx.state.get(_ALLOWANCES, (granter, grantee))
    return found


def allowances(ctx: Context) -> list[feegrant_pb2.Grant]:
    return list(ctx.state.values(_ALLOWANCES))


def _event(ctx: Context, kind: str, granter: str, grantee: str) -> None:
    ctx.emit(kind, (("granter", granter), ("grantee", grantee)))


def msg_grant(ctx: Context, msg: Any) -> None:
    if get(ctx, msg.granter, msg.grantee) is not None:
        raise errors.sdk(18, "fee allowance already exists: invalid request")
    allowance = registry.unpack(msg.allowance)
    if isinstance(allowance, feegrant_pb2.PeriodicAllowance) and not allowance.HasField("period_reset"):
        _reset(ctx, allowance)
    grant = feegrant_pb2.Grant(granter=msg.granter, grantee=msg.grantee, allowance=registry.pack(allowance))
    ctx.state.put(_ALLOWANCES, (msg.granter, msg.grantee), grant)
    _event(ctx, "set_feegrant", msg.granter, msg.grantee)


def msg_revoke(ctx: Context, msg: Any) -> None:
    if get(ctx, msg.granter, msg.grantee) is None:
        raise errors.sdk(38, "fee-grant not found: not found")
    ctx.state.delete(_ALLOWANCES, (msg.granter, msg.grantee))
    _event(ctx, "revoke_feegrant", msg.granter, msg.grantee)


def use(ctx: Context, granter: str, grantee: str, fee: list[Coin]) -> None:
    """Charge an allowance in the ante handler; the errors name the reason after the addresses."""
    grant = get(ctx, granter, grantee)
    prefix = f"{granter} does not allow to pay fees for {grantee}"
    if grant is None:
        raise errors.sdk(38, f"{prefix}: fee-grant not found: not found")
    allowance = registry.unpack(grant.allowance)
    try:
        spent = _spend(ctx, allowance, fee)
    except errors.ModuleError as error:
        raise error.wrap(prefix) from error
    if spent:
        ctx.state.delete(_ALLOWANCES, (granter, grantee))
        _event(ctx, "use_feegrant", granter, grantee)
        _event(ctx, "revoke_feegrant", granter, grantee)
        return
    updated = feegrant_pb2.Grant(granter=granter, grantee=grantee, allowance=registry.pack(allowance))
    ctx.state.put(_ALLOWANCES, (granter, grantee), updated)
    _event(ctx, "use_feegrant", granter, grantee)
    _event(ctx, "update_feegrant", granter, grantee)


def _ns(stamp: Any) -> int:
    return int(stamp.seconds) * NS_PER_S + int(stamp.nanos)


def _exceeded(words: str) -> errors.ModuleError:
    return errors.ModuleError("feegrant", 2, f"{words}: fee limit exceeded")


def _spend(ctx: Context, allowance: Message, fee: list[Coin]) -> bool:
    """Take the fee from the allowance in place; True when it is used up and has to go."""
    if isinstance(allowance, feegrant_pb2.BasicAllowance):
        return _spend_basic(ctx, allowance, fee)
    if isinstance(allowance, feegrant_pb2.PeriodicAllowance):
        return _spend_periodic(ctx, allowance, fee)
    raise errors.sdk(18, f"{allowance.DESCRIPTOR.full_name} is not a supported allowance: invalid request")


def _spend_basic(ctx: Context, allowance: Any, fee: list[Coin]) -> bool:
    if allowance.HasField("expiration") and _ns(allowance.expiration) < ctx.time_ns:
        raise errors.ModuleError("feegrant", 3, "basic allowance: fee allowance expired")
    if not allowance.spend_limit:
        return False
    left = _minus(allowance.spend_limit, fee)
    if left is None:
        raise _exceeded("basic allowance")
    _replace(allowance.spend_limit, left)
    return not left


def _spend_periodic(ctx: Context, allowance: Any, fee: list[Coin]) -> bool:
    if allowance.basic.HasField("expiration") and _ns(allowance.basic.expiration) < ctx.time_ns:
        raise errors.ModuleError("feegrant", 3, "absolute limit: fee allowance expired")
    if not allowance.HasField("period_reset") or ctx.time_ns >= _ns(allowance.period_reset):
        _reset(ctx, allowance)
    left = _minus(allowance.period_can_spend, fee)
    if left is None:
        raise _exceeded("period limit")
    _replace(allowance.period_can_spend, left)
    if not allowance.basic.spend_limit:
        return False
    total = _minus(allowance.basic.spend_limit, fee)
    if total is None:
        raise _exceeded("absolute limit")
    _replace(allowance.basic.spend_limit, total)
    return not total


def _reset(ctx: Context, allowance: Any) -> None:
    """A new period: what may be spent is the smaller of the period's and the total limit."""
    limits = {c.denom: int(c.amount) for c in allowance.period_spend_limit}
    if allowance.basic.spend_limit:
        basic = {c.denom: int(c.amount) for c in allowance.basic.spend_limit}
        limits = {d: min(a, basic.get(d, 0)) for d, a in limits.items()}
    _replace(allowance.period_can_spend, [Coin(d, a) for d, a in sorted(limits.items()) if a])
    period_ns = _ns(allowance.period)
    start_ns = _ns(allowance.period_reset) if allowance.HasField("period_reset") else ctx.time_ns
    reset_ns = start_ns + period_ns
    if reset_ns <= ctx.time_ns:
        reset_ns = ctx.time_ns + period_ns
    allowance.period_reset.seconds, allowance.period_reset.nanos = divmod(reset_ns, NS_PER_S)


def _minus(limit: Any, fee: list[Coin]) -> list[Coin] | None:
    have = {c.denom: int(c.amount) for c in limit}
    for coin in fee:
        if have.get(coin.denom, 0) < coin.amount:
            return None
        have[coin.denom] -= coin.amount
    return [Coin(d, a) for d, a in sorted(have.items()) if a]


def _replace(field: Any, coins: list[Coin]) -> None:
    del field[:]
    for coin in coins:
        field.add(denom=coin.denom, amount=str(coin.amount))
