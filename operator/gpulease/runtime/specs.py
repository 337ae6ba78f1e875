"""Custom resources as typed values: parsed once, at the door.

The API server has already held them against the CRD's schema; what it cannot check (decimals, quantities, references)
is checked here, and a problem is a sentence for the object's conditions, never an exception in a loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpulease.errors import ConfigError
from gpulease.inventory.placement import NO_OVERCOMMIT, Overcommit
from gpulease.market.gpu import GpuKind
from gpulease.market.model import Attribute
from gpulease.units import Coin, usd_to_uact

RELEASE_ANNOTATION = "gpulease.dev/release-device"
_MOST_RELEASED = 64


@dataclass(frozen=True, slots=True)
class ChainSpec:
    """Which chain, and where it answers: (rpc URL, gRPC target) pairs."""

    chain_id: str
    endpoints: tuple[tuple[str, str], ...]
    gas_price: str = "0.025uakt"


@dataclass(frozen=True, slots=True)
class WalletSpec:
    secret_name: str
    key: str


@dataclass(frozen=True, slots=True)
class ObjectName:
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """A GPUProvider's spec."""

    name: ObjectName
    uid: str
    generation: int
    deleting: bool
    chain: ChainSpec
    wallet: WalletSpec
    host_uri: str
    email: str
    website: str
    attributes: tuple[Attribute, ...]
    pricing: Mapping[str, Any]
    bidding_enabled: bool
    deposit_denom: str
    max_open_bids: int
    gpu_models_allowed: tuple[str, ...]
    withdraw_period_s: int
    withdraw_threshold_uact: int
    manifest_timeout_s: int
    pod_security: str
    runtime_class: str | None
    private_ranges_allowed: tuple[str, ...]
    node_selector: Mapping[str, str]
    reserve_cpu_milli: int
    reserve_memory_bytes: int
    gateway_domain: str
    gpu_overrides: Mapping[str, GpuKind] = field(default_factory=dict)
    overcommit: Overcommit = NO_OVERCOMMIT
    storage_classes: Mapping[str, str] = field(default_factory=dict)
    reclamation_window_s: int | None = None
    enforce_floor: bool = True
    require_known_versions: bool = False
    ingress_class: str | None = None
    http_gateway: tuple[str, str] | None = None
    """(namespace, name) of the Gateway that tenants' routes attach to."""


def parse_chain(raw: Mapping[str, Any]) -> ChainSpec:
    endpoints = tuple((str(e["rpc"]), str(e["grpc"])) for e in raw.get("endpoints", ()))
    if not endpoints:
        raise ConfigError("spec.chain.endpoints is empty; name at least one rpc URL and gRPC target")
    return ChainSpec(str(raw["chainID"]), endpoints, str(raw.get("gasPrice", "0.025uakt")))


def parse_wallet(raw: Mapping[str, Any]) -> WalletSpec:
    return WalletSpec(str(raw["secretName"]), str(raw.get("key", "key")))


def object_name(body: Mapping[str, Any]) -> ObjectName:
    return ObjectName(str(body["metadata"].get("namespace", "")), str(body["metadata"]["name"]))


def parse_provider(body: Mapping[str, Any]) -> ProviderSpec:
    """A GPUProvider body; ``ConfigError`` names the field that is wrong."""
    spec = body["spec"]
    meta = body["metadata"]
    bidding = spec.get("bidding", {})
    settlement = spec.get("settlement", {})
    isolation = spec.get("isolation", {})
    capacity = spec.get("capacity", {})
    info = spec.get("info", {})
    gateway = spec.get("gateway", {})
    overcommit, route = capacity.get("overcommit", {}), gateway.get("httpRoute")
    return ProviderSpec(
        name=object_name(body),
        uid=str(meta["uid"]),
        generation=int(meta.get("generation", 1)),
        deleting="deletionTimestamp" in meta,
        chain=parse_chain(spec["chain"]),
        wallet=parse_wallet(spec["wallet"]),
        host_uri=str(spec["hostURI"]),
        email=str(info.get("email", "")),
        website=str(info.get("website", "")),
        attributes=tuple(Attribute(str(a["key"]), str(a["value"])) for a in spec.get("attributes", ())),
        pricing=spec["pricing"],
        bidding_enabled=bool(bidding.get("enabled", True)),
        deposit_denom=str(bidding.get("depositDenom", "uact")),
        max_open_bids=int(bidding.get("maxOpenBids", 100)),
        gpu_models_allowed=tuple(str(m) for m in bidding.get("gpuModelsAllowed", ())),
        withdraw_period_s=int(settlement.get("withdrawPeriodSeconds", 3600)),
        withdraw_threshold_uact=int(settlement.get("withdrawThresholdUact", 0)),
        manifest_timeout_s=int(settlement.get("manifestTimeoutSeconds", 300)),
        pod_security=str(isolation.get("podSecurity", "restricted")),
        runtime_class=isolation.get("runtimeClassName"),
        private_ranges_allowed=tuple(str(c) for c in isolation.get("privateRangesAllowed", ())),
        node_selector={str(k): str(v) for k, v in capacity.get("nodeSelector", {}).items()},
        reserve_cpu_milli=int(capacity.get("reserveCpuMilli", 0)),
        reserve_memory_bytes=int(capacity.get("reserveMemoryBytes", 0)),
        gateway_domain=str(gateway.get("domain", "")),
        gpu_overrides={
            str(o["product"]): GpuKind(str(o["model"]), str(o["ram"]), str(o["interface"]))
            for o in capacity.get("gpuModelOverrides", ())
        },
        overcommit=Overcommit(int(overcommit.get("cpuPercent", 0)), int(overcommit.get("memoryPercent", 0))),
        storage_classes={str(c["name"]): str(c["storageClassName"]) for c in capacity.get("storageClasses", ())},
        reclamation_window_s=bidding.get("reclamationWindowSeconds"),
        enforce_floor=isolation.get("nodeFloor", "enforce") == "enforce",
        require_known_versions=bool(isolation.get("requireKnownVersions", False)),
        ingress_class=gateway.get("ingressClassName"),
        http_gateway=(str(route["gatewayNamespace"]), str(route["gatewayName"])) if route else None,
    )


def released_devices(body: Mapping[str, Any]) -> tuple[str, ...]:
    """UUIDs that the admin's annotation puts back on sale."""
    text = str((body["metadata"].get("annotations") or {}).get(RELEASE_ANNOTATION, ""))
    return tuple(part.strip() for part in text.split(",") if part.strip())[:_MOST_RELEASED]


def usd_field(raw: Mapping[str, Any], field: str, default: str | None = None) -> int:
    """A USD decimal of the spec as ``uact``; ``ConfigError`` names the field."""
    value = raw.get(field, default)
    try:
        return usd_to_uact(str(value))
    except ValueError as error:
        raise ConfigError(f"spec.{field}: {error}") from error


def gas_price_uakt(text: str) -> str:
    """The decimal part of a gas price such as ``0.025uakt``; ``ConfigError`` when it is none."""
    number = text.removesuffix("uakt")
    if number == text:
        raise ConfigError(f"spec.chain.gasPrice {text!r} must end in uakt, for example 0.025uakt")
    return number


__all__ = [
    "ChainSpec",
    "Coin",
    "ObjectName",
    "ProviderSpec",
    "WalletSpec",
    "gas_price_uakt",
    "object_name",
    "parse_chain",
    "parse_provider",
    "parse_wallet",
    "released_devices",
    "usd_field",
]
