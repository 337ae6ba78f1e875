"""Bidding: every open order is looked at once it is seen, and every bid of ours until it is a lease or gone.

The capacity behind a bid is reserved in the journal before the bid is signed, and given back only on a positive
answer that the bid can no longer become a lease.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping

import structlog

from gpulease.chain import codec
from gpulease.chain.outbox import Priority
from gpulease.errors import ChainError
from gpulease.ids import LeaseId, OrderId
from gpulease.inventory.placement import CannotPlace, Placement, place
from gpulease.market import bid as bidding
from gpulease.market.gpu import GpuKind
from gpulease.market.model import Attribute, BidState, Order, OrderState
from gpulease.runtime.provider import Providers, ProviderSite
from gpulease.runtime.work import BidKey, OrderKey
from gpulease.units import UACT, UAKT, Coin
from gpulease.workload.names import lease_namespace

log = structlog.get_logger(__name__)
BID_DEPOSIT = 500_000
"""In micro-units of either denomination: the chain's ``bid_min_deposits``."""
REASON_BID_TIMEOUT = 10002
"""akash.market.v1 LeaseClosedReason of a bid that its provider gives up."""
_MOST_REMEMBERED = 4096
_MOST_AUDITORS = 32


class Market:
    """Bids of all providers of this operator. ``declined_total`` counts by reason, each order once per reason.

    ``not_won_total`` counts by provider and outcome: ``outbid``, ``ended`` (the order, without a winner that was seen),
    ``failed`` (the chain refused the bid).
    """

    def __init__(self, providers: Providers) -> None:
        self._providers = providers
        self.declined_total: Counter[str] = Counter()
        self.bids_total = 0
        self.not_won_total: Counter[tuple[str, str]] = Counter()
        self._last_reason: OrderedDict[tuple[str, OrderId], str] = OrderedDict()

    # --- orders ------------------------------------------------------------------------------------------------------

    async def look_at_order(self, key: OrderKey) -> float | None:
        """Decide on one order; returns seconds until it should be looked at again."""
        site = self._providers.by_name.get(key.provider)
        if site is None:
            return None
        if not site.registered or site.session.problem is not None:
            return 1.0
        bid_id = key.order.bid(site.address)
        entry = site.session.outcome(_bid_key(bid_id))
        if entry is not None and entry.problem is None:
            return None
        order = await site.session.client.order(key.order)
        if order is None or order.state is not OrderState.OPEN:
            self._last_reason.pop((site.address, key.order), None)
            return None
        if await self._bid_before(site, bid_id):
            return None
        if entry is not None:
            log.warning("bid failed", order=str(key.order), problem=entry.problem)
        decision = await self._decide(site, order)
        if isinstance(decision, bidding.NoBid):
            self._decline(site, order.id, decision)
            return None
        self._bid(site, order, decision)
        return None

    async def _bid_before(self, site: ProviderSite, bid_id: LeaseId) -> bool:
        """A bid on chain that the journal does not know of: its store was lost. One bid per order is all there is."""
        found = await site.session.client.bid(bid_id)
        if found is None:
            return False
        if found.state is BidState.OPEN and site.stock.reservations.get(str(bid_id)) is None:
            log.warning("bid without a reservation is given up", bid=str(bid_id))
            self._close_bid(site, bid_id)
        return True

    async def _decide(self, site: ProviderSite, order: Order) -> bidding.Bid | bidding.NoBid:
        audited = await self._audited(site, order)
        snapshot = await site.stock.snapshot()
        # No await from here to the reservation: two orders must not be promised the same GPU.
        held = site.stock.reservations
        bid_id = order.id.bid(site.address)
        held.release(str(bid_id))

        def place_now() -> Placement | CannotPlace:
            return place(
                order.spec,
                site.stock.free(snapshot),
                models_allowed=site.spec.gpu_models_allowed,
                overcommit=site.spec.overcommit,
            )

        decision = bidding.decide_bid(
            order,
            terms=_terms(site, audited, snapshot.kinds()),
            open_bids=held.open_count(),
            block_time_ns=site.session.tip.block_time_ns,
            place=place_now,
        )
        if isinstance(decision, bidding.Bid):
            held.hold(str(bid_id), lease_namespace(bid_id), decision.placement)
        return decision

    async def _audited(self, site: ProviderSite, order: Order) -> dict[str, tuple[Attribute, ...]]:
        """What the auditors that the order names have signed of ours."""
        asked = {*order.spec.requirements.signed_by_all_of, *order.spec.requirements.signed_by_any_of}
        return {
            auditor: await site.session.client.audited_attributes(site.address, auditor)
            for auditor in sorted(asked)[:_MOST_AUDITORS]
        }

    def _bid(self, site: ProviderSite, order: Order, decision: bidding.Bid) -> None:
        bid_id = order.id.bid(site.address)
        deposit = Coin(UACT if site.spec.deposit_denom == UACT else UAKT, BID_DEPOSIT)
        site.session.send(
            site.key,
            _bid_key(bid_id),
            "bid",
            codec.create_bid(
                bid_id, price=decision.price, deposit=deposit, reclamation_window_s=site.spec.reclamation_window_s
            ),
            priority=Priority.MARKET,
            then=BidKey(bid_id),
        )
        self.bids_total += 1
        self._last_reason.pop((site.address, order.id), None)
        log.info("bid", order=str(order.id), price=str(decision.price), nodes=sorted(decision.placement.nodes))

    def _decline(self, site: ProviderSite, order: OrderId, decision: bidding.NoBid) -> None:
        known = self._last_reason.get((site.address, order))
        site.last_declined = f"{order}: {decision.words}"
        if known != decision.reason.value:
            self.declined_total[decision.reason.value] += 1
            self._last_reason[site.address, order] = decision.reason.value
            if len(self._last_reason) > _MOST_REMEMBERED:
                self._last_reason.popitem(last=False)
            log.debug("no bid", order=str(order), reason=decision.reason.value, why=decision.words)

    # --- bids --------------------------------------------------------------------------------------------------------

    async def look_at_bid(self, key: BidKey) -> float | None:
        """What became of a bid: its reservation and its deposit come home when it cannot win any more."""
        site = self._providers.by_address(key.bid.provider)
        if site is None or site.session.problem is not None:
            return 5.0 if site is not None else None
        session, bid_id = site.session, key.bid
        bid = await session.client.bid(bid_id)
        entry = session.outcome(_bid_key(bid_id))
        if bid is None:
            if entry is not None and entry.problem is None:
                # Under way, or in a block that this node has not reached.
                return 2.0
            self._release(site, bid_id, "failed")
            return None
        if bid.state is BidState.ACTIVE:
            return None
        if bid.state is BidState.OPEN:
            order = await session.client.order(bid_id.order)
            if order is not None and order.state is not OrderState.OPEN:
                # The chain leaves losing bids open, deposit and all, when the order's group has other bids.
                self._close_bid(site, bid_id)
            return None
        try:
            lease = await session.client.lease(bid_id)
            order = await session.client.order(bid_id.order) if lease is None else None
        except ChainError:
            return 5.0
        if lease is None:
            # A losing bid that we closed ourselves is CLOSED, not LOST: then the order tells that somebody won it.
            taken = bid.state is BidState.LOST or (order is not None and order.state is OrderState.ACTIVE)
            self._release(site, bid_id, "outbid" if taken else "ended")
        return None

    def _release(self, site: ProviderSite, bid_id: LeaseId, outcome: str) -> None:
        # Only the first release finds a reservation: each bid is counted once.
        if site.stock.reservations.release(str(bid_id)):
            self.not_won_total[site.address, outcome] += 1

    def _close_bid(self, site: ProviderSite, bid_id: LeaseId) -> None:
        site.session.send(
            site.key,
            f"close-bid/lost/{bid_id}",
            "close-bid",
            codec.close_bid(bid_id, reason=REASON_BID_TIMEOUT),
            priority=Priority.MARKET,
            then=BidKey(bid_id),
        )


def _bid_key(bid_id: LeaseId) -> str:
    return f"bid/{bid_id}"


def _terms(
    site: ProviderSite, audited: Mapping[str, tuple[Attribute, ...]], kinds: tuple[GpuKind, ...]
) -> bidding.Terms:
    spec = site.spec
    return bidding.Terms(
        address=site.address,
        attributes=site.attributes,
        audited=audited,
        table=site.table,
        kinds=kinds,
        enabled=spec.bidding_enabled and not spec.deleting,
        models_allowed=spec.gpu_models_allowed,
        max_open_bids=spec.max_open_bids,
        reclamation_window_s=spec.reclamation_window_s,
        storage_classes=tuple(sorted(spec.storage_classes)),
    )
