"""Which node takes which replica: all of a group, or none of it.

A GPU replica goes where it strands the fewest GPUs: where no odd rest is left that larger requests cannot use, and
where CPU and memory still match the GPUs that stay free. CPU replicas keep away from free GPUs as long as others
have room. All replicas of one resource unit get the same kind of GPU, because the price depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gpulease.inventory.amounts import GPU_RESOURCE, Amounts
from gpulease.inventory.devices import Node
from gpulease.inventory.free import NodeFree
from gpulease.market.gpu import GpuKind, GpuWant, accepted, wants
from gpulease.market.model import GroupSpec, Resources, ResourceUnit

RAM_CLASS = "ram"
_BLOCKS = (8, 4, 2)
"""Sizes that orders come in besides single GPUs; a free block of such a size is worth keeping whole."""
_LEAN_PERCENT = 50
"""A GPU is stranded once its node has less than this part of a GPU's proportional share of CPU or memory left."""


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """How a replica asks for its GPUs: a resource name, and for DRA the class and CEL selector of its claim."""

    resource: str = GPU_RESOURCE
    device_class: str = ""
    selector: str = ""


@dataclass(frozen=True, slots=True)
class Overcommit:
    """How much more CPU and memory than there is may be promised, in percent; GPUs never."""

    cpu_percent: int = 0
    memory_percent: int = 0

    def requests(self, need: Amounts) -> Amounts:
        """What a replica asks the scheduler for, so that the promised limits may add up to more than there is."""
        cpu = -(-need.cpu_milli * 100 // (100 + self.cpu_percent))
        memory = -(-need.memory_bytes * 100 // (100 + self.memory_percent))
        return Amounts(cpu, memory, need.ephemeral_bytes, need.gpus, need.others)


NO_OVERCOMMIT = Overcommit()


@dataclass(frozen=True, slots=True)
class Placement:
    """Replicas by resource id and node, the amounts they take by node, and what GPUs they get by resource id.

    ``kinds`` has more than one entry where a node's devices differ and any of them may be handed out.
    """

    replicas: Mapping[int, Mapping[str, int]]
    nodes: Mapping[str, Amounts]
    kinds: Mapping[int, tuple[GpuKind, ...]] = field(default_factory=dict)
    grants: Mapping[int, Grant] = field(default_factory=dict)
    overcommit: Overcommit = NO_OVERCOMMIT


@dataclass(frozen=True, slots=True)
class CannotPlace:
    words: str


def need_of(resources: Resources) -> Amounts:
    """What one replica may use on a node; persistent volumes are not on the node's ephemeral disk."""
    ephemeral = ram = 0
    for volume in resources.storage:
        attributes = {a.key: a.value for a in volume.attributes}
        if attributes.get("class") == RAM_CLASS:
            ram += volume.quantity_bytes
        elif attributes.get("persistent") != "true":
            ephemeral += volume.quantity_bytes
    return Amounts(resources.cpu_milli, resources.memory_bytes + ram, ephemeral, resources.gpu_units)


@dataclass(frozen=True, slots=True)
class _Unit:
    """A resource unit with what one replica of it asks the scheduler for, its devices not named yet."""

    unit: ResourceUnit
    request: Amounts
    gpus: int
    asked: tuple[GpuWant, ...]


def place(
    spec: GroupSpec,
    free: Iterable[NodeFree],
    *,
    models_allowed: tuple[str, ...] = (),
    overcommit: Overcommit | None = None,
) -> Placement | CannotPlace:
    """Deterministic: the same input gives the same placement."""
    terms = overcommit or NO_OVERCOMMIT
    nodes = {entry.node.name: entry for entry in free}
    units = [
        _Unit(u, terms.requests(need_of(u.resources)), u.resources.gpu_units, wants(u.resources.gpu_attributes))
        for u in spec.resources
    ]
    # Units with the most GPUs per replica first: they have the fewest places to go. If that does not work out, those
    # that need most memory first: a group is one order, and it is won or lost as a whole.
    by_gpus = sorted(units, key=lambda u: (-u.gpus, -u.request.cpu_milli, u.unit.resources.id))
    by_memory = sorted(units, key=lambda u: (-u.request.memory_bytes, -u.gpus, u.unit.resources.id))
    refusal = CannotPlace("the group asks for nothing")
    for order in (by_gpus, by_memory) if by_gpus != by_memory else (by_gpus,):
        found = _place_all(order, nodes, models_allowed, terms)
        if isinstance(found, Placement):
            return found
        refusal = found if order is by_gpus else refusal
    return refusal


def _place_all(
    order: Sequence[_Unit], nodes: Mapping[str, NodeFree], allowed: tuple[str, ...], terms: Overcommit
) -> Placement | CannotPlace:
    left = {name: entry.free for name, entry in nodes.items()}
    replicas: dict[int, dict[str, int]] = {}
    kinds: dict[int, tuple[GpuKind, ...]] = {}
    grants: dict[int, Grant] = {}
    for unit in order:
        rid = unit.unit.resources.id
        if not unit.gpus:
            filled = _fill(unit, unit.request, tuple(nodes), nodes, left)
            if filled is None:
                return CannotPlace(_lack(unit, left))
            replicas[rid], left = filled
            continue
        for kind, grant, names in _offers(unit, nodes, allowed):
            filled = _fill(unit, unit.request.with_devices(grant.resource, unit.gpus), names, nodes, left)
            if filled is not None:
                replicas[rid], left = filled
                kinds[rid], grants[rid] = kind, grant
                break
        else:
            return CannotPlace(_lack(unit, left))
    taken = {name: nodes[name].free - left[name] for name in nodes if left[name] != nodes[name].free}
    return Placement(replicas, taken, kinds, grants, terms)


_Offer = tuple[tuple[GpuKind, ...], Grant, tuple[str, ...]]


def _offers(unit: _Unit, nodes: Mapping[str, NodeFree], allowed: tuple[str, ...]) -> list[_Offer]:
    """What may be handed out for a unit, and where; of a pool with several kinds the order must accept each."""
    found: dict[tuple[tuple[GpuKind, ...], Grant], list[str]] = {}
    for name, entry in nodes.items():
        for pool in entry.node.pools:
            fits = pool.kinds and all(
                accepted(kind, unit.asked) and (not allowed or kind.model in allowed) for kind in pool.kinds
            )
            if fits:
                grant = Grant(pool.resource, pool.device_class, pool.selector)
                found.setdefault((pool.kinds, grant), []).append(name)
    return [(kinds, grant, tuple(names)) for (kinds, grant), names in sorted(found.items())]


def _fill(
    unit: _Unit, need: Amounts, names: Sequence[str], nodes: Mapping[str, NodeFree], left: Mapping[str, Amounts]
) -> tuple[dict[str, int], dict[str, Amounts]] | None:
    now = dict(left)
    chosen: dict[str, int] = {}
    for _ in range(unit.unit.count):
        fitting = [name for name in names if now[name].covers(need)]
        if not fitting:
            return None
        best = min(fitting, key=lambda name: (*_cost(nodes[name].node, now[name], need), name))
        now[best] = now[best] - need
        chosen[best] = chosen.get(best, 0) + 1
    return chosen, now


def _cost(node: Node, free: Amounts, need: Amounts) -> tuple[int, int, int]:
    """How much a replica would spoil here: GPUs stranded, then GPUs and CPU that stay free beside it."""
    after = free - need
    spoilt = _stranded(node, after) - _stranded(node, free)
    return spoilt, after.devices, after.cpu_milli


def _stranded(node: Node, free: Amounts) -> int:
    """Weighted count of free GPUs that typical requests cannot use any more.

    Of each block size, the rest that does not make a whole block; and every GPU without its lean share of CPU and
    memory, once per size.
    """
    gpus = free.devices
    if not gpus:
        return 0
    total = max(node.allocatable.devices, 1)
    usable = gpus
    for have, all_ in (
        (free.cpu_milli, node.allocatable.cpu_milli),
        (free.memory_bytes, node.allocatable.memory_bytes),
    ):
        share = all_ * _LEAN_PERCENT // (100 * total)
        if share:
            usable = min(usable, have // share)
    rest = sum(usable % block for block in _BLOCKS)
    return rest + (len(_BLOCKS) + 1) * (gpus - usable)


def _lack(unit: _Unit, left: Mapping[str, Amounts]) -> str:
    need = unit.request
    most = max((amounts.devices for amounts in left.values()), default=0)
    what = f"{need.cpu_milli}m CPU, {need.memory_bytes >> 20} MiB memory, {need.ephemeral_bytes >> 20} MiB disk"
    gpus = f", {unit.gpus} GPU" if unit.gpus else ""
    return f"no node has room for {unit.unit.count} × ({what}{gpus}); the most free GPUs on one node are {most}"
