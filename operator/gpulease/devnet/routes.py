"""The REST gateway's routes: paths and query strings to gRPC methods and back to JSON."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from gpulease.devnet import errors, node_queries, queries, registry
from gpulease.devnet.chain import Devnet
from gpulease.devnet.node_queries import NodeQueries
from gpulease.devnet.render import to_json

_HTTP_OF_GRPC = {0: 200, 2: 500, 3: 400, 5: 404, 12: 501, 13: 500}

ROUTES: tuple[tuple[str, str], ...] = (
    ("/akash/deployment/v1beta4/deployments/list", "/akash.deployment.v1beta4.Query/Deployments"),
    ("/akash/deployment/v1beta4/deployments/info", "/akash.deployment.v1beta4.Query/Deployment"),
    ("/akash/deployment/v1beta4/groups/info", "/akash.deployment.v1beta4.Query/Group"),
    ("/akash/deployment/v1beta4/params", "/akash.deployment.v1beta4.Query/Params"),
    ("/akash/market/v1beta5/orders/list", "/akash.market.v1beta5.Query/Orders"),
    ("/akash/market/v1beta5/orders/info", "/akash.market.v1beta5.Query/Order"),
    ("/akash/market/v1beta5/bids/list", "/akash.market.v1beta5.Query/Bids"),
    ("/akash/market/v1beta5/bids/info", "/akash.market.v1beta5.Query/Bid"),
    ("/akash/market/v1beta5/leases/list", "/akash.market.v1beta5.Query/Leases"),
    ("/akash/market/v1beta5/leases/info", "/akash.market.v1beta5.Query/Lease"),
    ("/akash/market/v1beta5/params", "/akash.market.v1beta5.Query/Params"),
    ("/akash/escrow/v1/types/accounts", "/akash.escrow.v1.Query/Accounts"),
    ("/akash/escrow/v1/types/payments", "/akash.escrow.v1.Query/Payments"),
    ("/akash/provider/v1beta4/providers", "/akash.provider.v1beta4.Query/Providers"),
    ("/akash/provider/v1beta4/providers/{owner}", "/akash.provider.v1beta4.Query/Provider"),
    ("/akash/cert/v1/certificates/list", "/akash.cert.v1.Query/Certificates"),
    ("/akash/audit/v1/audit/attributes/list", "/akash.audit.v1.Query/AllProvidersAttributes"),
    ("/akash/audit/v1/audit/attributes/{owner}/list", "/akash.audit.v1.Query/ProviderAttributes"),
    ("/akash/audit/v1/audit/attributes/{auditor}/{owner}", "/akash.audit.v1.Query/ProviderAuditorAttributes"),
    ("/akash/provider/v1/auditor/{auditor}/list", "/akash.audit.v1.Query/AuditorAttributes"),
    ("/akash/bme/v1/params", "/akash.bme.v1.Query/Params"),
    ("/akash/bme/v1/vault", "/akash.bme.v1.Query/VaultState"),
    ("/akash/bme/v1/status", "/akash.bme.v1.Query/Status"),
    ("/akash/bme/v1/ledger", "/akash.bme.v1.Query/LedgerRecords"),
    ("/akash/oracle/v2/params", "/akash.oracle.v2.Query/Params"),
    ("/akash/oracle/v2/prices", "/akash.oracle.v2.Query/Prices"),
    ("/akash/oracle/v2/aggregated_price/{denom}", "/akash.oracle.v2.Query/AggregatedPrice"),
    ("/cosmos/bank/v1beta1/balances/{address}", "/cosmos.bank.v1beta1.Query/AllBalances"),
    ("/cosmos/bank/v1beta1/balances/{address}/by_denom", "/cosmos.bank.v1beta1.Query/Balance"),
    ("/cosmos/bank/v1beta1/spendable_balances/{address}", "/cosmos.bank.v1beta1.Query/SpendableBalances"),
    ("/cosmos/bank/v1beta1/params", "/cosmos.bank.v1beta1.Query/Params"),
    (
        "/cosmos/bank/v1beta1/spendable_balances/{address}/by_denom",
        "/cosmos.bank.v1beta1.Query/SpendableBalanceByDenom",
    ),
    ("/cosmos/bank/v1beta1/supply/by_denom", "/cosmos.bank.v1beta1.Query/SupplyOf"),
    ("/cosmos/bank/v1beta1/supply", "/cosmos.bank.v1beta1.Query/TotalSupply"),
    ("/cosmos/auth/v1beta1/accounts/{address}", "/cosmos.auth.v1beta1.Query/Account"),
    ("/cosmos/auth/v1beta1/params", "/cosmos.auth.v1beta1.Query/Params"),
    ("/cosmos/authz/v1beta1/grants", "/cosmos.authz.v1beta1.Query/Grants"),
    ("/cosmos/authz/v1beta1/grants/granter/{granter}", "/cosmos.authz.v1beta1.Query/GranterGrants"),
    ("/cosmos/authz/v1beta1/grants/grantee/{grantee}", "/cosmos.authz.v1beta1.Query/GranteeGrants"),
    ("/cosmos/feegrant/v1beta1/allowance/{granter}/{grantee}", "/cosmos.feegrant.v1beta1.Query/Allowance"),
    ("/cosmos/feegrant/v1beta1/allowances/{grantee}", "/cosmos.feegrant.v1beta1.Query/Allowances"),
    ("/cosmos/feegrant/v1beta1/issued/{granter}", "/cosmos.feegrant.v1beta1.Query/AllowancesByGranter"),
)
NODE_ROUTES: tuple[tuple[str, str], ...] = (
    ("/akash/discovery/v1/info", f"/{node_queries.DISCOVERY}/GetInfo"),
    ("/cosmos/base/node/v1beta1/config", f"/{node_queries.NODE}/Config"),
    ("/cosmos/base/tendermint/v1beta1/node_info", f"/{node_queries.TENDERMINT}/GetNodeInfo"),
    ("/cosmos/base/tendermint/v1beta1/syncing", f"/{node_queries.TENDERMINT}/GetSyncing"),
    ("/cosmos/base/tendermint/v1beta1/blocks/latest", f"/{node_queries.TENDERMINT}/GetLatestBlock"),
    ("/cosmos/base/tendermint/v1beta1/blocks/{height}", f"/{node_queries.TENDERMINT}/GetBlockByHeight"),
    ("/cosmos/base/tendermint/v1beta1/validatorsets/latest", f"/{node_queries.TENDERMINT}/GetLatestValidatorSet"),
    ("/cosmos/tx/v1beta1/txs", f"/{node_queries.TX}/GetTxsEvent"),
    ("/cosmos/tx/v1beta1/txs/{hash}", f"/{node_queries.TX}/GetTx"),
)


def _compiled(routes: tuple[tuple[str, str], ...]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple(
        (re.compile("^" + re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path) + "$"), method) for path, method in routes
    )


_COMPILED, _COMPILED_NODE = _compiled(ROUTES), _compiled(NODE_ROUTES)


def answer(chain: Devnet, path: str, query: Iterable[tuple[str, str]], *, height: int | None = None) -> tuple[int, Any]:
    """HTTP status and JSON body of one GET of a module's query, at the tip or at a kept height."""
    for pattern, method in _COMPILED:
        match = pattern.match(path)
        if match is not None:
            cls = queries.METHODS[method][0]
            return _answered(
                cls, _response_class(method), [*match.groupdict().items(), *query], _at(chain, method, height)
            )
    return 501, failure(12, "Not Implemented")


