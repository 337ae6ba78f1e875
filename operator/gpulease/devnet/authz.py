"""Authorizations: generic, bank sends, and the escrow's deposits.

A deposit grant that pays for its grantee is accepted partially and saved with its reduced limit; it is not deleted
when spent, since a refund raises it again. The same grant used through ``MsgExec`` is all or nothing, and goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from google.protobuf.message import Message

from gpulease.devnet import addresses, auth, bank, errors, gotext, registry, validate
from gpulease.devnet.context import Context
from gpulease.pb.akash.escrow.id.v1 import id_pb2
from gpulease.pb.akash.escrow.v1 import authz_pb2 as escrow_authz
from gpulease.units import NS_PER_S, UAKT, Coin

from cosmos.authz.v1beta1 import authz_pb2, event_pb2
from cosmos.authz.v1beta1 import tx_pb2 as authz_tx
from cosmos.bank.v1beta1 import authz_pb2 as bank_authz
from cosmos.base.v1beta1 import coin_pb2

_GRANTS = "authz/grants"
DEPOSIT_URL = "/akash.escrow.v1.MsgAccountDeposit"
SEND_URL = "/cosmos.bank.v1beta1.MsgSend"
Deposits = escrow_authz.DepositAuthorization


class Accepted(NamedTuple):
    """What using an authorization leaves: an updated one, nothing to change, or nothing at all (``spent``)."""

    updated: Message | None = None
    spent: bool = False


def grant_url(authorization: Message) -> str:
    """The message type an authorization speaks for."""
    if isinstance(authorization, Deposits):
        return DEPOSIT_URL
    if isinstance(authorization, bank_authz.SendAuthorization):
        return SEND_URL
    if isinstance(authorization, authz_pb2.GenericAuthorization):
        return str(authorization.msg)
    name = "/" + authorization.DESCRIPTOR.full_name
    raise errors.sdk(2, f"no concrete type registered for type URL {name} against interface *authz.Authorization")


def _key(granter: str, grantee: str, url: str) -> tuple[bytes, bytes, str]:
    """Grants are kept in the byte order of the raw addresses: that is the order deposits are drawn in."""
    return (addresses.decode(granter) or b"", addresses.decode(grantee) or b"", url)


def _expired(ctx: Context, grant: authz_pb2.Grant) -> bool:
    if not grant.HasField("expiration"):
        return False
    return bool(grant.expiration.seconds * NS_PER_S + grant.expiration.nanos <= ctx.time_ns)


def get(ctx: Context, granter: str, grantee: str, url: str) -> authz_pb2.Grant | None:
    grant: authz_pb2.Grant | None = ctx.state.get(_GRANTS, _key(granter, grantee, url))
    return None if grant is None or _expired(ctx, grant) else grant


def grants(ctx: Context) -> list[tuple[tuple[str, str, str], authz_pb2.Grant]]:
    return [
        ((addresses.encode(granter), addresses.encode(grantee), url), grant)
        for (granter, grantee, url), grant in ctx.state.table(_GRANTS).items()
        if not _expired(ctx, grant)
    ]


def _validate(authorization: Message) -> None:
    """An authorization's own ValidateBasic."""
    if isinstance(authorization, authz_pb2.GenericAuthorization):
        if not authorization.msg:
            raise errors.undefined("msg type cannot be empty")
    elif isinstance(authorization, bank_authz.SendAuthorization):
        limit = _coins(authorization.spend_limit)
        if not limit:
            raise errors.sdk(10, "spend limit cannot be nil: invalid coins")
        if any(c.amount <= 0 for c in limit):
            raise errors.sdk(10, "spend limit must be positive: invalid coins")
        if len(set(authorization.allow_list)) != len(authorization.allow_list):
            raise errors.ModuleError("bank", 8, "duplicate entry")
    elif isinstance(authorization, Deposits):
        _validate_deposits(authorization)


def _validate_deposits(authorization: Deposits) -> None:
    if not authorization.scopes:
        raise errors.escrow(17, "empty scope: invalid authz scope")
    for index, scope in enumerate(authorization.scopes):
        if scope not in (Deposits.deployment, Deposits.bid):
            name = Deposits.Scope.Name(scope) if scope in Deposits.Scope.values() else str(scope)
            raise errors.escrow(17, f'invalid scope "{name}": invalid authz scope')
        if scope in authorization.scopes[:index]:
            raise errors.escrow(17, f'duplicate scope "{Deposits.Scope.Name(scope)}": invalid authz scope')
    if authorization.HasField("spend_limit") and int(authorization.spend_limit.amount or "0") < 0:
        raise errors.sdk(10, "spend limit is not valid: invalid coins")
    if not bank.valid(_coins(authorization.spend_limits)):
        raise errors.sdk(10, "spend limits are not valid: invalid coins")


def _coins(items: Iterable[Any]) -> list[Coin]:
    return [Coin(c.denom, int(c.amount or "0")) for c in items]


