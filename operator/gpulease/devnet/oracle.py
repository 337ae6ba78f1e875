"""Prices fed by authorised sources and what the chain makes of them each block (akash x/oracle, v2).

A source's newest price counts until it is older than ``max_price_staleness_period``. At the end of every block the
newest prices of all live sources give median, spread and their mean time-weighted price (TWAP); the pair is healthy
while enough sources agree. What the rest of the chain calls "the price" is the TWAP of the last healthy block.
"""

from __future__ import annotations

from typing import Any

from gpulease.devnet import addresses, errors
from gpulease.devnet.context import Context
from gpulease.pb.akash.oracle.v2 import events_pb2, prices_pb2
from gpulease.units import NS_PER_S, Dec

AKT, ACT, USD = "akt", "act", "usd"
FIRST_PRICE_WINDOW_NS = 12 * NS_PER_S
_BPS = 10_000
_SOURCES = "oracle/sources"  # address -> number
_LATEST = "oracle/latest"  # (source, denom, base) -> (timestamp_ns, sequence)
_PRICES = "oracle/prices"  # (source, denom, base, timestamp_ns, sequence) -> Dec
_SEQUENCE = "oracle/sequence"  # (denom, base) -> (height, next): forgotten with the block
_AGGREGATED = "oracle/aggregated"  # (denom, base) -> AggregatedPrice
_HEALTH = "oracle/health"  # (denom, base) -> PriceHealth
_LAST = 1 << 64
Pair = tuple[str, str]
RecordKey = tuple[int, str, str, int, int]


def seconds_ns(text: str) -> int:
    """A protobuf duration's JSON text (``1.5s``) in nanoseconds."""
    whole, _, fraction = text.removesuffix("s").partition(".")
    return int(whole) * NS_PER_S + int(fraction.ljust(9, "0") or "0")


def load(ctx: Context) -> None:
    """Number the sources that genesis names, in its order."""
    for address in ctx.params["oracle"].get("sources", ()):
        if ctx.state.get(_SOURCES, address) is None:
            ctx.state.put(_SOURCES, address, len(ctx.state.table(_SOURCES)) + 1)


# --- feeding -------------------------------------------------------------------------------------------------------


def msg_add_price(ctx: Context, msg: Any) -> None:
    """One price of one source; refused when it is older than the source's last one."""
    params = ctx.params["oracle"]
    source = ctx.state.get(_SOURCES, msg.signer)
    if source is None or msg.signer not in params.get("sources", ()):
        raise errors.sdk(4, f"source {msg.signer} is not authorized oracle provider: unauthorized")
    if msg.id.denom != AKT:
        raise errors.sdk(18, f"unsupported denom {msg.id.denom}: invalid request")
    if msg.id.base_denom != USD:
        raise errors.sdk(18, f"unsupported base denom {msg.id.base_denom}: invalid request")
    price = Dec(int(msg.price or "0"))
    if not Dec() < price:
        raise errors.sdk(18, "price must be positive: invalid request")
    pair = (msg.id.denom, msg.id.base_denom)
    stamp_ns = msg.timestamp.seconds * NS_PER_S + msg.timestamp.nanos
    if stamp_ns > ctx.time_ns + seconds_ns(params.get("max_future_time_drift", "0s")):
        raise errors.sdk(18, "price timestamp is from future: invalid request")
    latest = ctx.state.get(_LATEST, (source, *pair))
    if stamp_ns < (ctx.time_ns - FIRST_PRICE_WINDOW_NS if latest is None else latest[0]):
        raise errors.sdk(18, "price timestamp is too old: invalid request")
    sequence = _next_sequence(ctx, pair)
    ctx.state.put(_PRICES, (source, *pair, stamp_ns, sequence), price)
    ctx.state.put(_LATEST, (source, *pair), (stamp_ns, sequence))
    ctx.emit_typed(events_pb2.EventPriceData(source=msg.signer, id=msg.id, price=msg.price, timestamp=msg.timestamp))


