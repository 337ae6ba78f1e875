"""Which node takes which replica: all of a group, or none of it.

GPU replicas go where they leave the fewest GPUs over (large free blocks stay large), CPU replicas keep away from GPU
nodes as long as others have room. All replicas of one resource unit get the same GPU kind, because the price depends
on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gpulease.inventory.devices import Amounts
from gpulease.inventory.free import NodeFree
from gpulease.market.gpu import GpuKind, accepted, wants
from gpulease.market.model import GroupSpec, Resources, ResourceUnit

RAM_CLASS = "ram"


@dataclass(frozen=True, slots=True)
class Placement:
    """Replicas by resource id and node, the amounts they take by node, and the GPU kind by resource id."""

    replicas: Mapping[int, Mapping[str, int]]
    nodes: Mapping[str, Amounts]
    kinds: Mapping[int, GpuKind] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CannotPlace:
    words: str


def need_of(resources: Resources) -> Amounts:
    """What one replica takes on a node; persistent volumes are not on the node's ephemeral disk."""
    ephemeral = ram = 0
    for volume in resources.storage:
        attributes = {a.key: a.value for a in volume.attributes}
        if attributes.get("class") == RAM_CLASS:
            ram += volume.quantity_bytes
        elif attributes.get("persistent") != "true":
            ephemeral += volume.quantity_bytes
    return Amounts(resources.cpu_milli, resources.memory_bytes + ram, ephemeral, resources.gpu_units)


def place(
    spec: GroupSpec, free: Iterable[NodeFree], *, models_allowed: tuple[str, ...] = ()
) -> Placement | CannotPlace:
    """Deterministic: the same input gives the same placement."""
    nodes = {entry.node.name: entry for entry in free}
    left = {name: entry.free for name, entry in nodes.items()}
    replicas: dict[int, dict[str, int]] = {}
    kinds: dict[int, GpuKind] = {}
    # Units with the most GPUs per replica first: they have the fewest places to go.
    for unit in sorted(spec.resources, key=lambda u: (-u.resources.gpu_units, -u.resources.cpu_milli, u.resources.id)):
        result = _place_unit(unit, nodes, left, models_allowed)
        if isinstance(result, CannotPlace):
            return result
        chosen, left, kind = result
        replicas[unit.resources.id] = chosen
        if kind is not None:
            kinds[unit.resources.id] = kind
    taken = {name: nodes[name].free - left[name] for name in nodes if left[name] != nodes[name].free}
    return Placement(replicas, taken, kinds)


_Result = tuple[dict[str, int], dict[str, Amounts], GpuKind | None]


def _place_unit(
    unit: ResourceUnit, nodes: Mapping[str, NodeFree], left: dict[str, Amounts], allowed: tuple[str, ...]
) -> _Result | CannotPlace:
    need = need_of(unit.resources)
    if not need.gpus:
        found = _fill(unit.count, need, list(nodes), left, prefer_small=True)
        return CannotPlace(_lack(unit, need, left)) if found is None else (*found, None)
    asked = wants(unit.resources.gpu_attributes)
    kinds = sorted(
        {
            entry.node.kind
            for entry in nodes.values()
            if entry.node.kind is not None
            and accepted(entry.node.kind, asked)
            and (not allowed or entry.node.kind.model in allowed)
        }
    )
    for kind in kinds:
        names = [name for name, entry in nodes.items() if entry.node.kind == kind]
        found = _fill(unit.count, need, names, left, prefer_small=False)
        if found is not None:
            return (*found, kind)
    return CannotPlace(_lack(unit, need, left))


def _fill(
    count: int, need: Amounts, names: list[str], left: dict[str, Amounts], *, prefer_small: bool
) -> tuple[dict[str, int], dict[str, Amounts]] | None:
    now = dict(left)
    chosen: dict[str, int] = {}
    for _ in range(count):
        fitting = [name for name in names if now[name].covers(need)]
        if not fitting:
            return None
        # Fewest GPUs over first; for CPU work that means a node without GPUs first.
        best = min(fitting, key=lambda name: (now[name].gpus - need.gpus, now[name].cpu_milli, name))
        now[best] = now[best] - need
        chosen[best] = chosen.get(best, 0) + 1
    return chosen, now


def _lack(unit: ResourceUnit, need: Amounts, left: Mapping[str, Amounts]) -> str:
    most = max((amounts.gpus for amounts in left.values()), default=0)
    what = f"{need.cpu_milli}m CPU, {need.memory_bytes >> 20} MiB memory, {need.ephemeral_bytes >> 20} MiB disk"
    gpus = f", {need.gpus} GPU" if need.gpus else ""
    return f"no node has room for {unit.count} × ({what}{gpus}); the most free GPUs on one node are {most}"