def msg_grant(ctx: Context, msg: Any, *, handled: Callable[[str], bool]) -> None:
    """``handled`` tells whether the chain runs messages of a type URL; others cannot be granted."""
    _distinct(msg.granter, msg.grantee)
    authorization = registry.unpack(msg.grant.authorization)
    _validate(authorization)
    if auth.get(ctx, msg.grantee) is None:
        bank.refuse_blocked(msg.grantee)
        auth.create(ctx, msg.grantee)
    url = grant_url(authorization)
    if not handled(url):
        raise errors.sdk(29, f"{url} doesn't exist.: invalid type")
    if _expired(ctx, msg.grant):
        stamp = msg.grant.expiration
        now, end = gotext.rfc3339(ctx.time_ns), gotext.rfc3339(stamp.seconds * NS_PER_S + stamp.nanos)
        words = f"expiration must be after the current block time ({now}), got {end}"
        raise errors.ModuleError(
            "authz", 3, f"{words}: expiration time of authorization should be more than current time"
        )
    ctx.state.put(_GRANTS, _key(msg.granter, msg.grantee, url), msg.grant)
    ctx.emit_typed(event_pb2.EventGrant(msg_type_url=url, granter=msg.granter, grantee=msg.grantee))


def _distinct(granter: str, grantee: str) -> None:
    if granter.lower() == grantee.lower():
        raise errors.ModuleError("authz", 7, "grantee and granter should be different")


def msg_revoke(ctx: Context, msg: Any) -> None:
    _distinct(msg.granter, msg.grantee)
    if not msg.msg_type_url:
        raise errors.sdk(18, "missing msg method name: invalid request")
    if get(ctx, msg.granter, msg.grantee, msg.msg_type_url) is None:
        granter, grantee, url = _key(msg.granter, msg.grantee, msg.msg_type_url)
        stored = b"\x01" + bytes([len(granter)]) + granter + bytes([len(grantee)]) + grantee + url.encode()
        words = f"failed to delete grant with key {gotext.raw_bytes(stored)}: authorization not found"
        raise errors.ModuleError("authz", 2, words)
    _delete(ctx, msg.granter, msg.grantee, msg.msg_type_url)


def _delete(ctx: Context, granter: str, grantee: str, url: str) -> None:
    ctx.state.delete(_GRANTS, _key(granter, grantee, url))
    ctx.emit_typed(event_pb2.EventRevoke(msg_type_url=url, granter=granter, grantee=grantee))


def msg_exec(
    ctx: Context, msg: Any, *, signer_of: Callable[[Message], str], run: Callable[[Context, Message], Message]
) -> Message:
    """Run each inner message for its own signer; their events carry ``authz_msg_index``."""
    if not msg.msgs:
        raise errors.sdk(18, "messages cannot be empty: invalid request")
    inner = [registry.unpack(packed) for packed in msg.msgs]
    for index, message in enumerate(inner):
        try:
            validate.check(message)
        except errors.ModuleError as error:
            raise error.wrap(f"msg {index}") from error
    results: list[bytes] = []
    for index, message in enumerate(inner):
        granter = signer_of(message)
        if granter != msg.grantee:
            _use(ctx, granter, msg.grantee, message)
        start = len(ctx.events)
        try:
            response = run(ctx, message)
        except errors.ModuleError as error:
            raise error.wrap(f"failed to execute message; message {gotext.message_text(message)}") from error
        results.append(response.SerializeToString(deterministic=True))
        ctx.events[start:] = [e.with_attribute("authz_msg_index", str(index)) for e in ctx.events[start:]]
    answer: Message = authz_tx.MsgExecResponse(results=results)
    return answer


def _use(ctx: Context, granter: str, grantee: str, message: Message) -> None:
    url = "/" + message.DESCRIPTOR.full_name
    grant = get(ctx, granter, grantee, url)
    if grant is None:
        words = f"failed to get grant with given granter: {granter}, grantee: {grantee} & msgType: {url} "
        raise errors.ModuleError("authz", 2, f"{words}: authorization not found")
    accepted = _accept(registry.unpack(grant.authorization), message)
    if accepted.spent:
        _delete(ctx, granter, grantee, url)
    elif accepted.updated is not None:
        _store(ctx, (granter, grantee, url), grant, accepted.updated)


def _accept(authorization: Message, message: Any) -> Accepted:
    """``Authorization.Accept``: the error it gives, or what is left of it."""
    if isinstance(authorization, bank_authz.SendAuthorization):
        return _accept_send(authorization, message)
    if isinstance(authorization, Deposits):
        amount = message.deposit.amount
        _check_scope(authorization, message.id.scope)
        taken, left = _draw(authorization, amount.denom, int(amount.amount or "0"))
        if taken is None:
            raise errors.sdk(4, "unauthorized")
        if taken < int(amount.amount or "0"):
            raise errors.sdk(5, "insufficient funds")
        return Accepted(_with_limits(authorization, left), spent=not left)
    return Accepted()


