"""A node's GPUs as pools: each is what one resource name hands out, with the kinds a request may get from it.

The device plugin chooses the device, so a request for ``nvidia.com/gpu`` on a node with two models may get either:
such a pool is sold only to orders that accept all of its kinds. Shared GPUs (time-slicing, MPS) are no boundary
between tenants and are not sold. Sources: device-plugin and GFD label names (gpu reference §1.1, §1.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpulease.inventory.amounts import GPU_RESOURCE, VENDOR_PREFIX
from gpulease.inventory.facts import NodeFacts
from gpulease.inventory.quantity import whole
from gpulease.market.gpu import GpuKind, kind_of_product, slice_kind

PRODUCT_LABEL = "nvidia.com/gpu.product"
_SHARING_LABEL = "nvidia.com/gpu.sharing-strategy"
_REPLICAS_LABEL = "nvidia.com/gpu.replicas"
_MIG_RESOURCE = re.compile(r"nvidia\.com/(?P<profile>mig-[0-9]+(?:c\.[0-9]+)?g\.[0-9]+gb(?:[.+-][a-z.]+)?)\Z")
_MIG_PRODUCT = re.compile(r"(?P<whole>.+)-MIG-(?P<profile>[0-9][0-9a-z.+-]*)\Z")
Overrides = Mapping[str, GpuKind]


@dataclass(frozen=True, slots=True)
class Pool:
    """Interchangeable devices of one node. ``problem`` says why the pool is not sold.

    ``withdrawn`` devices are in capacity, not in allocatable: the plugin or driver took them out. With DRA,
    ``device_class`` and ``selector`` (CEL) are what a claim asks for; otherwise both are empty.
    """

    resource: str
    kinds: tuple[GpuKind, ...]
    allocatable: int
    withdrawn: int = 0
    problem: str = ""
    device_class: str = ""
    selector: str = ""

    @property
    def total(self) -> int:
        return self.allocatable + self.withdrawn


def plugin_pools(
    labels: Mapping[str, str],
    allocatable: Mapping[str, Any],
    capacity: Mapping[str, Any],
    *,
    facts: NodeFacts | None = None,
    overrides: Overrides | None = None,
) -> tuple[Pool, ...]:
    """Of a node whose devices the device plugin hands out."""
    names = {str(name) for name in (*allocatable, *capacity) if str(name).startswith(VENDOR_PREFIX)}
    found = []
    for name in sorted(names):
        free, all_ = whole(allocatable.get(name, 0)), whole(capacity.get(name, 0))
        if not free and not all_:
            continue
        if name == GPU_RESOURCE:
            kinds, problem = _whole_kinds(labels, facts, overrides)
            found.append(Pool(name, kinds, free, max(_left(all_, kinds, facts) - free, 0), problem))
        elif (match := _MIG_RESOURCE.match(name)) is not None:
            kinds, problem = _mig_kinds(match["profile"], labels, overrides)
            # After a MIG reconfiguration the kubelet keeps the old profile's capacity: the label knows what is left.
            known = labels.get(f"{VENDOR_PREFIX}{match['profile']}.count")
            most = min(all_, int(known)) if known is not None and known.isdecimal() else all_
            found.append(Pool(name, kinds, free, max(most - free, 0) if free or known else 0, problem))
        elif free:
            found.append(Pool(name, (), free, problem=f"{name} is a shared or unknown resource, which is not sold"))
    return tuple(found)


def _left(capacity: int, kinds: tuple[GpuKind, ...], facts: NodeFacts | None) -> int:
    """The capacity without GPUs that have been cut into slices: the kubelet goes on counting them as whole ones."""
    if facts is None or not facts.devices or any(kind.is_slice for kind in kinds):
        return capacity
    return min(capacity, sum(not device.mig_enabled for device in facts.devices))


def narrowed(pool: Pool, facts: NodeFacts | None, held: frozenset[str], *, in_use: int, overrides: Overrides) -> Pool:
    """The pool with the kinds of its free devices only, where every device in use is known by its UUID.

    A request can then get none but these; without that certainty the pool stays as it is.
    """
    if facts is None or len(pool.kinds) < 2:
        return pool
    own = {d.uuid: d for d in facts.devices if not d.mig_enabled}
    if len(held & own.keys()) != in_use:
        return pool
    left = [d for uuid, d in own.items() if uuid not in held and d.problem is None]
    kinds = {kind_of_product(d.product, overrides=overrides, memory_bytes=d.memory_bytes) for d in left}
    if not kinds or None in kinds:
        return pool
    return replace(pool, kinds=tuple(sorted(kind for kind in kinds if kind is not None)))


def _whole_kinds(
    labels: Mapping[str, str], facts: NodeFacts | None, overrides: Overrides | None
) -> tuple[tuple[GpuKind, ...], str]:
    product = labels.get(PRODUCT_LABEL, "")
    replicas = labels.get(_REPLICAS_LABEL, "1")
    sharing = labels.get(_SHARING_LABEL, "none")
    if sharing not in ("", "none") or product.endswith("-SHARED") or (replicas.isdecimal() and int(replicas) > 1):
        return (), "its GPUs are shared between pods (time-slicing or MPS), which is no boundary between tenants"
    single = _MIG_PRODUCT.match(product)
    if single is not None:
        kind = slice_kind(single["whole"], single["profile"], overrides=overrides)
        return ((kind,), "") if kind is not None else ((), _unknown(product))
    products: dict[tuple[str, int | None], None] = {}
    if facts is not None:
        products = {(d.product, d.memory_bytes): None for d in facts.devices if d.product and not d.mig_enabled}
    if not products and product:
        products = {(product, None): None}
    if not products:
        return (), "neither GPU feature discovery nor the node's agent names the model of its GPUs"
    kinds = {pair: kind_of_product(pair[0], overrides=overrides, memory_bytes=pair[1]) for pair in products}
    unknown = sorted({pair[0] for pair, kind in kinds.items() if kind is None})
    if unknown:
        return (), _unknown(", ".join(unknown))
    return tuple(sorted({kind for kind in kinds.values() if kind is not None})), ""


def _mig_kinds(profile: str, labels: Mapping[str, str], overrides: Overrides | None) -> tuple[tuple[GpuKind, ...], str]:
    if labels.get(f"{VENDOR_PREFIX}{profile}.sharing-strategy", "none") not in ("", "none"):
        return (), f"its {profile} slices are shared between pods, which is no boundary between tenants"
    product = labels.get(f"{VENDOR_PREFIX}{profile}.product") or labels.get(PRODUCT_LABEL, "")
    match = _MIG_PRODUCT.match(product)
    kind = slice_kind(match["whole"] if match else product, profile.removeprefix("mig-"), overrides=overrides)
    if kind is None:
        return (), _unknown(product or profile)
    return (kind,), ""


def _unknown(product: str) -> str:
    return f"the product {product} is not in the model table: name it in spec.capacity.gpuModelOverrides"
