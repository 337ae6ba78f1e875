"""Devices that NVIDIA's DRA driver publishes, and what claims hold of them (gpu reference §1.3).

A node that publishes slices of ``gpu.nvidia.com`` has this one source: what its device plugin may still announce is
not counted, because the same GPU would be sold twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpulease.inventory.pools import Overrides, Pool
from gpulease.inventory.quantity import whole
from gpulease.market.gpu import GpuKind, kind_of_product, slice_kind

DRIVER = "gpu.nvidia.com"
_GPU_CLASS, _MIG_CLASS = "gpu.nvidia.com", "mig.nvidia.com"
_STOPS = frozenset({"NoSchedule", "NoExecute"})
# What may stand inside a quoted CEL string as it is.
_PLAIN = re.compile(r"[A-Za-z0-9 ._+/()-]+\Z")


@dataclass(frozen=True, slots=True)
class SliceDevice:
    """One device of a slice. ``uuid`` and ``parent`` are empty where the driver does not say."""

    pool: str
    name: str
    node: str
    type: str
    product: str
    uuid: str = ""
    parent: str = ""
    profile: str = ""
    memory_bytes: int | None = None
    tainted: bool = False


@dataclass(frozen=True, slots=True)
class Dra:
    """All nodes' published devices. ``resource_of`` leads from (pool, device) to (node, resource name)."""

    pools: Mapping[str, tuple[Pool, ...]] = field(default_factory=dict)
    resource_of: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)


def read_slices(
    bodies: Iterable[Mapping[str, Any]],
    *,
    overrides: Overrides | None = None,
    quarantined: frozenset[str] = frozenset(),
) -> Dra:
    """ResourceSlices of every node; a pool whose slices are not all there is left out of sale.

    ``quarantined`` UUIDs are not sold, and claims are written so that they cannot get them.
    """
    devices, incomplete = _devices(bodies)
    by_node: dict[str, list[SliceDevice]] = {}
    for device in devices:
        by_node.setdefault(device.node, []).append(device)
    pools: dict[str, tuple[Pool, ...]] = {}
    resource_of: dict[tuple[str, str], tuple[str, str]] = {}
    for node, own in by_node.items():
        grouped: dict[str, list[SliceDevice]] = {}
        parents = {d.parent for d in own if d.parent}
        for device in own:
            if device.type == "gpu" and device.uuid in parents:
                # The driver may go on announcing a GPU whole that it has cut into instances.
                continue
            grouped.setdefault(_resource(device, overrides), []).append(device)
        pools[node] = tuple(
            _pool(resource, group, overrides, quarantined, incomplete=any(d.pool in incomplete for d in group))
            for resource, group in sorted(grouped.items())
        )
        for resource, group in grouped.items():
            resource_of.update({(d.pool, d.name): (node, resource) for d in group})
    return Dra(pools, resource_of)


def _devices(bodies: Iterable[Mapping[str, Any]]) -> tuple[list[SliceDevice], set[str]]:
    newest: dict[str, tuple[int, int, list[Mapping[str, Any]]]] = {}
    for body in bodies:
        spec = body.get("spec") or {}
        if spec.get("driver") != DRIVER or not spec.get("nodeName"):
            continue
        pool = spec.get("pool") or {}
        name, generation = str(pool.get("name", "")), int(pool.get("generation", 0))
        known = newest.get(name)
        if known is None or generation > known[0]:
            newest[name] = (generation, int(pool.get("resourceSliceCount", 1)), [spec])
        elif generation == known[0]:
            known[2].append(spec)
    incomplete = {name for name, (_, wanted, specs) in newest.items() if len(specs) < wanted}
    return [
        _device(name, str(spec["nodeName"]), raw)
        for name, (_, _, specs) in sorted(newest.items())
        for spec in specs
        for raw in spec.get("devices") or ()
    ], incomplete


def _device(pool: str, node: str, raw: Mapping[str, Any]) -> SliceDevice:
    # v1 has the fields on the device, v1beta1 had them below "basic".
    body = raw.get("basic") or raw

    def text(name: str) -> str:
        attributes = body.get("attributes") or {}
        value = attributes.get(name) or attributes.get(f"{DRIVER}/{name}") or {}
        return str(value.get("string", value.get("version", "")))

    capacity = body.get("capacity") or {}
    memory = (capacity.get("memory") or capacity.get(f"{DRIVER}/memory") or {}).get("value")
    taints = body.get("taints") or ()
    return SliceDevice(
        pool,
        str(raw["name"]),
        node,
        text("type") or "gpu",
        text("productName"),
        text("uuid"),
        text("parentUUID"),
        text("profile"),
        None if memory is None else whole(memory),
        any(t.get("effect") in _STOPS for t in taints),
    )


def _kind(device: SliceDevice, overrides: Overrides | None) -> GpuKind | None:
    if device.type == "mig":
        return slice_kind(device.product, device.profile, overrides=overrides)
    return kind_of_product(device.product, overrides=overrides, memory_bytes=device.memory_bytes)


def _resource(device: SliceDevice, overrides: Overrides | None) -> str:
    kind = _kind(device, overrides)
    name = f"{kind.model}-{kind.ram}-{kind.interface}" if kind is not None else f"unknown-{device.product}"
    return f"{DRIVER}/{device.type}-{name}"


def _pool(
    resource: str,
    group: list[SliceDevice],
    overrides: Overrides | None,
    quarantined: frozenset[str],
    *,
    incomplete: bool,
) -> Pool:
    kind, first = _kind(group[0], overrides), group[0]
    products = sorted({d.product for d in group})
    problem = ""
    if incomplete:
        problem = "the driver has not published all slices of its pool yet"
    elif first.type not in ("gpu", "mig"):
        problem = f"devices of type {first.type} are not sold"
    elif kind is None or not all(_PLAIN.match(p) for p in products):
        problem = f"the product {first.product} is not in the model table: name it in spec.capacity.gpuModelOverrides"
    avoided = sorted({u for d in group for u in (d.uuid, d.parent) if u in quarantined and _PLAIN.match(u)})
    sick = sum(d.tainted or d.uuid in avoided or d.parent in avoided for d in group)
    attributes = f"device.attributes['{DRIVER}']"
    selector = f"{attributes}.type == '{first.type}' && {attributes}.productName in {products}"
    if first.type == "mig":
        selector += f" && {attributes}.profile == '{first.profile}'"
    if avoided:
        name = "parentUUID" if first.type == "mig" else "uuid"
        selector += f" && !({attributes}.{name} in {avoided})"
    class_ = _MIG_CLASS if first.type == "mig" else _GPU_CLASS
    kinds = () if kind is None or problem else (kind,)
    return Pool(resource, kinds, len(group) - sick, sick, problem, class_, selector)


def claimed(body: Mapping[str, Any], dra: Dra) -> dict[str, dict[str, int]]:
    """What an allocated ResourceClaim holds: counts by node and resource name."""
    results = ((body.get("status") or {}).get("allocation") or {}).get("devices", {}).get("results") or ()
    held: dict[str, dict[str, int]] = {}
    for result in results:
        place = dra.resource_of.get((str(result.get("pool")), str(result.get("device"))))
        if result.get("driver") != DRIVER or result.get("adminAccess") or place is None:
            continue
        node, resource = place
        counts = held.setdefault(node, {})
        counts[resource] = counts.get(resource, 0) + 1
    return held