def _next_sequence(ctx: Context, pair: Pair) -> int:
    height, count = ctx.state.get(_SEQUENCE, pair) or (0, 0)
    if height != ctx.height:
        count = 0
    ctx.state.put(_SEQUENCE, pair, (ctx.height, count + 1))
    return int(count)


# --- end of block --------------------------------------------------------------------------------------------------


def end_block(ctx: Context) -> None:
    """Aggregate every pair; emits health changes first, then the new aggregated prices."""
    latest = ctx.state.table(_LATEST)
    if not latest:
        return
    named = ctx.params["oracle"].get("sources", ())
    active = {ctx.state.get(_SOURCES, address) for address in named}
    pairs: dict[Pair, list[RecordKey]] = {}
    for (source, denom, base), (stamp_ns, sequence) in latest.items():
        if source in active:
            pairs.setdefault((denom, base), []).append((source, denom, base, stamp_ns, sequence))
    fresh: list[prices_pb2.AggregatedPrice] = []
    for pair in sorted(pairs):
        aggregated = _aggregate(ctx, pair, pairs[pair])
        if _set_health(ctx, pair, len(pairs[pair]), aggregated):
            ctx.state.put(_AGGREGATED, pair, aggregated)
            fresh.append(aggregated)
    for price in fresh:
        ctx.emit_typed(events_pb2.EventAggregatedPrice(price=price))


def _aggregate(ctx: Context, pair: Pair, records: list[RecordKey]) -> prices_pb2.AggregatedPrice:
    """Zero sources in the answer: none is fresh, or no time-weighted price can be had."""
    params = ctx.params["oracle"]
    cutoff_ns = ctx.time_ns - seconds_ns(params["max_price_staleness_period"])
    live = [key for key in records if key[3] >= cutoff_ns]
    answer = prices_pb2.AggregatedPrice(denom=pair[0], twap="0", median_price="0", min_price="0", max_price="0")
    window_ns = seconds_ns(params["twap_window"])
    twaps = [t for t in (_twap(ctx, key, window_ns) for key in live) if t is not None]
    if not twaps:
        return answer
    prices = sorted((ctx.state.get(_PRICES, key) for key in live), key=lambda p: p.raw)
    low, high, middle = prices[0], prices[-1], len(prices) // 2
    median = prices[middle] if len(prices) % 2 else (prices[middle - 1] + prices[middle]) / Dec.of(2)
    answer.twap = str((Dec(sum(t.raw for t in twaps)) / Dec.of(len(twaps))).raw)
    answer.median_price = str(median.raw)
    answer.min_price, answer.max_price = str(low.raw), str(high.raw)
    answer.timestamp.FromNanoseconds(ctx.time_ns)
    answer.num_sources = len(prices)
    answer.deviation_bps = ((high - low) * _BPS / low).truncate()
    return answer


def _twap(ctx: Context, key: RecordKey, window_ns: int) -> Dec | None:
    """The source's price over the window before now, each price weighted by how long it stood."""
    base = key[:3]
    start_ns = ctx.time_ns - window_ns
    table = ctx.state.table(_PRICES)
    points = [(k[3], table[k]) for k in table.irange((*base, start_ns, 0), (*base, ctx.time_ns, _LAST), reverse=True)]
    before = next(table.irange((*base, -1, 0), (*base, start_ns, 0), (True, False), reverse=True), None)
    if before is not None:
        points.append((start_ns, table[before]))
    weighted, total_ns, until_ns = 0, 0, ctx.time_ns
    for stamp_ns, price in points:
        weighted += price.raw * (until_ns - stamp_ns)
        total_ns += until_ns - stamp_ns
        until_ns = stamp_ns
    return Dec(weighted) / Dec.of(total_ns) if total_ns else None


