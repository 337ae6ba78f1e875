"""Queries of the cosmos modules: bank, auth, params, authz and feegrant."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import Message

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.devnet import addresses, auth, authz, bank, errors, feegrant, registry
from gpulease.devnet.context import Context
from gpulease.devnet.paging import page
from gpulease.units import Coin

from cosmos.auth.v1beta1 import auth_pb2
from cosmos.auth.v1beta1 import query_pb2 as auth_query
from cosmos.authz.v1beta1 import authz_pb2
from cosmos.authz.v1beta1 import query_pb2 as authz_query
from cosmos.bank.v1beta1 import query_pb2 as bank_query
from cosmos.base.v1beta1 import coin_pb2
from cosmos.crypto.secp256k1 import keys_pb2
from cosmos.feegrant.v1beta1 import query_pb2 as feegrant_query
from cosmos.params.v1beta1 import query_pb2 as params_query

_PERMISSIONS = {
    "bme": ("minter", "burner"),
    "bonded_tokens_pool": ("burner", "staking"),
    "gov": ("burner",),
    "mint": ("minter",),
    "not_bonded_tokens_pool": ("burner", "staking"),
    "transfer": ("minter", "burner"),
    "wasm": ("burner",),
}


def _coins(coins: Iterable[Coin]) -> list[coin_pb2.Coin]:
    return [coin_pb2.Coin(denom=c.denom, amount=str(c.amount)) for c in coins]


def _known_address(address: str) -> None:
    """auth, authz and feegrant hand the decoder's words on as they are."""
    if addresses.decode(address) is None:
        raise errors.QueryError(errors.UNKNOWN, addresses.problem(address))


def _bank_address(address: str) -> None:
    if addresses.decode(address) is None:
        raise errors.QueryError(errors.INVALID_ARGUMENT, f"invalid address: {addresses.problem(address)}")


def _known_denom(denom: str) -> None:
    if not bank.is_denom(denom):
        raise errors.QueryError(errors.INVALID_ARGUMENT, f"invalid denom: {denom}")


def balance(ctx: Context, req: Any) -> Any:
    _known_denom(req.denom)
    _bank_address(req.address)
    amount = bank.balance(ctx, req.address, req.denom)
    return bank_query.QueryBalanceResponse(balance=coin_pb2.Coin(denom=req.denom, amount=str(amount)))


def spendable_balance(ctx: Context, req: Any) -> Any:
    return bank_query.QuerySpendableBalanceByDenomResponse(balance=balance(ctx, req).balance)


def all_balances(ctx: Context, req: Any) -> Any:
    _bank_address(req.address)
    chosen, paging = page(bank.balances(ctx, req.address), req.pagination)
    return bank_query.QueryAllBalancesResponse(balances=_coins(chosen), pagination=paging)


def spendable_balances(ctx: Context, req: Any) -> Any:
    _bank_address(req.address)
    chosen, paging = page(bank.balances(ctx, req.address), req.pagination)
    return bank_query.QuerySpendableBalancesResponse(balances=_coins(chosen), pagination=paging)


def bank_params(ctx: Context, req: Any) -> Any:
    raw = ctx.params.get("bank", {}).get("params", {})
    return bank_query.QueryParamsResponse(params={"default_send_enabled": raw.get("default_send_enabled", True)})


def supply_of(ctx: Context, req: Any) -> Any:
    _known_denom(req.denom)
    amount = coin_pb2.Coin(denom=req.denom, amount=str(bank.supply(ctx, req.denom)))
    return bank_query.QuerySupplyOfResponse(amount=amount)


def total_supply(ctx: Context, req: Any) -> Any:
    chosen, paging = page(bank.supplies(ctx), req.pagination)
    return bank_query.QueryTotalSupplyResponse(supply=_coins(chosen), pagination=paging)


def account(ctx: Context, req: Any) -> Any:
    if not req.address:
        raise errors.QueryError(errors.INVALID_ARGUMENT, "Address cannot be empty")
    _known_address(req.address)
    found = auth.get(ctx, req.address)
    if found is None:
        raise errors.QueryError(errors.NOT_FOUND, f"account {req.address} not found")
    base = auth_pb2.BaseAccount(address=found.address, account_number=found.number, sequence=found.sequence)
    if found.pubkey is not None:
        base.pub_key.CopyFrom(registry.pack(keys_pb2.PubKey(key=found.pubkey)))
    inner: Message = base
    if found.module is not None:
        inner = auth_pb2.ModuleAccount(
            base_account=base, name=found.module, permissions=_PERMISSIONS.get(found.module, ())
        )
    return auth_query.QueryAccountResponse(account=registry.pack(inner))


def auth_params(ctx: Context, req: Any) -> Any:
    raw = ctx.params["auth"]["params"]
    return auth_query.QueryParamsResponse(params=auth_pb2.Params(**{k: int(v) for k, v in raw.items()}))


