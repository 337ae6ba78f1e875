"""The market's objects as our code sees them: frozen values, decoded once at the chain's edge.

Shapes follow akash deployment v1beta4, market v1beta5, escrow v1, provider v1beta4 and cert v1
(``proto/akash``). Quantities are whole: CPU in milli-cores, memory and storage in bytes, GPUs in devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gpulease.ids import DeploymentId, GroupId, LeaseId, OrderId
from gpulease.units import Coin, Dec, DecCoin


@dataclass(frozen=True, slots=True, order=True)
class Attribute:
    key: str
    value: str


class EndpointKind(Enum):
    """What a service exposes: ``RANDOM_PORT`` is a node port, ``LEASED_IP`` an address of its own."""

    SHARED_HTTP = 0
    RANDOM_PORT = 1
    LEASED_IP = 2


@dataclass(frozen=True, slots=True)
class Endpoint:
    kind: EndpointKind
    sequence_number: int = 0


@dataclass(frozen=True, slots=True)
class Storage:
    name: str
    quantity_bytes: int
    attributes: tuple[Attribute, ...] = ()


@dataclass(frozen=True, slots=True)
class Resources:
    """What one replica needs. ``id`` is unique in its group and links manifest services to it."""

    id: int
    cpu_milli: int
    memory_bytes: int
    storage: tuple[Storage, ...]
    gpu_units: int = 0
    gpu_attributes: tuple[Attribute, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    cpu_attributes: tuple[Attribute, ...] = ()
    memory_attributes: tuple[Attribute, ...] = ()


@dataclass(frozen=True, slots=True)
class ResourceUnit:
    """``price`` is the tenant's ceiling per block for one replica."""

    resources: Resources
    count: int
    price: DecCoin


@dataclass(frozen=True, slots=True)
class PlacementRequirements:
    attributes: tuple[Attribute, ...] = ()
    signed_by_all_of: tuple[str, ...] = ()
    signed_by_any_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupSpec:
    name: str
    requirements: PlacementRequirements
    resources: tuple[ResourceUnit, ...]

    @property
    def max_price(self) -> DecCoin:
        """Ceiling per block for the whole group (sum of price times count; one denomination by chain rule)."""
        total = sum((unit.price.amount * unit.count for unit in self.resources), Dec())
        return DecCoin(self.resources[0].price.denom, total)

    @property
    def gpu_count(self) -> int:
        return sum(unit.resources.gpu_units * unit.count for unit in self.resources)


class DeploymentState(Enum):
    ACTIVE = "active"
    CLOSED = "closed"


class GroupState(Enum):
    OPEN = "open"
    PAUSED = "paused"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    CLOSED = "closed"


class OrderState(Enum):
    OPEN = "open"
    ACTIVE = "active"
    CLOSED = "closed"


class BidState(Enum):
    OPEN = "open"
    ACTIVE = "active"
    LOST = "lost"
    CLOSED = "closed"


class LeaseState(Enum):
    ACTIVE = "active"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    CLOSED = "closed"
    RECLAIMING = "reclaiming"


class EscrowState(Enum):
    OPEN = "open"
    CLOSED = "closed"
    OVERDRAWN = "overdrawn"


@dataclass(frozen=True, slots=True)
class Group:
    id: GroupId
    state: GroupState
    spec: GroupSpec
    created_at: int


@dataclass(frozen=True, slots=True)
class Deployment:
    """``hash`` is the manifest's sha256 (32 bytes)."""

    id: DeploymentId
    state: DeploymentState
    hash: bytes
    created_at: int
    groups: tuple[Group, ...]
    escrow: EscrowAccount


@dataclass(frozen=True, slots=True)
class Order:
    id: OrderId
    state: OrderState
    spec: GroupSpec
    created_at: int
    reclamation_min_window_s: int | None = None


@dataclass(frozen=True, slots=True)
class Bid:
    id: LeaseId
    state: BidState
    price: DecCoin
    created_at: int
    deposit: EscrowAccount | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """``price`` is per block; ``closed_on`` a height, 0 while open; ``reason`` the chain's word for the close."""

    id: LeaseId
    state: LeaseState
    price: DecCoin
    created_at: int
    closed_on: int = 0
    reason: str = ""
    payment: EscrowPayment | None = None
    reclamation_window_s: int | None = None
    reclamation_deadline_s: int | None = None
    """Unix time until which a lease that is being reclaimed may not be closed by its provider."""


@dataclass(frozen=True, slots=True)
class EscrowDeposit:
    owner: str
    height: int
    source: str
    balance: DecCoin


@dataclass(frozen=True, slots=True)
class EscrowAccount:
    """As of ``settled_at``: the chain does not accrue until something settles (reference §2.3)."""

    scope: str
    xid: str
    owner: str
    state: EscrowState
    settled_at: int
    funds: tuple[DecCoin, ...]
    transferred: tuple[DecCoin, ...]
    deposits: tuple[EscrowDeposit, ...]


@dataclass(frozen=True, slots=True)
class EscrowPayment:
    """``rate`` is per block; ``balance`` is settled but not yet withdrawn."""

    scope: str
    account_xid: str
    xid: str
    owner: str
    state: EscrowState
    rate: DecCoin
    balance: DecCoin
    unsettled: DecCoin
    withdrawn: Coin


@dataclass(frozen=True, slots=True)
class ProviderRecord:
    owner: str
    host_uri: str
    attributes: tuple[Attribute, ...]
    email: str = ""
    website: str = ""


@dataclass(frozen=True, slots=True)
class Certificate:
    """``cert_pem`` and ``pubkey_pem`` exactly as on chain; ``serial`` is decimal text."""

    owner: str
    serial: str
    valid: bool
    cert_pem: bytes
    pubkey_pem: bytes
