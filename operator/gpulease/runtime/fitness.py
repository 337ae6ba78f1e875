"""The parts of a GPUProvider's status that speak of nodes and devices. Pure: what is seen in, conditions out.

Texts name at most a few nodes and are in a fixed order, so that the status changes only when the matter does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gpulease.inventory.devices import Node
from gpulease.inventory.free import NodeFree
from gpulease.inventory.health import Quarantine
from gpulease.market.gpu import GpuKind
from gpulease.planning import Condition

_MOST_NAMED = 5


def inventory(kinds: Sequence[GpuKind], nodes: Iterable[Node]) -> Condition:
    """Is there anything to sell?"""
    if kinds:
        return Condition.true("InventoryReady", "GPUsFound", "On offer: " + ", ".join(map(str, kinds)) + ".")
    problems = sorted(f"node {node.name}: {pool.problem}" for node in nodes for pool in node.pools if pool.problem)
    if problems:
        return Condition.false("InventoryReady", "NotForSale", _listed(problems))
    words = (
        "No usable node has GPUs: check that NVIDIA's device plugin runs and that GPU feature discovery labels the "
        "nodes with nvidia.com/gpu.product."
    )
    return Condition.false("InventoryReady", "NoGPUs", words)


def nodes_fit(
    free: Iterable[NodeFree],
    old_versions: Mapping[str, str],
    unknown_versions: Mapping[str, Sequence[str]],
    *,
    dra_forbidden: bool = False,
) -> Condition:
    """Which nodes are not sold, or not in full, and why."""
    entries = tuple(free)
    short = [
        f"node {e.node.name} holds more than it may ({_over(e.node)}): nothing more is sold there until pods end or "
        "its devices come back"
        for e in entries
        if e.shortfall
    ]
    if short:
        return Condition.false("NodesFit", "CapacityShort", _listed(short))
    old = [f"node {name}: {problem}" for name, problem in sorted(old_versions.items())]
    if old:
        return Condition.false("NodesFit", "BelowNodeFloor", _listed(old))
    unsold = [f"node {e.node.name}: {pool.problem}" for e in entries for pool in e.node.pools if pool.problem]
    if unsold:
        return Condition.false("NodesFit", "NotForSale", _listed(unsold))
    drained = sorted(e.node.name for e in entries if e.node.cordoned)
    if drained:
        return Condition.false("NodesFit", "Cordoned", f"Cordoned and not sold: {', '.join(drained[:_MOST_NAMED])}.")
    if dra_forbidden:
        words = (
            "The operator may not list resourceslices and resourceclaims of resource.k8s.io: grant it, or GPUs that "
            "a DRA driver hands out are not seen."
        )
        return Condition.unknown("NodesFit", "SlicesUnreadable", words)
    unknown = sorted({what for names in unknown_versions.values() for what in names})
    words = f" Not told by every node: the version of {', '.join(unknown)}." if unknown else ""
    return Condition.true("NodesFit", "AllFit", f"Every node is fit for sale.{words}")


def _over(node: Node) -> str:
    withdrawn = f"; {node.sick_gpus} of its devices were withdrawn" if node.sick_gpus else ""
    return f"{node.allocatable.devices} devices allocatable{withdrawn}"


def devices_healthy(quarantines: Iterable[Quarantine]) -> Condition:
    found = sorted(str(q) for q in quarantines)
    if not found:
        return Condition.true("DevicesHealthy", "NoneQuarantined", "No device is in quarantine.")
    words = _listed(found) + " Put one back with the annotation gpulease.dev/release-device=UUID once it is repaired."
    return Condition.false("DevicesHealthy", "Quarantined", words)


def orphans(namespaces: Sequence[str]) -> Condition:
    if not namespaces:
        return Condition.false("Orphans", "None", "Every lease namespace belongs to a lease on chain.")
    words = (
        f"The chain knows no lease for {', '.join(namespaces[:_MOST_NAMED])}: its pods were stopped. Delete the "
        "namespace if nothing in it is needed."
    )
    return Condition.true("Orphans", "NamespacesWithoutLease", words)


def _listed(problems: Sequence[str]) -> str:
    more = len(problems) - _MOST_NAMED
    text = "; ".join(problems[:_MOST_NAMED])
    return f"{text[0].upper()}{text[1:]}" + (f"; and {more} more." if more > 0 else ".")
