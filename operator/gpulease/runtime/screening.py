"""What the gateway answers to ``BidScreening``: the bid that this provider would make now, or why it would make none.

The rules are the bidding's own. The gateway sees the cluster as it is; promises of open bids, which the operator keeps
in its own store, are not counted, so a screening that passes can still end without a bid.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.chain.client import ChainClient
from gpulease.ids import OrderId
from gpulease.inventory.placement import CannotPlace, Placement, place
from gpulease.kube.client import Cluster
from gpulease.market import bid
from gpulease.market.attributes import storage_attributes
from gpulease.market.gpu import published
from gpulease.market.model import Attribute, GroupSpec, Order, OrderState
from gpulease.market.pricing import parse_table
from gpulease.pb.akash.provider.v1 import validation_pb2
from gpulease.runtime.specs import ProviderSpec
from gpulease.runtime.stock import NothingKnown, Reservations, Stock
from gpulease.store.journal import Journal

_PACE_BLOCKS = 100
_MOST_AUDITORS = 10
_PACE_AGE_S = 600.0


class Screening:
    """Callable with a group; ``KubeUnreachable`` or ``ChainUnreachable`` when it cannot be known."""

    def __init__(self, cluster: Cluster, chain: ChainClient, spec: ProviderSpec, address: str) -> None:
        # No promises and no faults are known here: both are in the operator's store.
        promised = Reservations(Journal(":memory:"), address)
        self._stock = Stock(cluster, promised, spec=spec, devices=NothingKnown())
        self._chain = chain
        self._spec = spec
        self._address = address
        self._table = parse_table(spec.pricing)
        self._pace: tuple[float, int] | None = None

    async def __call__(self, group: GroupSpec) -> Any:
        """A ``BidScreeningResponse``."""
        if not group.resources:
            return validation_pb2.BidScreeningResponse(passed=False, reasons=["the group asks for nothing"])
        block_time_ns = await self._block_time_ns()
        snapshot = await self._stock.snapshot(fresh_s=0.0)
        free, kinds = self._stock.free(snapshot), snapshot.kinds()

        def placed() -> Placement | CannotPlace:
            spec = self._spec
            return place(group, free, models_allowed=spec.gpu_models_allowed, overcommit=spec.overcommit)

        record = await self._chain.provider(self._address)
        offered = (*published(kinds), *storage_attributes(self._spec.storage_classes), *self._spec.attributes)
        own = record.attributes if record is not None else offered
        decision = bid.decide_bid(
            Order(OrderId("", 0, 1, 1), OrderState.OPEN, group, 0),
            terms=bid.Terms(
                address=self._address,
                attributes=own,
                audited=await self._audited(group),
                table=self._table,
                kinds=kinds,
                enabled=self._spec.bidding_enabled and not self._spec.deleting,
                models_allowed=self._spec.gpu_models_allowed,
                max_open_bids=self._spec.max_open_bids,
                reclamation_window_s=self._spec.reclamation_window_s,
                storage_classes=tuple(sorted(self._spec.storage_classes)),
            ),
            open_bids=0,
            block_time_ns=block_time_ns,
            place=placed,
        )
        if isinstance(decision, bid.NoBid):
            return validation_pb2.BidScreeningResponse(passed=False, reasons=[decision.words])
        made = validation_pb2.BidScreeningResponse(passed=True)
        made.price.denom, made.price.amount = decision.price.denom, str(decision.price.amount.raw)
        return made

    async def _audited(self, group: GroupSpec) -> dict[str, tuple[Attribute, ...]]:
        named = {*group.requirements.signed_by_all_of, *group.requirements.signed_by_any_of}
        return {
            auditor: await self._chain.audited_attributes(self._address, auditor)
            for auditor in sorted(named)[:_MOST_AUDITORS]
        }

    async def _block_time_ns(self) -> int:
        """The chain's pace over its last blocks, measured now and then."""
        if self._pace is None or time.monotonic() - self._pace[0] > _PACE_AGE_S:
            tip = await self._chain.status()
            first = max(tip.earliest_height, tip.height - _PACE_BLOCKS, 1)
            if first >= tip.height:
                first = max(tip.height - 1, 1)
            older, newer = await asyncio.gather(self._chain.block(first), self._chain.block(tip.height))
            pace_ns = (newer.time_ns - older.time_ns) // max(newer.height - older.height, 1)
            self._pace = (time.monotonic(), max(pace_ns, 1_000_000))
        return self._pace[1]
