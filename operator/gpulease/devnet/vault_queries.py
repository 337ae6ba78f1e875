"""Queries of the price oracle and of burn and mint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from gpulease.devnet import addresses, bank, bme, errors, oracle
from gpulease.devnet.context import Context
from gpulease.devnet.paging import page
from gpulease.pb.akash.bme.v1 import params_pb2 as bme_params
from gpulease.pb.akash.bme.v1 import query_pb2 as bme_query
from gpulease.pb.akash.bme.v1 import types_pb2
from gpulease.pb.akash.oracle.v2 import params_pb2 as oracle_params
from gpulease.pb.akash.oracle.v2 import prices_pb2
from gpulease.pb.akash.oracle.v2 import query_pb2 as oracle_query
from gpulease.units import NS_PER_S, UACT, UAKT, Coin, Dec

from cosmos.base.v1beta1.coin_pb2 import Coin as PbCoin

_BPS = 10_000
_ENTRIES = (
    ("pending", types_pb2.ledger_record_status_pending, "pending_record"),
    ("executed", types_pb2.ledger_record_status_executed, "executed_record"),
    ("canceled", types_pb2.ledger_record_status_canceled, "canceled_record"),
)


def _coins(coins: list[Coin]) -> list[PbCoin]:
    return [PbCoin(denom=c.denom, amount=str(c.amount)) for c in coins]


# --- burn and mint -------------------------------------------------------------------------------------------------


def _bme_params(ctx: Context, req: Any) -> Any:
    return bme_query.QueryParamsResponse(params=ParseDict(dict(ctx.params["bme"]), bme_params.Params()))


def vault_state(ctx: Context, req: Any) -> Any:
    """The module's coins, with the outstanding ACT in place of its own, and all that was ever burned and minted."""
    held = {c.denom: c.amount for c in bank.balances(ctx, addresses.module("bme"))}
    held[UACT] = bank.supply(ctx, UACT)
    return bme_query.QueryVaultStateResponse(
        vault_state=types_pb2.State(
            balances=_coins([Coin(denom, held[denom]) for denom in sorted(held) if held[denom]]),
            total_burned=_coins(bme.totals(ctx, "burned")),
            total_minted=_coins(bme.totals(ctx, "minted")),
            remint_credits=_coins(bme.totals(ctx, "credit")),
        )
    )


def status(ctx: Context, req: Any) -> Any:
    """The breaker; an error while there is no price, as the real chain answers."""
    try:
        ratio = bme.collateral_ratio(ctx)
    except errors.ModuleError as error:
        raise errors.refused(error) from error
    params, breaker = ctx.params["bme"], bme.status(ctx).status
    warn, halt = (Dec.of(int(params[f"circuit_breaker_{name}_threshold"])) / Dec.of(_BPS) for name in ("warn", "halt"))
    return bme_query.QueryStatusResponse(
        status=breaker,  # type: ignore[arg-type]
        collateral_ratio=str(ratio.raw),
        warn_threshold=str(warn.raw),
        halt_threshold=str(halt.raw),
        mints_allowed=breaker < bme.HALT_CR,
        refunds_allowed=breaker < bme.HALT_ORACLE,
    )


def ledger(ctx: Context, req: Any) -> Any:
    """Requests by state, then in key order."""
    wanted = req.filters.status
    if wanted and wanted not in {types_pb2.LedgerRecordStatus.Name(number) for _, number, _ in _ENTRIES}:
        raise errors.QueryError(errors.INVALID_ARGUMENT, "invalid status value")
    found = []
    for kind, number, field in _ENTRIES:
        if wanted and wanted != types_pb2.LedgerRecordStatus.Name(number):
            continue
        for key, record in bme.records(ctx, kind):
            id_ = bme.id_of(key)
            if _selected(id_, req.filters):
                entry = bme_query.QueryLedgerRecordEntry(id=id_, status=number)
                getattr(entry, field).CopyFrom(record)
                found.append(entry)
    chosen, paging = page(found, req.pagination)
    return bme_query.QueryLedgerRecordsResponse(records=chosen, pagination=paging)


def _selected(id_: Any, filters: Any) -> bool:
    pairs = ((filters.source, id_.source), (filters.denom, id_.denom), (filters.to_denom, id_.to_denom))
    return all(not wanted or wanted == have for wanted, have in pairs)


# --- oracle --------------------------------------------------------------------------------------------------------


def _oracle_params(ctx: Context, req: Any) -> Any:
    return oracle_query.QueryParamsResponse(params=ParseDict(dict(ctx.params["oracle"]), oracle_params.Params()))


def prices(ctx: Context, req: Any) -> Any:
    """Kept prices, newest first."""
    wanted = req.filters
    low_ns, high_ns = (
        stamp.seconds * NS_PER_S + stamp.nanos if wanted.HasField(name) else None
        for name, stamp in (("start_time", wanted.start_time), ("end_time", wanted.end_time))
    )
    found = []
    for (source, denom, base, stamp_ns, sequence), price in reversed(oracle.records(ctx)):
        if wanted.asset_denom not in ("", denom) or wanted.base_denom not in ("", base):
            continue
        if (low_ns is not None and stamp_ns < low_ns) or (high_ns is not None and stamp_ns > high_ns):
            continue
        entry = prices_pb2.PriceData(state=prices_pb2.PriceDataState(price=str(price.raw)))
        entry.id.source, entry.id.denom, entry.id.base_denom, entry.id.sequence = source, denom, base, sequence
        entry.id.timestamp.FromNanoseconds(stamp_ns)
        found.append(entry)
    chosen, paging = page(found, req.pagination)
    return oracle_query.QueryPricesResponse(prices=chosen, pagination=paging)


def aggregated_price(ctx: Context, req: Any) -> Any:
    """The last healthy price and whether it still is."""
    denom = req.denom.removeprefix("u") if req.denom in (UAKT, UACT) else req.denom
    price, health = oracle.aggregated(ctx, denom)
    if price is None or health is None:
        kind = "AggregatedPrice" if price is None else "PriceHealth"
        raise errors.QueryError(
            2, f"collections: not found: key '{denom}/usd' of type github.com/cosmos/gogoproto/akash.oracle.v2.{kind}"
        )
    return oracle_query.QueryAggregatedPriceResponse(aggregated_price=price, price_health=health)


Method = tuple[type[Message], Callable[[Context, Any], Any]]

METHODS: dict[str, Method] = {
    "/akash.bme.v1.Query/Params": (bme_query.QueryParamsRequest, _bme_params),
    "/akash.bme.v1.Query/VaultState": (bme_query.QueryVaultStateRequest, vault_state),
    "/akash.bme.v1.Query/Status": (bme_query.QueryStatusRequest, status),
    "/akash.bme.v1.Query/LedgerRecords": (bme_query.QueryLedgerRecordsRequest, ledger),
    "/akash.oracle.v2.Query/Params": (oracle_query.QueryParamsRequest, _oracle_params),
    "/akash.oracle.v2.Query/Prices": (oracle_query.QueryPricesRequest, prices),
    "/akash.oracle.v2.Query/AggregatedPrice": (oracle_query.QueryAggregatedPriceRequest, aggregated_price),
}
