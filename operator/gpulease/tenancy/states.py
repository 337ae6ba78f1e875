"""What the tenant's side knows of one GPULease, and what it may do about it.

Groups, hash and manifest arrive compiled: this room never asks who wrote them (``spec.services``, an SDL or a
profile), and money limits are in ``uact``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gpulease.ids import DeploymentId, LeaseId
from gpulease.market.model import Bid, Deployment, Lease, Order, ProviderRecord
from gpulease.planning import Condition, Seen
from gpulease.units import Dec

FINALIZER = "gpulease.dev/escrow"
"""Held while a deployment of this object may hold a deposit on chain."""
DSEQ_ANNOTATION = "gpulease.dev/dseq"
"""Chosen before the first broadcast, so that a lost store cannot lead to a second deployment."""
ABANDON_ANNOTATION = "gpulease.dev/abandon"
"""``true`` releases a deleted object without closing its deployment: the documented way out."""


class TenantState(Enum):
    """``status.state`` of a GPULease."""

    PENDING = "Pending"
    ORDERED = "Ordered"
    BIDDING = "Bidding"
    LEASED = "Leased"
    DEPLOYING = "Deploying"
    RUNNING = "Running"
    CLOSING = "Closing"
    CLOSED = "Closed"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The object's spec after compilation. ``problem`` says what is wrong with it, if anything."""

    manifest_hash: bytes
    max_uact_per_block: Dec
    deposit_uact: int
    budget_uact: int
    bid_window_s: float
    gpu_words: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class WalletView:
    """``problem`` is a (reason, sentence) pair when no key could be read."""

    address: str | None
    problem: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class TxView:
    """An intent in the outbox: ``pending`` until it is included with a code or given up."""

    pending: bool
    height: int | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class ServiceView:
    name: str
    ready: int
    total: int
    uris: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GatewayView:
    """The last talk with the winner's gateway. ``sent_hash`` is the manifest it accepted."""

    sent_hash: bytes | None = None
    problem: str | None = None
    services: tuple[ServiceView, ...] | None = None
    forwarded_ports: tuple[dict[str, Any], ...] = ()
    retry_at_ns: int = 0
    trouble: tuple[str, str] | None = None
    """(reason, sentence) of why services do not come up, from the provider's cluster events."""


@dataclass(frozen=True, slots=True)
class FundsView:
    """Projected escrow at the observed height. ``top_up_uact`` is what the policy would add now."""

    spent_uact: int
    funds_uact: int
    deposited_uact: int
    run_out_height: int | None
    top_up_uact: int
    top_up_key: str
    next_check_height: int | None


@dataclass(frozen=True, slots=True)
class ObservedTenant:
    """Everything :func:`gpulease.tenancy.plan.decide` looks at; ``None`` means unknown, not absent."""

    now_ns: int
    height: int
    block_time_ns: int
    uid: str
    generation: int
    deleting: bool
    finalizer_held: bool
    abandoned: bool
    deployment_id: DeploymentId | None
    wanted: Wanted
    wallet: WalletView
    chain_problem: tuple[str, str] | None
    balances: Seen[dict[str, int]] | None = None
    deploy_tx: TxView | None = None
    lease_tx: TxView | None = None
    close_tx: TxView | None = None
    update_tx: TxView | None = None
    top_up_tx: TxView | None = None
    deployment: Seen[Deployment | None] | None = None
    deployment_absent_height: int | None = None
    """The height at which the chain first said that there is no such deployment, None while it has one."""
    orders: Seen[tuple[Order, ...]] | None = None
    bids: Seen[tuple[Bid, ...]] | None = None
    leases: Seen[tuple[Lease, ...]] | None = None
    providers: dict[str, ProviderRecord] = field(default_factory=dict)
    market_offers: str | None = None
    gateway: GatewayView = GatewayView()
    funds: FundsView | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """Take the object: finalizer and dseq annotation in one write, before anything is broadcast."""


@dataclass(frozen=True, slots=True)
class CreateDeployment:
    key: str


@dataclass(frozen=True, slots=True)
class UpdateDeployment:
    key: str


@dataclass(frozen=True, slots=True)
class CreateLease:
    bid: LeaseId
    key: str


@dataclass(frozen=True, slots=True)
class SendManifest:
    lease: LeaseId
    gateway_uri: str


@dataclass(frozen=True, slots=True)
class AskStatus:
    lease: LeaseId
    gateway_uri: str


@dataclass(frozen=True, slots=True)
class TopUp:
    amount_uact: int
    key: str


@dataclass(frozen=True, slots=True)
class CloseDeployment:
    key: str


@dataclass(frozen=True, slots=True)
class Release:
    """Remove the finalizer: nothing of this object is left on chain, or the user gave it up."""


Action = (
    Claim
    | CreateDeployment
    | UpdateDeployment
    | CreateLease
    | SendManifest
    | AskStatus
    | TopUp
    | CloseDeployment
    | Release
)


@dataclass(frozen=True, slots=True)
class Plan:
    """``state`` None means: leave the status as it is. ``facts`` are status fields to set, ``figures`` such as
    move all the time and go along with other news."""

    actions: tuple[Action, ...] = ()
    state: TenantState | None = None
    conditions: tuple[Condition, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    requeue_after_s: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)
