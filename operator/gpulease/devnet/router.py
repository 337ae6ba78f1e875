"""Which handler runs which message, and the events around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from gpulease.devnet import (
    ante,
    authz,
    bank,
    bme,
    certs,
    deployment,
    errors,
    escrow,
    feegrant,
    market,
    oracle,
    providers,
    registry,
)
from gpulease.devnet.context import Context

Handler = Callable[[Context, Any], Any]


def _exec(ctx: Context, msg: Any) -> Message:
    return authz.msg_exec(ctx, msg, signer_of=ante.signer_of, run=run)


# Modules of the real chain that this one has no part of: their messages can be granted there, so here too.
_ELSEWHERE = ("cosmos.gov.", "cosmos.staking.", "cosmos.distribution.", "cosmos.slashing.", "cosmos.bank.", "ibc.")


def _grant(ctx: Context, msg: Any) -> None:
    def handled(url: str) -> bool:
        name = url.removeprefix("/")
        return name in HANDLERS or (name.startswith(_ELSEWHERE) and ".Msg" in name)

    authz.msg_grant(ctx, msg, handled=handled)


HANDLERS: dict[str, Handler] = {
    "cosmos.bank.v1beta1.MsgSend": bank.msg_send,
    "cosmos.bank.v1beta1.MsgMultiSend": bank.msg_multi_send,
    "cosmos.authz.v1beta1.MsgGrant": _grant,
    "cosmos.authz.v1beta1.MsgRevoke": authz.msg_revoke,
    "cosmos.authz.v1beta1.MsgExec": _exec,
    "cosmos.feegrant.v1beta1.MsgGrantAllowance": feegrant.msg_grant,
    "cosmos.feegrant.v1beta1.MsgRevokeAllowance": feegrant.msg_revoke,
    "akash.deployment.v1beta4.MsgCreateDeployment": deployment.msg_create,
    "akash.deployment.v1beta4.MsgUpdateDeployment": deployment.msg_update,
    "akash.deployment.v1beta4.MsgCloseDeployment": deployment.msg_close,
    "akash.deployment.v1beta4.MsgCloseGroup": deployment.msg_close_group,
    "akash.deployment.v1beta4.MsgPauseGroup": deployment.msg_pause_group,
    "akash.deployment.v1beta4.MsgStartGroup": deployment.msg_start_group,
    "akash.market.v1beta5.MsgCreateBid": market.msg_create_bid,
    "akash.market.v1beta5.MsgCloseBid": market.msg_close_bid,
    "akash.market.v1beta5.MsgCreateLease": market.msg_create_lease,
    "akash.market.v1beta5.MsgCloseLease": market.msg_close_lease,
    "akash.market.v1beta5.MsgWithdrawLease": market.msg_withdraw,
    "akash.market.v1beta5.MsgLeaseStartReclaim": market.msg_start_reclaim,
    "akash.escrow.v1.MsgAccountDeposit": escrow.msg_account_deposit,
    "akash.provider.v1beta4.MsgCreateProvider": providers.msg_create,
    "akash.provider.v1beta4.MsgUpdateProvider": providers.msg_update,
    "akash.provider.v1beta4.MsgDeleteProvider": providers.msg_delete,
    "akash.audit.v1.MsgSignProviderAttributes": providers.msg_sign,
    "akash.audit.v1.MsgDeleteProviderAttributes": providers.msg_unsign,
    "akash.oracle.v2.MsgAddPriceEntry": oracle.msg_add_price,
    "akash.bme.v1.MsgMintACT": bme.msg_mint_act,
    "akash.bme.v1.MsgBurnACT": bme.msg_burn_act,
    "akash.bme.v1.MsgBurnMint": bme.msg_burn_mint,
    "akash.cert.v1.MsgCreateCertificate": certs.msg_create,
    "akash.cert.v1.MsgRevokeCertificate": certs.msg_revoke,
}


def module_of(name: str) -> str:
    """The module attribute of the message event: the second part of the type's name."""
    return name.split(".")[1]


def run(ctx: Context, message: Message) -> Message:
    """One message, without the surrounding message event; its response, in which burn and mint name their record."""
    handler = HANDLERS.get(message.DESCRIPTOR.full_name)
    if handler is None:
        raise errors.sdk(6, f"no message handler found for /{message.DESCRIPTOR.full_name}: unknown request")
    found = handler(ctx, message)
    if isinstance(found, Message):
        return found
    return registry.message_class(f"{message.DESCRIPTOR.full_name}Response")()


def run_all(ctx: Context, messages: tuple[Message, ...]) -> list[Message]:
    """All messages of a transaction, events tagged with ``msg_index``; the first failure is the transaction's.

    Returns the responses.
    """
    responses: list[Message] = []
    for index, message in enumerate(messages):
        name = message.DESCRIPTOR.full_name
        start = len(ctx.events)
        ctx.emit(
            "message",
            (("action", f"/{name}"), ("sender", ante.signer_of(message)), ("module", module_of(name))),
        )
        try:
            responses.append(run(ctx, message))
        except errors.ModuleError as error:
            raise error.wrap(f"failed to execute message; message index: {index}") from error
        ctx.events[start:] = [e.with_attribute("msg_index", str(index)) for e in ctx.events[start:]]
    return responses