def subspace_params(ctx: Context, req: Any) -> Any:
    """x/params, which cosmpy asks for the block gas limit: unlimited."""
    if (req.subspace, req.key) != ("baseapp", "BlockParams"):
        raise errors.QueryError(errors.NOT_FOUND, f"subspace {req.subspace}: not found")
    answer = params_query.QueryParamsResponse()
    answer.param.subspace, answer.param.key = req.subspace, req.key
    answer.param.value = '{"max_bytes":"22020096","max_gas":"-1"}'
    return answer


def grants(ctx: Context, req: Any) -> Any:
    _known_address(req.granter)
    _known_address(req.grantee)
    found = [(key, grant) for key, grant in authz.grants(ctx) if key[:2] == (req.granter, req.grantee)]
    if req.msg_type_url:
        named = [grant for key, grant in found if key[2] == req.msg_type_url]
        if not named:
            words = f"authorization not found for {req.msg_type_url} type: authorization not found"
            raise errors.refused(errors.ModuleError("authz", 2, words))
        return authz_query.QueryGrantsResponse(grants=named)
    chosen, paging = page(found, req.pagination)
    return authz_query.QueryGrantsResponse(grants=[g for _, g in chosen], pagination=paging)


def _grants_by(index: int) -> Callable[[Context, Any], Any]:
    def answer(ctx: Context, req: Any) -> Any:
        wanted = req.granter if index == 0 else req.grantee
        _known_address(wanted)
        found = [(key, g) for key, g in authz.grants(ctx) if key[index] == wanted]
        chosen, paging = page(found, req.pagination)
        cls = authz_query.QueryGranterGrantsResponse if index == 0 else authz_query.QueryGranteeGrantsResponse
        result = cls(pagination=paging)
        for (granter, grantee, _), grant in chosen:
            entry = authz_pb2.GrantAuthorization(granter=granter, grantee=grantee, authorization=grant.authorization)
            if grant.HasField("expiration"):
                entry.expiration.CopyFrom(grant.expiration)
            result.grants.append(entry)
        return result

    return answer


def allowance(ctx: Context, req: Any) -> Any:
    _known_address(req.granter)
    _known_address(req.grantee)
    found = feegrant.get(ctx, req.granter, req.grantee)
    if found is None:
        raise errors.QueryError(errors.INTERNAL, "fee-grant not found: not found")
    return feegrant_query.QueryAllowanceResponse(allowance=found)


def allowances(ctx: Context, req: Any) -> Any:
    _known_address(req.grantee)
    found = [g for g in feegrant.allowances(ctx) if g.grantee == req.grantee]
    chosen, paging = page(found, req.pagination)
    return feegrant_query.QueryAllowancesResponse(allowances=chosen, pagination=paging)


def issued(ctx: Context, req: Any) -> Any:
    _known_address(req.granter)
    found = [g for g in feegrant.allowances(ctx) if g.granter == req.granter]
    chosen, paging = page(found, req.pagination)
    return feegrant_query.QueryAllowancesByGranterResponse(allowances=chosen, pagination=paging)


Method = tuple[type[Message], Callable[[Context, Any], Any]]

METHODS: dict[str, Method] = {
    "/cosmos.bank.v1beta1.Query/Balance": (bank_query.QueryBalanceRequest, balance),
    "/cosmos.bank.v1beta1.Query/AllBalances": (bank_query.QueryAllBalancesRequest, all_balances),
    "/cosmos.bank.v1beta1.Query/SpendableBalances": (bank_query.QuerySpendableBalancesRequest, spendable_balances),
    "/cosmos.bank.v1beta1.Query/SpendableBalanceByDenom": (
        bank_query.QuerySpendableBalanceByDenomRequest,
        spendable_balance,
    ),
    "/cosmos.bank.v1beta1.Query/Params": (bank_query.QueryParamsRequest, bank_params),
    "/cosmos.bank.v1beta1.Query/SupplyOf": (bank_query.QuerySupplyOfRequest, supply_of),
    "/cosmos.bank.v1beta1.Query/TotalSupply": (bank_query.QueryTotalSupplyRequest, total_supply),
    "/cosmos.auth.v1beta1.Query/Account": (auth_query.QueryAccountRequest, account),
    "/cosmos.auth.v1beta1.Query/Params": (auth_query.QueryParamsRequest, auth_params),
    "/cosmos.params.v1beta1.Query/Params": (params_query.QueryParamsRequest, subspace_params),
    "/cosmos.authz.v1beta1.Query/Grants": (authz_query.QueryGrantsRequest, grants),
    "/cosmos.authz.v1beta1.Query/GranterGrants": (authz_query.QueryGranterGrantsRequest, _grants_by(0)),
    "/cosmos.authz.v1beta1.Query/GranteeGrants": (authz_query.QueryGranteeGrantsRequest, _grants_by(1)),
    "/cosmos.feegrant.v1beta1.Query/Allowance": (feegrant_query.QueryAllowanceRequest, allowance),
    "/cosmos.feegrant.v1beta1.Query/AllowancesByGranter": (feegrant_query.QueryAllowancesByGranterRequest, issued),
    "/cosmos.feegrant.v1beta1.Query/Allowances": (feegrant_query.QueryAllowancesRequest, allowances),
}
