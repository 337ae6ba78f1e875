"""What the operator's queue holds: the name of a thing to look at, never what happened to it."""

from __future__ import annotations

from dataclasses import dataclass

from gpulease.ids import LeaseId, OrderId
from gpulease.runtime.specs import ObjectName


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """A GPUProvider object."""

    name: ObjectName


@dataclass(frozen=True, slots=True)
class OrderKey:
    """An order that the provider of this object may bid on."""

    provider: ObjectName
    order: OrderId


@dataclass(frozen=True, slots=True)
class BidKey:
    """A bid of ours that has not become a lease."""

    bid: LeaseId


@dataclass(frozen=True, slots=True)
class HostedKey:
    """A lease that we host."""

    lease: LeaseId


@dataclass(frozen=True, slots=True)
class TenantKey:
    """A GPULease object."""

    name: ObjectName


@dataclass(frozen=True, slots=True)
class NodeUsageKey:
    """The usage records of a node's agent."""

    node: str


@dataclass(frozen=True, slots=True)
class ChainKey:
    """Everything that a chain session (by its name) says about us: read anew and compared with what we have."""

    session: str


@dataclass(frozen=True, slots=True)
class ClusterKey:
    """Everything of ours in the cluster: leases and namespaces that nobody asked about."""


WorkKey = ProviderKey | OrderKey | BidKey | HostedKey | TenantKey | NodeUsageKey | ChainKey | ClusterKey