def node_answer(
    node: NodeQueries, path: str, query: Iterable[tuple[str, str]], *, height: int | None = None
) -> tuple[int, Any]:
    """The same with the node's own routes as well."""
    for pattern, method in _COMPILED_NODE:
        match = pattern.match(path)
        if match is not None:
            request, response = node.types[method]
            return _answered(request, response, [*match.groupdict().items(), *query], node.methods[method])
    return answer(node.chain, path, query, height=height)


def _at(chain: Devnet, method: str, height: int | None) -> Callable[[bytes], bytes]:
    return lambda raw: chain.query(method, raw, height=height)


def _answered(
    request_class: type[Message],
    response_class: type[Message],
    parameters: Iterable[tuple[str, str]],
    call: Callable[[bytes], bytes],
) -> tuple[int, Any]:
    try:
        request = request_class()
        for name, value in parameters:
            _set(request, name, value)
        raw = call(request.SerializeToString())
    except errors.QueryError as error:
        return http_status(error.code), failure(error.code, error.message)
    return 200, to_json(response_class.FromString(raw))


def http_status(grpc_code: int) -> int:
    return _HTTP_OF_GRPC.get(grpc_code, 500)


def failure(code: int, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "details": []}


def _response_class(method: str) -> type[Message]:
    service, _, name = method.removeprefix("/").rpartition("/")
    found = registry.service_method(service, name)
    return registry.message_class(found.output_type.full_name)


def _set(message: Any, name: str, value: str) -> None:
    """Assign a dotted query parameter; unknown names are refused as grpc-gateway does."""
    head, _, rest = name.partition(".")
    field = message.DESCRIPTOR.fields_by_name.get(head)
    if field is None:
        return
    if rest:
        _set(getattr(message, head), rest, value)
        return
    try:
        if field.label == FieldDescriptor.LABEL_REPEATED:
            getattr(message, head).append(_parsed(field, value))
        else:
            setattr(message, head, _parsed(field, value))
    except (ValueError, TypeError, KeyError) as error:
        raise errors.QueryError(errors.INVALID_ARGUMENT, f"parsing field {name!r}: {error}") from error


def _parsed(field: FieldDescriptor, value: str) -> Any:
    if field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64):
        return int(value)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        return int(value)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return value.lower() in ("1", "t", "true")
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return field.enum_type.values_by_name[value].number if not value.isdecimal() else int(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64decode(value.replace("-", "+").replace("_", "/"))
    return value
