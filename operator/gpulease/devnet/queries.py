"""gRPC queries over the state, by full method name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf.message import DecodeError, Message

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.devnet import (
    addresses,
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
from gpulease.devnet.paging import indexed_page, number_key, page, state_number, text_key
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


def _order_key(id_: Any) -> bytes:
    return text_key(id_.owner) + number_key(id_.dseq, 8) + number_key(id_.gseq, 4) + number_key(id_.oseq, 4)


def _bid_key(id_: Any) -> bytes:
    return _order_key(id_) + text_key(id_.provider) + number_key(id_.bseq, 4)


def _page(
    items: Iterable[Any], req: Any, *, enum: Any, key_of: Callable[[Any], bytes], path: int, mark: bytes
) -> tuple[list[Any], Any]:
    """A page of what matches the request's filters."""
    return indexed_page(
        [x for x in items if _matches(x.id, req.filters)],
        req.pagination,
        enum=enum,
        state=req.filters.state,
        state_of=lambda x: int(x.state),
        key_of=lambda x: key_of(x.id),
        path=path,
        state_mark=mark,
    )


def _path(filters: Any) -> int:
    """Bids and leases are found through their owner (2), their provider (1) or their state (0)."""
    return 2 if filters.owner else 1 if filters.provider else 0


def _known(id_: Any, *fields: str) -> None:
    for field in fields:
        if addresses.decode(getattr(id_, field)) is None:
            raise errors.QueryError(errors.INVALID_ARGUMENT, f"invalid {field} address")


# --- akash ---------------------------------------------------------------------------------------------------------


def _deployment_answer(ctx: Context, found: deployment_pb2.Deployment) -> deployment_query.QueryDeploymentResponse:
    account = escrow.get_account(ctx, deployment._account(found.id))
    return deployment_query.QueryDeploymentResponse(
        deployment=found, groups=deployment.groups(ctx, found.id.owner, found.id.dseq), escrow_account=account
    )


def deployments(ctx: Context, req: Any) -> Any:
    chosen, paging = _page(
        deployment.all_deployments(ctx),
        req,
        enum=deployment_pb2.Deployment.State,
        key_of=lambda id_: text_key(id_.owner) + number_key(id_.dseq, 8),
        path=1 if req.filters.owner else 0,
        mark=b"",
    )
    return deployment_query.QueryDeploymentsResponse(
        deployments=[_deployment_answer(ctx, d) for d in chosen], pagination=paging
    )


def one_deployment(ctx: Context, req: Any) -> Any:
    _known(req.id, "owner")
    found = deployment.get(ctx, req.id)
    if found is None:
        raise errors.QueryError(errors.NOT_FOUND, "Deployment not found")
    return _deployment_answer(ctx, found)


def one_group(ctx: Context, req: Any) -> Any:
    _known(req.id, "owner")
    found = deployment.get_group(ctx, req.id)
    if found is None:
        raise errors.QueryError(errors.NOT_FOUND, "Group not found")
    return deployment_query.QueryGroupResponse(group=found)


def orders(ctx: Context, req: Any) -> Any:
    path = 1 if req.filters.owner else 0
    chosen, paging = _page(market.orders(ctx), req, enum=order_pb2.Order.State, key_of=_order_key, path=path, mark=b"")
    return market_query.QueryOrdersResponse(orders=chosen, pagination=paging)


def one_order(ctx: Context, req: Any) -> Any:
    _known(req.id, "owner")
    found = market.get_order(ctx, req.id)
    if found is None:
        raise errors.QueryError(errors.NOT_FOUND, "order not found")
    return market_query.QueryOrderResponse(order=found)


def _bid_answer(ctx: Context, found: bid_pb2.Bid) -> market_query.QueryBidResponse:
    account = escrow.get_account(ctx, market.bid_account(found.id))
    return market_query.QueryBidResponse(bid=found, escrow_account=account)


def bids(ctx: Context, req: Any) -> Any:
    path = _path(req.filters)
    chosen, paging = _page(market.bids(ctx), req, enum=bid_pb2.Bid.State, key_of=_bid_key, path=path, mark=b"\0")
    return market_query.QueryBidsResponse(bids=[_bid_answer(ctx, b) for b in chosen], pagination=paging)


def one_bid(ctx: Context, req: Any) -> Any:
    _known(req.id, "owner", "provider")
    found = market.get_bid(ctx, req.id)
    if found is None:
        raise errors.QueryError(errors.NOT_FOUND, "bid not found")
    return _bid_answer(ctx, found)


def _lease_answer(ctx: Context, found: lease_pb2.Lease) -> market_query.QueryLeaseResponse:
    payment = escrow.get_payment(ctx, market.lease_payment(found.id))
    return market_query.QueryLeaseResponse(lease=found, escrow_payment=payment)


def leases(ctx: Context, req: Any) -> Any:
    path = _path(req.filters)
    chosen, paging = _page(market.leases(ctx), req, enum=lease_pb2.Lease.State, key_of=_bid_key, path=path, mark=b"\0")
    return market_query.QueryLeasesResponse(leases=[_lease_answer(ctx, x) for x in chosen], pagination=paging)


def one_lease(ctx: Context, req: Any) -> Any:
    _known(req.id, "owner", "provider")
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


def _escrow_page(items: Iterable[Any], req: Any, key_of: Callable[[Any], str]) -> tuple[list[Any], Any]:
    """Accounts or payments by state; ``xid`` is a prefix of the store's key, scope included."""
    return indexed_page(
        [x for x in items if not req.xid or key_of(x.id).startswith(req.xid)],
        req.pagination,
        enum=state_pb2.State,
        state=req.state,
        state_of=lambda x: int(x.state.state),
        key_of=lambda x: key_of(x.id).encode(),
        path=0,
        state_mark=b"",
    )


def escrow_accounts(ctx: Context, req: Any) -> Any:
    chosen, paging = _escrow_page(escrow.all_accounts(ctx), req, escrow.account_key)
    return escrow_query.QueryAccountsResponse(accounts=chosen, pagination=paging)


def escrow_payments(ctx: Context, req: Any) -> Any:
    chosen, paging = _escrow_page(escrow.all_payments(ctx), req, escrow.payment_key)
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
