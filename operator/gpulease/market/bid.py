"""To bid or not to bid on one order: a decision with a reason, whatever it is.

Checks run from the cheapest to the dearest; the first that fails names the reason, whose code is a metric label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum

from gpulease.inventory.placement import CannotPlace, Placement
from gpulease.market.attributes import auditors_ok, missing, persistent_class, too_many_volumes
from gpulease.market.gpu import GpuKind, accepted, wants
from gpulease.market.model import Attribute, Order, OrderState
from gpulease.market.pricing import PriceTable, per_block, usd_per_hour
from gpulease.units import UACT, DecCoin


class NoBidReason(Enum):
    """Why there is no bid; the values are label values of ``gpulease_orders_declined_total``."""

    DISABLED = "disabled"
    ORDER_NOT_OPEN = "order_not_open"
    OWN_ORDER = "own_order"
    OTHER_DENOM = "other_denom"
    ATTRIBUTES = "attributes_mismatch"
    AUDITOR = "auditor_missing"
    VOLUMES = "too_many_volumes"
    RECLAMATION = "reclamation_required"
    STORAGE = "storage_class_not_offered"
    MODEL = "no_matching_gpu_model"
    MODEL_NOT_SOLD = "gpu_model_not_sold"
    NO_PRICE = "no_price_for_model"
    CAPACITY = "insufficient_capacity"
    PRICE = "price_too_low"
    TOO_MANY_BIDS = "too_many_open_bids"


@dataclass(frozen=True, slots=True)
class Bid:
    price: DecCoin
    placement: Placement


@dataclass(frozen=True, slots=True)
class NoBid:
    reason: NoBidReason
    words: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What this provider sells and on which conditions."""

    address: str
    attributes: tuple[Attribute, ...]
    audited: Mapping[str, tuple[Attribute, ...]]
    table: PriceTable
    kinds: tuple[GpuKind, ...]
    enabled: bool = True
    models_allowed: tuple[str, ...] = ()
    max_open_bids: int = 100
    reclamation_window_s: int | None = None
    storage_classes: tuple[str, ...] = ()


def decide_bid(
    order: Order, *, terms: Terms, open_bids: int, block_time_ns: int, place: Callable[[], Placement | CannotPlace]
) -> Bid | NoBid:
    """``place`` is asked last: it is the only dear question."""
    refusal = _unfit(order, terms, open_bids) or _no_gpu(order, terms)
    if refusal is not None:
        return refusal
    placement = place()
    if isinstance(placement, CannotPlace):
        return NoBid(NoBidReason.CAPACITY, placement.words)
    usd = _usd(order, terms, placement)
    if usd is None:
        kinds = ", ".join(sorted({str(kind) for kinds in placement.kinds.values() for kind in kinds}))
        return NoBid(NoBidReason.NO_PRICE, f"the price table has no entry for {kinds}")
    price = per_block(usd, block_time_ns)
    ceiling = order.spec.max_price
    if ceiling.amount < price.amount:
        return NoBid(NoBidReason.PRICE, f"our price {price} per block is above the order's limit {ceiling}")
    return Bid(price, placement)


def _usd(order: Order, terms: Terms, placement: Placement) -> Decimal | None:
    """Where several kinds may be handed out, the tenant pays for the cheapest of them."""
    cheapest: dict[int, GpuKind] = {}
    for rid, kinds in placement.kinds.items():
        prices = {kind: terms.table.gpu(kind) for kind in kinds}
        priced = [(price, kind) for kind, price in prices.items() if price is not None]
        if len(priced) < len(kinds):
            return None
        cheapest[rid] = min(priced)[1]
    return usd_per_hour(order.spec, terms.table, cheapest)


def _unfit(order: Order, terms: Terms, open_bids: int) -> NoBid | None:
    if not terms.enabled:
        return NoBid(NoBidReason.DISABLED, "bidding is switched off in spec.bidding.enabled")
    if order.state is not OrderState.OPEN:
        return NoBid(NoBidReason.ORDER_NOT_OPEN, f"the order is {order.state.value}")
    if order.id.owner == terms.address:
        return NoBid(NoBidReason.OWN_ORDER, "the order is our own account's")
    if order.spec.max_price.denom != UACT:
        return NoBid(NoBidReason.OTHER_DENOM, f"the order pays in {order.spec.max_price.denom}, not in {UACT}")
    refusal = _reclamation(order, terms) or _storage(order, terms)
    if refusal is not None:
        return refusal
    if too_many_volumes(order.spec):
        return NoBid(NoBidReason.VOLUMES, "a unit asks for more volumes than are offered")
    lacking = missing(order.spec.requirements.attributes, terms.attributes)
    if lacking:
        named = ", ".join(f"{a.key}={a.value}" for a in lacking)
        return NoBid(NoBidReason.ATTRIBUTES, f"the order requires {named}")
    if not auditors_ok(order.spec.requirements, terms.audited):
        return NoBid(NoBidReason.AUDITOR, "the order requires auditors who have not signed our attributes")
    if open_bids >= terms.max_open_bids:
        return NoBid(NoBidReason.TOO_MANY_BIDS, f"{open_bids} bids are open already (spec.bidding.maxOpenBids)")
    return None


def _reclamation(order: Order, terms: Terms) -> NoBid | None:
    asked, offered = order.reclamation_min_window_s, terms.reclamation_window_s
    if asked is None or (offered is not None and offered >= asked):
        return None
    have = "none" if offered is None else f"one of {offered} s"
    words = f"the order asks for a reclamation window of at least {asked} s; ours is {have}"
    return NoBid(NoBidReason.RECLAMATION, f"{words} (spec.bidding.reclamationWindowSeconds)")


def _storage(order: Order, terms: Terms) -> NoBid | None:
    for unit in order.spec.resources:
        for volume in unit.resources.storage:
            class_ = persistent_class(volume)
            if class_ is None:
                continue
            if class_ not in terms.storage_classes:
                named = ", ".join(terms.storage_classes) or "none"
                words = f"the order asks for persistent storage of class {class_ or '(default)'}; ours are: {named}"
                return NoBid(NoBidReason.STORAGE, words)
            if unit.count > 1:
                words = "a persistent volume belongs to one replica here, and the order asks for several"
                return NoBid(NoBidReason.STORAGE, words)
    return None


def _no_gpu(order: Order, terms: Terms) -> NoBid | None:
    """A model that is not here at all is another answer than one that is taken."""
    for unit in order.spec.resources:
        if not unit.resources.gpu_units:
            continue
        asked = wants(unit.resources.gpu_attributes)
        fitting = [kind for kind in terms.kinds if accepted(kind, asked)]
        if not fitting:
            named = ", ".join(str(want) for want in asked) or "any GPU"
            have = ", ".join(str(kind) for kind in terms.kinds) or "none"
            return NoBid(NoBidReason.MODEL, f"the order asks for {named}; our GPUs are: {have}")
        if terms.models_allowed and not any(kind.model in terms.models_allowed for kind in fitting):
            return NoBid(NoBidReason.MODEL_NOT_SOLD, "spec.bidding.gpuModelsAllowed does not name the model")
    return None
