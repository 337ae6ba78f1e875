"""Prices: USD per hour in the provider's table, ``uact`` per block on chain.

The block time is measured, never assumed: a price per block is only as good as the pace of the blocks. Rounding
happens in one place, up to a millionth of a ``uact``, so that a provider never sells below its table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any

from gpulease.errors import ConfigError
from gpulease.market.gpu import GpuKind, GpuWant
from gpulease.market.model import GroupSpec
from gpulease.units import MICRO, NS_PER_S, SECONDS_PER_HOUR, UACT, Dec, DecCoin

_GIB = 1 << 30
_PLACES = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class GpuPrice:
    want: GpuWant
    usd_per_hour: Decimal


@dataclass(frozen=True, slots=True)
class PriceTable:
    """USD per hour. GPU entries: the most specific that accepts a kind counts."""

    gpus: tuple[GpuPrice, ...]
    cpu_core: Decimal
    memory_gib: Decimal
    storage_gib: Decimal
    endpoint: Decimal

    def gpu(self, kind: GpuKind) -> Decimal | None:
        """USD per hour of one GPU of this kind, None when the table has no price for it."""
        fitting = [entry for entry in self.gpus if entry.want.accepts(kind)]
        if not fitting:
            return None
        best = max(fitting, key=lambda e: (e.want.model != "*", bool(e.want.ram), bool(e.want.interface)))
        return best.usd_per_hour


def parse_table(raw: Mapping[str, Any]) -> PriceTable:
    """``spec.pricing`` of a GPUProvider; ``ConfigError`` names the field that is no amount."""

    def amount(value: Any, name: str) -> Decimal:
        try:
            number = Decimal(str(value))
        except ArithmeticError:
            raise ConfigError(f"spec.pricing.{name}: {value!r} is not an amount in USD") from None
        if not number.is_finite() or number < 0:
            raise ConfigError(f"spec.pricing.{name}: {value!r} is not an amount in USD")
        return number

    gpus = tuple(
        GpuPrice(
            GpuWant(str(entry["model"]), str(entry.get("ram", "")), str(entry.get("interface", ""))),
            amount(entry["usdPerHour"], f"gpuUsdPerHour[{index}].usdPerHour"),
        )
        for index, entry in enumerate(raw.get("gpuUsdPerHour", ()))
    )
    return PriceTable(
        gpus,
        amount(raw.get("cpuUsdPerCoreHour", "0"), "cpuUsdPerCoreHour"),
        amount(raw.get("memoryUsdPerGiBHour", "0"), "memoryUsdPerGiBHour"),
        amount(raw.get("storageUsdPerGiBHour", "0"), "storageUsdPerGiBHour"),
        amount(raw.get("endpointUsdPerHour", "0"), "endpointUsdPerHour"),
    )


def usd_per_hour(spec: GroupSpec, table: PriceTable, kinds: Mapping[int, GpuKind]) -> Decimal | None:
    """What a group costs per hour with these GPU kinds by resource id; None when a kind has no price."""
    total = Decimal(0)
    for unit in spec.resources:
        need = unit.resources
        one = table.cpu_core * need.cpu_milli / 1000
        one += table.memory_gib * need.memory_bytes / _GIB
        one += table.storage_gib * sum(volume.quantity_bytes for volume in need.storage) / _GIB
        one += table.endpoint * len(need.endpoints)
        if need.gpu_units:
            price = table.gpu(kinds[need.id])
            if price is None:
                return None
            one += price * need.gpu_units
        total += one * unit.count
    return total


def per_block(usd: Decimal, block_time_ns: int) -> DecCoin:
    """USD per hour as ``uact`` per block, rounded up to 6 places, at least 0.000001."""
    exact = usd * MICRO * block_time_ns / (SECONDS_PER_HOUR * NS_PER_S)
    rounded = max(exact.quantize(_PLACES, rounding=ROUND_CEILING), _PLACES)
    return DecCoin(UACT, Dec.of(rounded))


def ceiling_per_block(max_usd_per_hour_uact: int, block_time_ns: int) -> Dec:
    """A tenant's limit in ``uact`` per hour as ``uact`` per block, rounded down to 6 places."""
    micro_per_block = max_usd_per_hour_uact * MICRO * block_time_ns // (SECONDS_PER_HOUR * NS_PER_S)
    return Dec(micro_per_block * 10**12)


def priced_models(table: PriceTable) -> Iterable[str]:
    return sorted({entry.want.model for entry in table.gpus})
