"""gRPC queries over the state, by full method name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf.message import DecodeError, Message

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.devnet import (
    certs,
    cosmos_queries,
    deployment,
    errors,
    escrow,
    market,
    providers,
    registry,
    vault_queries,
)
from gpulease.devnet.context import Context
from gpulease.devnet.cosmos_queries import Method
from gpulease.devnet.paging import page, state_number
from gpulease.pb.akash.audit.v1 import query_pb2 as audit_query
from gpulease.pb.akash.cert.v1 import cert_pb2
from gpulease.pb.akash.cert.v1 import query_pb2 as cert_query
from gpulease.pb.akash.deployment.v1 import deployment_pb2
from gpulease.pb.akash.deployment.v1beta4 import params_pb2 as deployment_params
from gpulease.pb.akash.deployment.v1beta4 import query_pb2 as deployment_query
from gpulease.pb.akash.escrow.types.v1 import state_pb2
from gpulease.pb.akash.escrow.v1 import query_pb2 as escrow_query
from gpulease.pb.akash.market.v1 import lease_pb2
from gpulease.pb.akash.market.v1beta5 import bid_pb2, order_pb2
from gpulease.pb.akash.market.v1beta5 import params_pb2 as market_params
from gpulease.pb.akash.market.v1beta5 import query_pb2 as market_query
from gpulease.pb.akash.provider.v1beta4 import query_pb2 as provider_query

from cosmos.base.abci.v1beta1 import abci_pb2
from cosmos.base.v1beta1 import coin_pb2


def tx_data(responses: Sequence[Message]) -> bytes:
    """The TxMsgData of a successful transaction: one response per message."""
    data = abci_pb2.TxMsgData()
    for response in responses:
        data.msg_responses.append(registry.pack(response))
    return bytes(data.SerializeToString())


def run(ctx: Context, method: str, request: bytes) -> bytes:
    """Answer one query; ``QueryError`` for unknown methods, bad requests and what is not found."""
    entry = METHODS.get(method)
    if entry is None:
        raise errors.QueryError(errors.UNIMPLEMENTED, f"unknown query path {method}")
    cls, handler = entry
    try:
        message = cls.FromString(request)
    except DecodeError as error:
        raise errors.QueryError(errors.INVALID_ARGUMENT, f"bad request: {error}") from error
    return bytes(handler(ctx, message).SerializeToString())


def _matches(id_: Any, filters: Any) -> bool:
    for name in ("owner", "dseq", "gseq", "oseq", "provider"):
        if name not in filters.DESCRIPTOR.fields_by_name:
            continue
        wanted = getattr(filters, name)
        if wanted and getattr(id_, name) != wanted:
            return False
    return True


def _filtered(items: Iterable[Any], filters: Any, enum: Any) -> list[Any]:
    """Matching items, by state then key: the order of the chain's state-prefixed indexes."""
    state = state_number(enum, filters.state)
    found = [x for x in items if _matches(x.id, filters) and state in (None, x.state)]
    return sorted(found, key=lambda x: x.state)


# --- akash ---------------------------------------------------------------------------------------------------------


def _deployment_answer(ctx: Context, found: deployment_pb2.Deployment) -> deployment_query.QueryDeploymentResponse:
    account = escrow.get_account(ctx, deployment._account(found.id))
    return deployment_query.QueryDeploymentResponse(
        deployment=found, groups=deployment.groups(ctx, found.id.owner, found.id.dseq), escrow_account=account
    )


def deployments(ctx: Context, req: Any) -> Any:
    found = _filtered(deployment.all_deployments(ctx), req.filters, deployment_pb2.Deployment.State)
    chosen, paging = page(found, req.pagination)
    return deployment_query.QueryDeploymentsResponse(
        deployments=[_deployment_answer(ctx, d) for d in chosen], pagination=paging
    )


def one_deployment(ctx: Context, req: Any) -> Any:
    found = deployment.get(ctx, req.id)
    if found is None:
        raise errors.QueryError(errors.NOT_FOUND, "Deployment not found")
    return _deployment_answer(ctx, found)


