"""Block events as values: what happened to whom.

Typed events carry each field as JSON text; a block's transaction events count only for code 0, its end-block events
always. Events of unknown types are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gpulease.ids import DeploymentId, GroupId, LeaseId, OrderId


@dataclass(frozen=True, slots=True)
class OrderCreated:
    id: OrderId


@dataclass(frozen=True, slots=True)
class OrderClosed:
    id: OrderId


@dataclass(frozen=True, slots=True)
class BidCreated:
    id: LeaseId


@dataclass(frozen=True, slots=True)
class BidClosed:
    id: LeaseId


@dataclass(frozen=True, slots=True)
class LeaseCreated:
    id: LeaseId


@dataclass(frozen=True, slots=True)
class LeaseClosed:
    """``reason`` is the chain's word, for example ``lease_closed_owner``."""

    id: LeaseId
    reason: str


@dataclass(frozen=True, slots=True)
class LeaseReclaimStarted:
    id: LeaseId
    reason: str


@dataclass(frozen=True, slots=True)
class DeploymentCreated:
    id: DeploymentId


@dataclass(frozen=True, slots=True)
class DeploymentUpdated:
    id: DeploymentId


@dataclass(frozen=True, slots=True)
class DeploymentClosed:
    id: DeploymentId


@dataclass(frozen=True, slots=True)
class GroupChanged:
    """Started, paused or closed."""

    id: GroupId


@dataclass(frozen=True, slots=True)
class ProviderChanged:
    owner: str


ChainEvent = (
    OrderCreated
    | OrderClosed
    | BidCreated
    | BidClosed
    | LeaseCreated
    | LeaseClosed
    | LeaseReclaimStarted
    | DeploymentCreated
    | DeploymentUpdated
    | DeploymentClosed
    | GroupChanged
    | ProviderChanged
)


@dataclass(frozen=True, slots=True)
class RawEvent:
    """An ABCI event: its type and attributes in order."""

    type: str
    attributes: tuple[tuple[str, str], ...]

    def get(self, key: str) -> str | None:
        return next((value for name, value in self.attributes if name == key), None)


@dataclass(frozen=True, slots=True)
class TxOutcome:
    """One transaction of a block; ``hash`` is upper-case hexadecimal."""

    hash: str
    code: int
    codespace: str
    log: str
    gas_used: int
    events: tuple[RawEvent, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """One block's outcome: raw transactions for the ledger, decoded events for the decisions."""

    height: int
    time_ns: int
    txs: tuple[TxOutcome, ...]
    end_events: tuple[RawEvent, ...]

    @property
    def events(self) -> tuple[ChainEvent, ...]:
        raw: list[RawEvent] = []
        for tx in self.txs:
            if tx.code == 0:
                raw.extend(tx.events)
        raw.extend(self.end_events)
        return tuple(event for event in map(decode, raw) if event is not None)


def raw_events(entries: Iterable[Mapping[str, Any]] | None) -> tuple[RawEvent, ...]:
    """From CometBFT's JSON."""
    return tuple(
        RawEvent(
            str(entry["type"]),
            tuple((str(a["key"]), str(a.get("value") or "")) for a in entry.get("attributes") or ()),
        )
        for entry in entries or ()
    )


def _order(raw: Mapping[str, Any]) -> OrderId:
    return OrderId(str(raw["owner"]), int(raw["dseq"]), int(raw["gseq"]), int(raw["oseq"]))


def _lease(raw: Mapping[str, Any]) -> LeaseId:
    return _order(raw).bid(str(raw["provider"]))


def _deployment(raw: Mapping[str, Any]) -> DeploymentId:
    return DeploymentId(str(raw["owner"]), int(raw["dseq"]))


def _group(raw: Mapping[str, Any]) -> GroupId:
    return _deployment(raw).group(int(raw["gseq"]))


_DECODERS: dict[str, Callable[[Mapping[str, Any]], ChainEvent]] = {
    "akash.market.v1.EventOrderCreated": lambda f: OrderCreated(_order(f["id"])),
    "akash.market.v1.EventOrderClosed": lambda f: OrderClosed(_order(f["id"])),
    "akash.market.v1.EventBidCreated": lambda f: BidCreated(_lease(f["id"])),
    "akash.market.v1.EventBidClosed": lambda f: BidClosed(_lease(f["id"])),
    "akash.market.v1.EventLeaseCreated": lambda f: LeaseCreated(_lease(f["id"])),
    "akash.market.v1.EventLeaseClosed": lambda f: LeaseClosed(_lease(f["id"]), str(f.get("reason", ""))),
    "akash.market.v1.EventLeaseReclaimStarted": lambda f: LeaseReclaimStarted(
        _lease(f["id"]), str(f.get("reason", ""))
    ),
    "akash.deployment.v1.EventDeploymentCreated": lambda f: DeploymentCreated(_deployment(f["id"])),
    "akash.deployment.v1.EventDeploymentUpdated": lambda f: DeploymentUpdated(_deployment(f["id"])),
    "akash.deployment.v1.EventDeploymentClosed": lambda f: DeploymentClosed(_deployment(f["id"])),
    "akash.deployment.v1.EventGroupStarted": lambda f: GroupChanged(_group(f["id"])),
    "akash.deployment.v1.EventGroupPaused": lambda f: GroupChanged(_group(f["id"])),
    "akash.deployment.v1.EventGroupClosed": lambda f: GroupChanged(_group(f["id"])),
    "akash.provider.v1beta4.EventProviderCreated": lambda f: ProviderChanged(str(f["owner"])),
    "akash.provider.v1beta4.EventProviderUpdated": lambda f: ProviderChanged(str(f["owner"])),
}


def decode(event: RawEvent) -> ChainEvent | None:
    """The event's value, None for types that decide nothing here or that cannot be read."""
    decoder = _DECODERS.get(event.type)
    if decoder is None:
        return None
    try:
        return decoder({key: json.loads(value) for key, value in event.attributes if value[:1] in '"{[0123456789'})
    except (ValueError, KeyError, TypeError):
        return None
