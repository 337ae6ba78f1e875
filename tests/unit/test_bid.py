"""To bid or not to bid: what is offered for reclamation, storage and mixed nodes, and at which price."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from gpulease.chain import codec
from gpulease.ids import LeaseId, OrderId
from gpulease.inventory.amounts import Amounts
from gpulease.inventory.placement import Placement
from gpulease.market.attributes import storage_attributes
from gpulease.market.bid import Bid, NoBid, NoBidReason, Terms, decide_bid
from gpulease.market.gpu import GpuKind
from gpulease.market.model import Attribute, GroupSpec, Order, OrderState, Storage
from gpulease.market.pricing import parse_table
from gpulease.units import UACT, Coin, Dec, DecCoin
from tests.perf.placement_sim import group

pytestmark = pytest.mark.unit
A100, T4 = GpuKind("a100", "80Gi", "sxm"), GpuKind("t4", "16Gi", "pcie")
PRICES = {"gpuUsdPerHour": [{"model": "a100", "usdPerHour": "2"}, {"model": "t4", "usdPerHour": "0.5"}]}
TERMS = Terms("akash1p", (), {}, parse_table(PRICES), (A100, T4))
ID = OrderId("akash1tenant", 7, 1, 1)


def order(spec: GroupSpec | None = None, **changes: Any) -> Order:
    rich = DecCoin(UACT, Dec.of(10_000))
    found = spec or group(1)
    priced = replace(found, resources=tuple(replace(u, price=rich) for u in found.resources))
    return Order(ID, OrderState.OPEN, priced, 1, **changes)


def decide(of: Order, *, kinds: tuple[GpuKind, ...] = (A100,), **terms: Any) -> Bid | NoBid:
    placement = Placement({1: {"n1": 1}}, {"n1": Amounts()}, {1: kinds})
    return decide_bid(of, terms=replace(TERMS, **terms), open_bids=0, block_time_ns=6 * 10**9, place=lambda: placement)


@pytest.mark.parametrize(
    ("asked", "offered", "bids"),
    [(3600, None, False), (3600, 1800, False), (3600, 3600, True), (None, 3600, True), (None, None, True)],
)
def test_a_reclamation_window_has_to_be_long_enough(asked: int | None, offered: int | None, bids: bool) -> None:
    found = decide(order(reclamation_min_window_s=asked), reclamation_window_s=offered)
    assert isinstance(found, Bid) is bids
    if isinstance(found, NoBid):
        assert (found.reason, "reclamationWindowSeconds" in found.words) == (NoBidReason.RECLAMATION, True)


def keeping(class_: str, *, count: int = 1) -> GroupSpec:
    spec = group(1, count=count)
    unit = spec.resources[0]
    volume = Storage("data", 1 << 30, (Attribute("class", class_), Attribute("persistent", "true")))
    resources = replace(unit.resources, storage=(*unit.resources.storage, volume))
    return replace(spec, resources=(replace(unit, resources=resources),))


@pytest.mark.parametrize(
    ("class_", "count", "classes", "says"),
    [
        ("beta3", 1, ("beta3",), ""),
        ("beta3", 1, (), "ours are: none"),
        ("beta1", 1, ("beta2", "beta3"), "ours are: beta2, beta3"),
        ("beta3", 2, ("beta3",), "belongs to one replica"),
    ],
)
def test_persistent_storage_is_sold_by_class_and_to_one_replica(
    class_: str, count: int, classes: tuple[str, ...], says: str
) -> None:
    found = decide(order(keeping(class_, count=count)), storage_classes=classes)
    assert isinstance(found, NoBid) is bool(says)
    if isinstance(found, NoBid):
        assert (found.reason, says in found.words) == (NoBidReason.STORAGE, True)


def test_of_several_kinds_the_tenant_pays_for_the_cheapest() -> None:
    cheap, dear, mixed = (decide(order(), kinds=kinds) for kinds in ((T4,), (A100,), (A100, T4)))
    assert isinstance(cheap, Bid)
    assert isinstance(dear, Bid)
    assert isinstance(mixed, Bid)
    assert mixed.price == cheap.price
    assert dear.price.amount > cheap.price.amount
    unpriced = decide(order(), kinds=(A100, GpuKind("x9", "9Gi", "pcie")))
    assert isinstance(unpriced, NoBid)
    assert unpriced.reason is NoBidReason.NO_PRICE


def test_a_star_price_is_not_the_price_of_a_slice() -> None:
    table = parse_table({"gpuUsdPerHour": [{"model": "*", "usdPerHour": "1"}]})
    slice_ = GpuKind("a100-mig-1g.10gb", "10Gi", "sxm")
    assert (table.gpu(A100), table.gpu(slice_)) == (Decimal(1), None)


def test_storage_classes_are_published_as_the_market_spells_them() -> None:
    found = storage_attributes(["beta3", "beta2"])
    assert [(a.key, a.value) for a in found] == [
        ("capabilities/storage/1/class", "beta2"),
        ("capabilities/storage/1/persistent", "true"),
        ("capabilities/storage/2/class", "beta3"),
        ("capabilities/storage/2/persistent", "true"),
    ]


def test_the_window_is_in_the_bid_and_the_notice_in_the_reclaim() -> None:
    lease = LeaseId("akash1tenant", 7, 1, 1, "akash1p")
    price, deposit = DecCoin(UACT, Dec.of(1)), Coin(UACT, 500_000)
    plain: Any = codec.create_bid(lease, price=price, deposit=deposit)
    promised: Any = codec.create_bid(lease, price=price, deposit=deposit, reclamation_window_s=7200)
    assert (plain.HasField("reclamation_window"), promised.reclamation_window.seconds) == (False, 7200)
    notice: Any = codec.start_reclaim(lease, reason=10001)
    assert (notice.id.dseq, notice.reason) == (7, 10001)