def one_group(ctx: Context, req: Any) -> Any:
    found = deployment.get_group(ctx, req.id)
    if found is None:
        raise errors.QueryError(errors.NOT_FOUND, "Group not found")
    return deployment_query.QueryGroupResponse(group=found)


def orders(ctx: Context, req: Any) -> Any:
    chosen, paging = page(_filtered(market.orders(ctx), req.filters, order_pb2.Order.State), req.pagination)
    return market_query.QueryOrdersResponse(orders=chosen, pagination=paging)


def one_order(ctx: Context, req: Any) -> Any:
    found = market.get_order(ctx, req.id)
    if found is None:
        raise errors.QueryError(errors.NOT_FOUND, "order not found")
    return market_query.QueryOrderResponse(order=found)


def _bid_answer(ctx: Context, found: bid_pb2.Bid) -> market_query.QueryBidResponse:
    account = escrow.get_account(ctx, market.bid_account(found.id))
    return market_query.QueryBidResponse(bid=found, escrow_account=account)


def bids(ctx: Context, req: Any) -> Any:
    chosen, paging = page(_filtered(market.bids(ctx), req.filters, bid_pb2.Bid.State), req.pagination)
    return market_query.QueryBidsResponse(bids=[_bid_answer(ctx, b) for b in chosen], pagination=paging)


def one_bid(ctx: Context, req: Any) -> Any:
    found = market.get_bid(ctx, req.id)
    if found is None:
        raise errors.QueryError(errors.NOT_FOUND, "bid not found")
    return _bid_answer(ctx, found)


def _lease_answer(ctx: Context, found: lease_pb2.Lease) -> market_query.QueryLeaseResponse:
    payment = escrow.get_payment(ctx, market.lease_payment(found.id))
    return market_query.QueryLeaseResponse(lease=found, escrow_payment=payment)


def leases(ctx: Context, req: Any) -> Any:
    chosen, paging = page(_filtered(market.leases(ctx), req.filters, lease_pb2.Lease.State), req.pagination)
    return market_query.QueryLeasesResponse(leases=[_lease_answer(ctx, x) for x in chosen], pagination=paging)


def one_lease(ctx: Context, req: Any) -> Any:
    found = market.get_lease(ctx, req.id)
    if found is None:
        raise errors.QueryError(errors.NOT_FOUND, "lease not found")
    return _lease_answer(ctx, found)


def _market_params(ctx: Context, req: Any) -> Any:
    params = ctx.params["market"]
    answer = market_params.Params(order_max_bids=int(params["order_max_bids"]))
    answer.bid_min_deposit.CopyFrom(coin_pb2.Coin(**params["bid_min_deposit"]))
    for coin in params["bid_min_deposits"]:
        answer.bid_min_deposits.add(**coin)
    low, high = market.reclamation_bounds_ns(ctx)
    answer.min_reclamation_window.FromNanoseconds(low)
    answer.max_reclamation_window.FromNanoseconds(high)
    return market_query.QueryParamsResponse(params=answer)


def _deployment_params(ctx: Context, req: Any) -> Any:
    answer = deployment_params.Params()
    for coin in ctx.params["deployment"]["min_deposits"]:
        answer.min_deposits.add(**coin)
    return deployment_query.QueryParamsResponse(params=answer)


def escrow_accounts(ctx: Context, req: Any) -> Any:
    state = state_number(state_pb2.State, req.state)
    found = [
        a
        for a in escrow.all_accounts(ctx)
        if state in (None, a.state.state) and (not req.xid or escrow.account_key(a.id).startswith(req.xid))
    ]
    chosen, paging = page(found, req.pagination)
    return escrow_query.QueryAccountsResponse(accounts=chosen, pagination=paging)


def escrow_payments(ctx: Context, req: Any) -> Any:
    state = state_number(state_pb2.State, req.state)
    found = [
        p
        for p in escrow.all_payments(ctx)
        if state in (None, p.state.state) and (not req.xid or escrow.payment_key(p.id).startswith(req.xid))
    ]
    chosen, paging = page(found, req.pagination)
    return escrow_query.QueryPaymentsResponse(payments=chosen, pagination=paging)