def _set_health(ctx: Context, pair: Pair, sources: int, aggregated: prices_pb2.AggregatedPrice) -> bool:
    params = ctx.params["oracle"]
    least, most_bps = int(params["min_price_sources"]), int(params["max_price_deviation_bps"])
    health = prices_pb2.PriceHealth(
        denom=pair[0],
        total_sources=sources,
        total_healthy_sources=aggregated.num_sources,
        has_min_sources=aggregated.num_sources >= least,
        deviation_ok=aggregated.deviation_bps <= most_bps,
    )
    if not health.has_min_sources:
        health.failure_reason.append(f"insufficient price sources: {aggregated.num_sources} < {least}")
    if not health.deviation_ok:
        health.failure_reason.append(f"price deviation too high: {aggregated.deviation_bps}bps > {most_bps}bps")
    health.is_healthy = health.has_min_sources and health.deviation_ok
    key = (pair[0], USD)
    before = ctx.state.get(_HEALTH, key)
    ctx.state.put(_HEALTH, key, health)
    if before is None or before.is_healthy != health.is_healthy:
        id_ = prices_pb2.DataID(denom=pair[0], base_denom=USD)
        if health.is_healthy:
            ctx.emit_typed(events_pb2.EventPriceRecovered(id=id_, height=ctx.height))
        else:
            ctx.emit_typed(events_pb2.EventPriceStaled(id=id_))
    return bool(health.is_healthy) and aggregated.num_sources > 0


# --- reading -------------------------------------------------------------------------------------------------------


def price(ctx: Context, denom: str) -> Dec:
    """USD per unit; ACT is always 1. ``ModuleError`` oracle.v2/4 while the pair is not healthy."""
    denom = denom.removeprefix("u") if denom in ("uakt", "uact") else denom
    if denom == ACT:
        return Dec.of(1)
    key = (denom, USD)
    health = ctx.state.get(_HEALTH, key)
    if health is None:
        raise _stalled(f"{denom}/{USD}", "PriceHealth")
    if not health.is_healthy:
        raise errors.ModuleError("oracle.v2", 4, "price stalled")
    found = ctx.state.get(_AGGREGATED, key)
    if found is None:
        raise _stalled(f"{denom}/{USD}", "AggregatedPrice")
    return Dec(int(found.twap))


def _stalled(key: str, kind: str) -> errors.ModuleError:
    missing = f"collections: not found: key '{key}' of type github.com/cosmos/gogoproto/akash.oracle.v2.{kind}"
    return errors.ModuleError("oracle.v2", 4, f"{missing}: price stalled")


def price_or_none(ctx: Context, denom: str) -> Dec | None:
    """As :func:`price`, None where there is none."""
    health = ctx.state.get(_HEALTH, (denom.removeprefix("u"), USD))
    if health is None and denom.removeprefix("u") != ACT:
        return None
    try:
        return price(ctx, denom)
    except errors.ModuleError:
        return None


def aggregated(ctx: Context, denom: str) -> tuple[Any, Any]:
    """(AggregatedPrice, PriceHealth) of a denomination in USD; None for what has never been computed."""
    return ctx.state.get(_AGGREGATED, (denom, USD)), ctx.state.get(_HEALTH, (denom, USD))


def records(ctx: Context) -> list[tuple[RecordKey, Dec]]:
    """All kept prices in key order: source, pair, time, sequence."""
    return list(ctx.state.table(_PRICES).items())


def prune(ctx: Context) -> None:
    """Forget prices past their retention, at most ``max_prune_per_epoch`` of them."""
    params = ctx.params["oracle"]
    cutoff_ns = ctx.time_ns - seconds_ns(params["price_retention"])
    left = int(params["max_prune_per_epoch"])
    for base in list(ctx.state.table(_LATEST)):
        old = list(ctx.state.table(_PRICES).irange((*base, -1, 0), (*base, cutoff_ns, _LAST)))[:left]
        for key in old:
            ctx.state.delete(_PRICES, key)
        left -= len(old)


def is_source(address: str) -> bool:
    """Whether the text is an address, as params demand of sources."""
    return addresses.decode(address) is not None
