"""Fee allowances: basic, periodic, and either of them limited to some messages (cosmossdk.io/x/feegrant)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.message import Message

from gpulease.devnet import addresses, auth, bank, errors, gotext, registry
from gpulease.devnet.context import Context
from gpulease.units import NS_PER_S, Coin

from cosmos.feegrant.v1beta1 import feegrant_pb2

_ALLOWANCES = "feegrant/allowances"
_QUEUE = "feegrant/queue"  # (expiry_ns, granter, grantee)
MAX_EXPIRED_PER_BLOCK = 200
Basic: Any = feegrant_pb2.BasicAllowance
Periodic: Any = feegrant_pb2.PeriodicAllowance
Limited: Any = feegrant_pb2.AllowedMsgAllowance


def get(ctx: Context, granter: str, grantee: str) -> feegrant_pb2.Grant | None:
    found: feegrant_pb2.Grant | None = ctx.state.get(_ALLOWANCES, (granter, grantee))
    return found


def allowances(ctx: Context) -> list[feegrant_pb2.Grant]:
    return list(ctx.state.values(_ALLOWANCES))


def _event(ctx: Context, kind: str, granter: str, grantee: str) -> None:
    ctx.emit(kind, (("granter", granter), ("grantee", grantee)))


def msg_grant(ctx: Context, msg: Any) -> None:
    """The first allowance of a pair; it stands until it is spent, has expired or is revoked."""
    if msg.granter.lower() == msg.grantee.lower():
        raise errors.sdk(7, "cannot self-grant fee authorization: invalid address")
    if get(ctx, msg.granter, msg.grantee) is not None:
        raise errors.sdk(18, "fee allowance already exists: invalid request")
    allowance = registry.unpack(msg.allowance)
    _validate(allowance)
    if auth.get(ctx, msg.grantee) is None:
        bank.refuse_blocked(msg.grantee)
        auth.create(ctx, msg.grantee)
    expiry_ns = _expiry_ns(allowance)
    if expiry_ns is not None:
        if expiry_ns < ctx.time_ns:
            raise errors.sdk(18, "expiration is before current block time: invalid request")
        ctx.state.put(_QUEUE, (expiry_ns, msg.granter, msg.grantee), True)
    grant = feegrant_pb2.Grant(granter=msg.granter, grantee=msg.grantee, allowance=registry.pack(allowance))
    ctx.state.put(_ALLOWANCES, (msg.granter, msg.grantee), grant)
    _event(ctx, "set_feegrant", msg.granter, msg.grantee)


def msg_revoke(ctx: Context, msg: Any) -> None:
    if msg.granter == msg.grantee:
        raise errors.sdk(7, "addresses must be different: invalid address")
    if get(ctx, msg.granter, msg.grantee) is None:
        raise errors.sdk(38, "fee-grant not found: not found")
    _remove(ctx, msg.granter, msg.grantee)


def _remove(ctx: Context, granter: str, grantee: str) -> None:
    grant = get(ctx, granter, grantee)
    assert grant is not None
    ctx.state.delete(_ALLOWANCES, (granter, grantee))
    expiry_ns = _expiry_ns(registry.unpack(grant.allowance))
    if expiry_ns is not None:
        # Bug of the module: the queue's entry is looked for with the two addresses swapped, so it stays; an allowance
        # granted anew goes when the old one would have expired.
        ctx.state.delete(_QUEUE, (expiry_ns, grantee, granter))
    _event(ctx, "revoke_feegrant", granter, grantee)


def end_block(ctx: Context) -> None:
    """Allowances whose time is over go, silently."""
    queue = ctx.state.table(_QUEUE)
    if not queue or queue.peekitem(0)[0][0] > ctx.time_ns:
        return
    for key in list(queue.irange((0, "", ""), (ctx.time_ns + 1, "", ""), (True, False)))[:MAX_EXPIRED_PER_BLOCK]:
        ctx.state.delete(_QUEUE, key)
        ctx.state.delete(_ALLOWANCES, key[1:])


def use(ctx: Context, granter: str, grantee: str, fee: list[Coin], messages: Sequence[Message]) -> None:
    """Charge an allowance in the ante handler; the errors name the two accounts by their raw bytes."""
    grant = get(ctx, granter, grantee)
    names = [gotext.raw_bytes(addresses.decode(address) or b"") for address in (granter, grantee)]
    prefix = f"{names[0]} does not allow to pay fees for {names[1]}"
    if grant is None:
        raise errors.sdk(38, f"{prefix}: fee-grant not found: not found")
    allowance = registry.unpack(grant.allowance)
    try:
        spent = _spend(ctx, allowance, fee, messages)
    except errors.ModuleError as error:
        raise error.wrap(prefix) from error
    if spent:
        _remove(ctx, granter, grantee)
        _event(ctx, "use_feegrant", granter, grantee)
        return
    updated = feegrant_pb2.Grant(granter=granter, grantee=grantee, allowance=registry.pack(allowance))
    ctx.state.put(_ALLOWANCES, (granter, grantee), updated)
    _event(ctx, "use_feegrant", granter, grantee)
    _event(ctx, "update_feegrant", granter, grantee)


# --- the allowances' own rules -------------------------------------------------------------------------------------


def _expiry_ns(allowance: Message) -> int | None:
    if isinstance(allowance, Limited):
        return _expiry_ns(registry.unpack(allowance.allowance))
    basic = allowance.basic if isinstance(allowance, Periodic) else allowance
    assert isinstance(basic, Basic)
    return _ns(basic.expiration) if basic.HasField("expiration") else None


def _validate(allowance: Message) -> None:
    if isinstance(allowance, Limited):
        if not allowance.HasField("allowance"):
            raise errors.ModuleError("feegrant", 5, "allowance should not be empty: no allowance")
        if not allowance.allowed_messages:
            raise errors.ModuleError("feegrant", 6, "allowed messages shouldn't be empty: allowed messages are empty")
        _validate(registry.unpack(allowance.allowance))
    elif isinstance(allowance, Periodic):
        _validate_periodic(allowance)
    elif isinstance(allowance, Basic):
        _validate_basic(allowance)
    else:
        raise errors.ModuleError("feegrant", 5, "failed to get allowance: no allowance")


def _validate_basic(allowance: Any) -> None:
    limit = _coins(allowance.spend_limit)
    if not bank.valid(limit):
        raise errors.sdk(10, f"send amount is invalid: {bank.text(limit)}: invalid coins")
    if allowance.HasField("expiration") and allowance.expiration.seconds < 0:
        raise errors.ModuleError("feegrant", 4, "expiration time cannot be negative: invalid duration")


def _validate_periodic(allowance: Any) -> None:
    _validate_basic(allowance.basic)
    limit, left = _coins(allowance.period_spend_limit), _coins(allowance.period_can_spend)
    if not bank.valid(limit):
        raise errors.sdk(10, f"spend amount is invalid: {bank.text(limit)}: invalid coins")
    if not limit:
        raise errors.sdk(10, "spend limit must be positive: invalid coins")
    if not bank.valid(left):
        raise errors.sdk(10, f"can spend amount is invalid: {bank.text(left)}: invalid coins")
    total = {c.denom for c in allowance.basic.spend_limit}
    if total and not {c.denom for c in limit} <= total:
        raise errors.sdk(10, "period spend limit has different currency than basic spend limit: invalid coins")
    if allowance.period.seconds < 0:
        raise errors.ModuleError("feegrant", 4, "negative clock step: invalid duration")


def _coins(items: Iterable[Any]) -> list[Coin]:
    return [Coin(c.denom, int(c.amount or "0")) for c in items]


def _ns(stamp: Any) -> int:
    return int(stamp.seconds) * NS_PER_S + int(stamp.nanos)


def _exceeded(words: str) -> errors.ModuleError:
    return errors.ModuleError("feegrant", 2, f"{words}: fee limit exceeded")


def _spend(ctx: Context, allowance: Message, fee: list[Coin], messages: Sequence[Message]) -> bool:
    """Take the fee from the allowance in place; True when it is used up and has to go."""
    if isinstance(allowance, Basic):
        return _spend_basic(ctx, allowance, fee)
    if isinstance(allowance, Periodic):
        return _spend_periodic(ctx, allowance, fee)
    assert isinstance(allowance, Limited)
    if not {"/" + m.DESCRIPTOR.full_name for m in messages} <= set(allowance.allowed_messages):
        raise errors.ModuleError("feegrant", 7, "message does not exist in allowed messages: message not allowed")
    inner = registry.unpack(allowance.allowance)
    spent = _spend(ctx, inner, fee, messages)
    if not spent:
        allowance.allowance.CopyFrom(registry.pack(inner))
    return spent


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
    """A new period: the whole of what is left in total where that is less than a period's limit in any coin.

    The next reset is one period after the last, or after now where that has passed as well.
    """
    fresh = _coins(allowance.period_spend_limit)
    total = _coins(allowance.basic.spend_limit)
    if total and _minus(allowance.basic.spend_limit, fresh) is None:
        fresh = total
    _replace(allowance.period_can_spend, fresh)
    period_ns = _ns(allowance.period)
    reset_ns = _ns(allowance.period_reset) + period_ns if allowance.HasField("period_reset") else 0
    if ctx.time_ns > reset_ns:
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