def provider_list(ctx: Context, req: Any) -> Any:
    chosen, paging = page(providers.all_records(ctx), req.pagination)
    return provider_query.QueryProvidersResponse(providers=chosen, pagination=paging)


def one_provider(ctx: Context, req: Any) -> Any:
    found = providers.get(ctx, req.owner)
    if found is None:
        raise errors.QueryError(errors.NOT_FOUND, "invalid provider: address not found")
    return provider_query.QueryProviderResponse(provider=found)


def certificates(ctx: Context, req: Any) -> Any:
    state = state_number(cert_pb2.State, req.filter.state)
    found = [
        (serial, entry)
        for owner, serial, entry in certs.certificates(ctx)
        if (not req.filter.owner or owner == req.filter.owner)
        and (not req.filter.owner or not req.filter.serial or serial == req.filter.serial)
        and state in (None, entry.state)
    ]
    chosen, paging = page(found, req.pagination)
    answer = cert_query.QueryCertificatesResponse(pagination=paging)
    for serial, entry in chosen:
        answer.certificates.add(certificate=entry, serial=serial)
    return answer


def _audit(select: Callable[[Any, Any], bool]) -> Callable[[Context, Any], Any]:
    def answer(ctx: Context, req: Any) -> Any:
        found = [entry for entry in providers.audit_entries(ctx) if select(entry, req)]
        return audit_query.QueryProvidersResponse(providers=found)

    return answer


METHODS: dict[str, Method] = {
    "/akash.deployment.v1beta4.Query/Deployments": (deployment_query.QueryDeploymentsRequest, deployments),
    "/akash.deployment.v1beta4.Query/Deployment": (deployment_query.QueryDeploymentRequest, one_deployment),
    "/akash.deployment.v1beta4.Query/Group": (deployment_query.QueryGroupRequest, one_group),
    "/akash.deployment.v1beta4.Query/Params": (deployment_query.QueryParamsRequest, _deployment_params),
    "/akash.market.v1beta5.Query/Orders": (market_query.QueryOrdersRequest, orders),
    "/akash.market.v1beta5.Query/Order": (market_query.QueryOrderRequest, one_order),
    "/akash.market.v1beta5.Query/Bids": (market_query.QueryBidsRequest, bids),
    "/akash.market.v1beta5.Query/Bid": (market_query.QueryBidRequest, one_bid),
    "/akash.market.v1beta5.Query/Leases": (market_query.QueryLeasesRequest, leases),
    "/akash.market.v1beta5.Query/Lease": (market_query.QueryLeaseRequest, one_lease),
    "/akash.market.v1beta5.Query/Params": (market_query.QueryParamsRequest, _market_params),
    "/akash.escrow.v1.Query/Accounts": (escrow_query.QueryAccountsRequest, escrow_accounts),
    "/akash.escrow.v1.Query/Payments": (escrow_query.QueryPaymentsRequest, escrow_payments),
    "/akash.provider.v1beta4.Query/Providers": (provider_query.QueryProvidersRequest, provider_list),
    "/akash.provider.v1beta4.Query/Provider": (provider_query.QueryProviderRequest, one_provider),
    "/akash.cert.v1.Query/Certificates": (cert_query.QueryCertificatesRequest, certificates),
    "/akash.audit.v1.Query/AllProvidersAttributes": (
        audit_query.QueryAllProvidersAttributesRequest,
        _audit(lambda entry, req: True),
    ),
    "/akash.audit.v1.Query/ProviderAttributes": (
        audit_query.QueryProviderAttributesRequest,
        _audit(lambda entry, req: entry.owner == req.owner),
    ),
    "/akash.audit.v1.Query/ProviderAuditorAttributes": (
        audit_query.QueryProviderAuditorRequest,
        _audit(lambda entry, req: entry.owner == req.owner and entry.auditor == req.auditor),
    ),
    "/akash.audit.v1.Query/AuditorAttributes": (
        audit_query.QueryAuditorAttributesRequest,
        _audit(lambda entry, req: entry.auditor == req.auditor),
    ),
    **cosmos_queries.METHODS,
    **vault_queries.METHODS,
}
