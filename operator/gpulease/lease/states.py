"""What the provider knows of one lease it won, and what it may do about it.

The chain decides whether a lease lives; the cluster shows how far its workload has come; the manifest comes from the
tenant through the gateway. Each part may be unknown (``None``) at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gpulease.ids import LeaseId
from gpulease.inventory.health import DeviceTrouble
from gpulease.market.model import Deployment, Lease
from gpulease.planning import Condition, Seen


class HostedState(Enum):
    """``status.state`` of a HostedLease."""

    AWAITING_MANIFEST = "AwaitingManifest"
    DEPLOYING = "Deploying"
    RUNNING = "Running"
    DEGRADED = "Degraded"
    CLOSING = "Closing"
    CLOSED = "Closed"


@dataclass(frozen=True, slots=True)
class HostedView:
    """The HostedLease object as last read. ``closed_seen_height`` is the first positive closed answer of the chain."""

    name: str
    uid: str
    generation: int
    status: dict[str, Any]
    closed_seen_height: int | None = None
    closed_at_ns: int | None = None
    noticed_at_ns: int = 0
    """When the object was made: from then on the lease was known here."""


@dataclass(frozen=True, slots=True)
class ManifestView:
    """What the gateway stored: ``problem`` is set when it cannot be deployed as it stands."""

    hash: bytes
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class WorkloadView:
    """The lease's namespace and what runs in it. ``verdict`` is None while nothing is deployed."""

    namespace_exists: bool
    namespace_uid: str | None = None
    namespace_terminating: bool = False
    verdict: str | None = None
    reason: str = ""
    message: str = ""
    device_uuids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MoneyView:
    """Projected escrow of the lease's payment at the observed height, in ``uact``."""

    owed_uact: int
    withdrawn_uact: int
    run_out_height: int | None
    withdraw_now: bool
    withdraw_key: str
    next_check_height: int | None


@dataclass(frozen=True, slots=True)
class DrainView:
    """Nodes of the lease that the admin has cordoned; ``seen_height`` is when that was first seen."""

    nodes: tuple[str, ...] = ()
    seen_height: int | None = None


@dataclass(frozen=True, slots=True)
class CreditView:
    """GPU time held on faulty devices, and what it cost the tenant in ``uact``."""

    seconds: int
    uact: int


@dataclass(frozen=True, slots=True)
class Policy:
    manifest_timeout_s: float = 300.0
    retention_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class ObservedLease:
    """Everything :func:`gpulease.lease.plan.decide` looks at; ``None`` means unknown, not absent."""

    id: LeaseId
    now_ns: int
    height: int
    block_time_ns: int
    lease: Seen[Lease | None] | None
    deployment: Seen[Deployment | None] | None
    hosted_known: bool
    hosted: HostedView | None
    manifest_known: bool
    manifest: ManifestView | None
    workload: WorkloadView | None
    objects_differ: bool
    money: MoneyView | None = None
    gpu_seconds: int | None = None
    troubles: tuple[DeviceTrouble, ...] = ()
    credit: CreditView | None = None
    drain: DrainView | None = None
    orphan_seen_height: int | None = None
    """Height of the chain's first answer that it knows no such lease, while a namespace of it is here."""
    up_since_ns: int = 0
    """When this operator started: what did not come before may have had nobody to come to."""


@dataclass(frozen=True, slots=True)
class CreateHosted:
    """Write the HostedLease object; idempotent by its name."""


@dataclass(frozen=True, slots=True)
class ApplyWorkload:
    """Apply the lease's objects; precondition: the manifest's hash equals the chain's."""

    manifest_hash: bytes


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Settle and withdraw; ``key`` is the outbox's idempotency key."""

    key: str


@dataclass(frozen=True, slots=True)
class CloseBid:
    """Give the lease up on chain, with the chain's reason code."""

    reason: int
    key: str


@dataclass(frozen=True, slots=True)
class RememberDrain:
    """Note that a node of the lease was seen cordoned, so that the second look may act."""

    height: int


@dataclass(frozen=True, slots=True)
class StartReclaim:
    """Tell the tenant on chain that the lease ends after its reclamation window, with the chain's reason code."""

    reason: int
    key: str


@dataclass(frozen=True, slots=True)
class RecordCredit:
    """Write what the tenant is owed into the ledger, once; ``key`` makes it so."""

    uact: int
    key: str


@dataclass(frozen=True, slots=True)
class RememberOrphan:
    """Note the first answer that no such lease exists, so that the second one may stop pods."""

    height: int


@dataclass(frozen=True, slots=True)
class StopPods:
    """Stop what runs in a namespace without a lease; nothing in it is deleted."""


@dataclass(frozen=True, slots=True)
class RememberClosed:
    """Note the first positive closed answer, so that the second one may destroy."""

    height: int


@dataclass(frozen=True, slots=True)
class DeleteNamespace:
    """Destroy the workload; precondition: the namespace still has this uid."""

    uid: str


@dataclass(frozen=True, slots=True)
class ReleaseCapacity:
    """Give the reservation back."""


@dataclass(frozen=True, slots=True)
class ForgetHosted:
    """Delete the HostedLease of a lease closed long ago."""


Action = (
    CreateHosted
    | ApplyWorkload
    | Withdraw
    | CloseBid
    | RememberDrain
    | StartReclaim
    | RecordCredit
    | RememberOrphan
    | StopPods
    | RememberClosed
    | DeleteNamespace
    | ReleaseCapacity
    | ForgetHosted
)


@dataclass(frozen=True, slots=True)
class Plan:
    """``state`` None means: leave the status as it is. ``figures`` move all the time and go along with other news."""

    actions: tuple[Action, ...] = ()
    state: HostedState | None = None
    conditions: tuple[Condition, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    requeue_after_s: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)
