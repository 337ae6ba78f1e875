"""What a GPULease runs as the chain and the provider want it: one group of resource units, and a manifest.

The rules are those of the peer's SDL compiler (gateway reference §6), so that any provider of the market accepts the
result: services by name, exposes in their order, endpoints derived from global exposes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpulease.errors import ConfigError, SdlError
from gpulease.inventory.quantity import milli, whole
from gpulease.market.gpu import GpuWant
from gpulease.market.model import (
    Attribute,
    Endpoint,
    EndpointKind,
    GroupSpec,
    PlacementRequirements,
    Resources,
    ResourceUnit,
    Storage,
)
from gpulease.units import NS_PER_S, UACT, Dec, DecCoin
from gpulease.workload import sdl
from gpulease.workload.manifest import expose_order
from gpulease.workload.model import HTTP_PORT, Expose, Manifest, ManifestGroup, Service

GROUP_NAME = "gpulease"
_MICRO_DEC = 10**12
"""Raw units of a Dec per millionth: prices on the market have 6 places."""


def compile_spec(spec: Mapping[str, Any], *, ceiling: Dec) -> tuple[GroupSpec, Manifest]:
    """Whichever of ``services`` and ``sdl`` the spec of a GPULease has; ``ConfigError`` says what is wrong with it."""
    if ("sdl" in spec) == ("services" in spec):
        raise ConfigError("spec needs one of services and sdl: write the services, or give an SDL, not both")
    if "sdl" in spec:
        return compile_sdl(str(spec["sdl"]))
    return compile_services(spec["services"], placement=spec.get("placement") or {}, ceiling=ceiling)


def compile_services(
    services: Sequence[Mapping[str, Any]], *, placement: Mapping[str, Any], ceiling: Dec
) -> tuple[GroupSpec, Manifest]:
    """``spec.services`` and ``spec.placement`` of a GPULease; ``ceiling`` is for the whole lease in uact per block.

    ``ConfigError`` names what is wrong with which service.
    """
    if not services:
        raise ConfigError("spec.services is empty; name at least one service")
    ordered = sorted(services, key=lambda s: str(s["name"]))
    compiled = [_service(index, raw) for index, raw in enumerate(ordered, start=1)]
    replicas = sum(service.count for service in compiled)
    # An equal share for each replica: only the sum is the order's limit.
    share = Dec(ceiling.raw // replicas // _MICRO_DEC * _MICRO_DEC)
    if share.raw <= 0:
        raise ConfigError("spec.maxUsdPerHour is too small to be a price per block; raise it")
    units = tuple(ResourceUnit(s.resources, s.count, DecCoin(UACT, share)) for s in compiled)
    spec = GroupSpec(GROUP_NAME, _requirements(placement), units)
    return spec, (ManifestGroup(GROUP_NAME, tuple(compiled)),)


def compile_sdl(text: str) -> tuple[GroupSpec, Manifest]:
    """``spec.sdl`` of a GPULease, in the same shape as ``compile_services``.

    The prices of the order are the SDL's own, per block and replica; ``spec.maxUsdPerHour`` still decides which bids
    are taken. ``ConfigError`` names the line of the SDL.
    """
    try:
        compiled = sdl.compile_text(text)
    except SdlError as error:
        raise ConfigError(f"spec.sdl {error}") from error
    if len(compiled.groups) != 1:
        names = ", ".join(group.name for group in compiled.groups)
        raise ConfigError(
            f"spec.sdl line {compiled.document.deployment_line}: it has the placements {names}, and "
            "a GPULease is one lease with one provider; write a GPULease for each placement"
        )
    spec = compiled.groups[0]
    if spec.max_price.denom != UACT:
        prices = compiled.document.placements[spec.name].pricing.values()
        line = next(price.line for price in prices if price.denom != UACT)
        raise ConfigError(
            f"spec.sdl line {line}: the price is in {spec.max_price.denom}, and a GPULease pays in {UACT} "
            f"(1000000 {UACT} are 1 USD); write denom: {UACT} and the amount in it"
        )
    return spec, compiled.manifest


def sdl_reclamation_min_window_s(text: str) -> int | None:
    """How much warning ``spec.sdl`` asks for before a provider takes a lease back, in seconds rounded up.

    None where it asks for none. ``ConfigError`` as for ``compile_sdl``.
    """
    try:
        window_ns = sdl.compile_text(text).reclamation_min_window_ns
    except SdlError as error:
        raise ConfigError(f"spec.sdl {error}") from error
    return None if window_ns is None else -(-window_ns // NS_PER_S)


def _requirements(raw: Mapping[str, Any]) -> PlacementRequirements:
    signed = raw.get("signedBy") or {}
    attributes = sorted(Attribute(str(a["key"]), str(a["value"])) for a in raw.get("attributes") or ())
    return PlacementRequirements(
        tuple(attributes),
        tuple(str(a) for a in signed.get("allOf") or ()),
        tuple(str(a) for a in signed.get("anyOf") or ()),
    )


def _service(index: int, raw: Mapping[str, Any]) -> Service:
    name = str(raw["name"])
    exposes = tuple(sorted((_expose(entry) for entry in raw.get("expose") or ()), key=expose_order))
    env = raw.get("env")
    return Service(
        name=name,
        image=str(raw["image"]),
        resources=_resources(index, name, raw["resources"], exposes),
        count=int(raw.get("replicas", 1)),
        command=_texts(raw.get("command")),
        args=_texts(raw.get("args")),
        env=None if not env else tuple(f"{entry['name']}={entry.get('value', '')}" for entry in env),
        expose=exposes,
    )


def _texts(raw: Sequence[Any] | None) -> tuple[str, ...] | None:
    return None if not raw else tuple(str(entry) for entry in raw)


def _expose(raw: Mapping[str, Any]) -> Expose:
    port = int(raw["port"])
    hosts = raw.get("hosts")
    return Expose(
        port=port,
        external_port=int(raw.get("as", port)),
        protocol=str(raw.get("protocol", "TCP")),
        is_global=bool(raw.get("global", False)),
        hosts=None if not hosts else tuple(str(host) for host in hosts),
    )


def _resources(index: int, name: str, raw: Mapping[str, Any], exposes: Sequence[Expose]) -> Resources:
    try:
        cpu, memory, storage = milli(raw["cpu"]), whole(raw["memory"]), whole(raw["storage"])
    except ValueError as error:
        raise ConfigError(f"spec.services[{name}].resources: {error}") from error
    gpu = raw.get("gpu") or {}
    count = int(gpu.get("count", 0))
    models = [
        GpuWant(str(m["model"]), str(m.get("ram", "")), str(m.get("interface", ""))) for m in gpu.get("models", ())
    ]
    if count and not models:
        models = [GpuWant("*")]
    return Resources(
        id=index,
        cpu_milli=cpu,
        memory_bytes=memory,
        storage=(Storage("default", storage),),
        gpu_units=count,
        gpu_attributes=tuple(sorted({want.attribute() for want in models})) if count else (),
        endpoints=tuple(_endpoint(expose) for expose in exposes if expose.is_global),
    )


def _endpoint(expose: Expose) -> Endpoint:
    http = expose.protocol == "TCP" and expose.outside_port == HTTP_PORT
    return Endpoint(EndpointKind.SHARED_HTTP if http else EndpointKind.RANDOM_PORT)


def gpu_words(group: GroupSpec) -> str:
    """What is asked for, for a person: ``2 × a100 80Gi``."""
    parts = []
    for unit in group.resources:
        if unit.resources.gpu_units:
            models = " or ".join(
                a.key.split("/model/", 1)[-1].replace("/ram/", " ").replace("/interface/", " ")
                for a in unit.resources.gpu_attributes
            )
            parts.append(f"{unit.resources.gpu_units * unit.count} × {models or 'any GPU'}")
    return ", ".join(parts) or "no GPU"
