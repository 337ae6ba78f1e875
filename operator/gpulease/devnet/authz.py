"""Authorizations: generic, send-less; and the escrow's deposit authorization.

A deposit grant is accepted partially and saved with its reduced limit; it is never deleted when spent (recorded).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from gpulease.devnet import addresses, errors, registry
from gpulease.devnet.context import Context
from gpulease.pb.akash.escrow.v1 import authz_pb2 as escrow_authz
from gpulease.units import NS_PER_S, Coin

from cosmos.authz.v1beta1 import authz_pb2, event_pb2
from cosmos.authz.v1beta1 import tx_pb2 as authz_tx

_GRANTS = "authz/grants"
DEPOSIT_URL = "/akash.escrow.v1.MsgAccountDeposit"


def grant_url(authorization: Message) -> str:
    """The message type an authorization speaks for."""
    if isinstance(authorization, escrow_authz.DepositAuthorization):
        return DEPOSIT_URL
    if isinstance(authorization, authz_pb2.GenericAuthorization):
        return str(authorization.msg)
    name = "/" + authorization.DESCRIPTOR.full_name
    raise errors.sdk(2, f"{name} is not a supported authorization: tx parse error")


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


def msg_grant(ctx: Context, msg: Any) -> None:
    if msg.granter == msg.grantee:
        raise errors.ModuleError("authz", 10, "grantee and granter should be different: cannot grant to self")
    if _expired(ctx, msg.grant):
        words = "expiration must be after the current block time: expiration time of authorization"
        raise errors.ModuleError("authz", 3, words)
    url = grant_url(registry.unpack(msg.grant.authorization))
    ctx.state.put(_GRANTS, _key(msg.granter, msg.grantee, url), msg.grant)
    ctx.emit_typed(event_pb2.EventGrant(msg_type_url=url, granter=msg.granter, grantee=msg.grantee))


def msg_revoke(ctx: Context, msg: Any) -> None:
    key = _key(msg.granter, msg.grantee, msg.msg_type_url)
    if ctx.state.get(_GRANTS, key) is None:
        raise _missing(msg.granter, msg.grantee, msg.msg_type_url)
    ctx.state.delete(_GRANTS, key)
    ctx.emit_typed(event_pb2.EventRevoke(msg_type_url=msg.msg_type_url, granter=msg.granter, grantee=msg.grantee))


def _missing(granter: str, grantee: str, url: str) -> errors.ModuleError:
    return errors.ModuleError(
        "authz",
        2,
        f"failed to get grant with given granter: {granter}, grantee: {grantee} & msgType: {url} "
        ": authorization not found",
    )


def msg_exec(
    ctx: Context, msg: Any, *, signer_of: Callable[[Message], str], run: Callable[[Context, Message], Message]
) -> Message:
    """Run each inner message for its own signer; their events carry ``authz_msg_index``."""
    results: list[bytes] = []
    for index, packed in enumerate(msg.msgs):
        inner = registry.unpack(packed)
        granter = signer_of(inner)
        if granter != msg.grantee:
            grant = get(ctx, granter, msg.grantee, packed.type_url)
            if grant is None:
                raise _missing(granter, msg.grantee, packed.type_url)
        start = len(ctx.events)
        results.append(run(ctx, inner).SerializeToString(deterministic=True))
        ctx.events[start:] = [e.with_attribute("authz_msg_index", str(index)) for e in ctx.events[start:]]
    response: Message = authz_tx.MsgExecResponse(results=results)
    return response


def accept_deposit(ctx: Context, *, grantee: str, denom: str, amount: int, scope: int) -> list[tuple[str, int]]:
    """Draw up to ``amount`` from the grantee's deposit grants, in granter order; returns (granter, taken)."""
    from gpulease.devnet import bank

    taken: list[tuple[str, int]] = []
    for (granter, to, url), grant in grants(ctx):
        if to != grantee or url != DEPOSIT_URL or amount <= 0:
            continue
        authorization = registry.unpack(grant.authorization)
        if not isinstance(authorization, escrow_authz.DepositAuthorization) or scope not in authorization.scopes:
            continue
        limit = next((c for c in authorization.spend_limits if c.denom == denom), None)
        if limit is None and authorization.spend_limit.denom == denom:
            limit = authorization.spend_limit
        if limit is None:
            continue
        part = min(int(limit.amount or "0"), amount, bank.balance(ctx, granter, denom))
        if part <= 0:
            continue
        limit.amount = str(int(limit.amount) - part)
        _save(ctx, (granter, grantee), grant, authorization)
        taken.append((granter, part))
        amount -= part
    return taken


def restore_deposit(ctx: Context, *, granter: str, grantee: str, coin: Coin) -> None:
    """A refund to a granter raises the grant's limit again, where the grant still exists."""
    grant = get(ctx, granter, grantee, DEPOSIT_URL)
    if grant is None:
        return
    authorization = registry.unpack(grant.authorization)
    assert isinstance(authorization, escrow_authz.DepositAuthorization)
    limit = next((c for c in authorization.spend_limits if c.denom == coin.denom), None)
    if limit is None and authorization.spend_limit.denom == coin.denom:
        limit = authorization.spend_limit
    if limit is None:
        return
    limit.amount = str(int(limit.amount or "0") + coin.amount)
    _save(ctx, (granter, grantee), grant, authorization)


def _save(ctx: Context, pair: tuple[str, str], grant: authz_pb2.Grant, authorization: Message) -> None:
    updated = authz_pb2.Grant()
    updated.CopyFrom(grant)
    updated.authorization.CopyFrom(registry.pack(authorization))
    ctx.state.put(_GRANTS, _key(*pair, DEPOSIT_URL), updated)
    ctx.emit_typed(event_pb2.EventGrant(msg_type_url=DEPOSIT_URL, granter=pair[0], grantee=pair[1]))