def _accept_send(authorization: bank_authz.SendAuthorization, message: Any) -> Accepted:
    left = {c.denom: int(c.amount) for c in authorization.spend_limit}
    for coin in message.amount:
        left[coin.denom] = left.get(coin.denom, 0) - int(coin.amount or "0")
    if any(amount < 0 for amount in left.values()):
        raise errors.sdk(5, "requested amount is more than spend limit: insufficient funds")
    if authorization.allow_list and message.to_address not in authorization.allow_list:
        raise errors.sdk(4, f"cannot send to {message.to_address} address: unauthorized")
    updated = bank_authz.SendAuthorization(allow_list=authorization.allow_list)
    for denom in sorted(left):
        if left[denom]:
            updated.spend_limit.add(denom=denom, amount=str(left[denom]))
    return Accepted(updated, spent=not updated.spend_limit)


# --- deposits ------------------------------------------------------------------------------------------------------


def _check_scope(authorization: Deposits, scope: int) -> None:
    wanted = {id_pb2.deployment: Deposits.deployment, id_pb2.bid: Deposits.bid}.get(scope)  # type: ignore[call-overload]
    if wanted is None or wanted not in authorization.scopes:
        raise errors.escrow(15, "unauthorized deposit scope")


def _limits(authorization: Deposits) -> dict[str, int]:
    """Limits by denomination, the older single limit added to its own."""
    limits = {c.denom: int(c.amount or "0") for c in authorization.spend_limits}
    single = authorization.spend_limit
    if int(single.amount or "0"):
        limits[single.denom] = limits.get(single.denom, 0) + int(single.amount)
    return limits


def _draw(authorization: Deposits, denom: str, amount: int) -> tuple[int | None, dict[str, int]]:
    """(what can be taken, at most ``amount``; the limits after it). None: the grant knows no such denomination."""
    limits = _limits(authorization)
    if denom not in limits:
        return None, limits
    taken = min(limits[denom], amount)
    limits[denom] -= taken
    return taken, {d: a for d, a in limits.items() if a}


def _with_limits(authorization: Deposits, limits: dict[str, int]) -> Deposits:
    updated = Deposits(scopes=authorization.scopes, spend_limit=coin_pb2.Coin(denom=UAKT, amount="0"))
    for denom in sorted(limits):
        updated.spend_limits.add(denom=denom, amount=str(limits[denom]))
    return updated


def accept_deposit(ctx: Context, *, grantee: str, denom: str, amount: int, scope: int) -> list[tuple[str, int]]:
    """Draw up to ``amount`` from the grantee's deposit grants, in granter order; returns (granter, taken).

    Whether a granter can pay is not asked here: the transfer that follows fails if not.
    """
    taken: list[tuple[str, int]] = []
    for (granter, to, url), grant in grants(ctx):
        if to != grantee or url != DEPOSIT_URL or amount <= 0:
            continue
        authorization = registry.unpack(grant.authorization)
        if not isinstance(authorization, Deposits):
            continue
        try:
            _check_scope(authorization, scope)
        except errors.ModuleError:
            continue
        part, left = _draw(authorization, denom, amount)
        if not part:
            continue
        _save(ctx, (granter, grantee), grant, _with_limits(authorization, left))
        taken.append((granter, part))
        amount -= part
    return taken


def restore_deposit(ctx: Context, *, granter: str, grantee: str, coin: Coin) -> None:
    """A refund to a granter raises the grant's limit again, where the grant still exists."""
    grant = get(ctx, granter, grantee, DEPOSIT_URL)
    if grant is None:
        return
    authorization = registry.unpack(grant.authorization)
    if not isinstance(authorization, Deposits):
        return
    limits = _limits(authorization)
    limits[coin.denom] = limits.get(coin.denom, 0) + coin.amount
    updated = Deposits()
    updated.CopyFrom(_with_limits(authorization, {d: a for d, a in limits.items() if a}))
    if authorization.HasField("spend_limit"):
        updated.spend_limit.CopyFrom(coin_pb2.Coin(denom=authorization.spend_limit.denom, amount="0"))
    _save(ctx, (granter, grantee), grant, updated)


def _save(ctx: Context, pair: tuple[str, str], grant: authz_pb2.Grant, authorization: Message) -> None:
    _store(ctx, (*pair, DEPOSIT_URL), grant, authorization)
    ctx.emit_typed(event_pb2.EventGrant(msg_type_url=DEPOSIT_URL, granter=pair[0], grantee=pair[1]))


def _store(ctx: Context, key: tuple[str, str, str], grant: authz_pb2.Grant, authorization: Message) -> None:
    updated = authz_pb2.Grant()
    updated.CopyFrom(grant)
    updated.authorization.CopyFrom(registry.pack(authorization))
    ctx.state.put(_GRANTS, _key(*key), updated)
