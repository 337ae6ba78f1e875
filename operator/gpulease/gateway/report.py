"""Status bodies of the gateway, from what the cluster shows (gateway reference §1). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpulease.inventory.devices import Amounts, node_of, pod_use, sum_amounts
from gpulease.inventory.placement import need_of
from gpulease.workload.model import HTTP_PORT, ManifestGroup
from gpulease.workload.objects import SERVICE_LABEL, URIS_ANNOTATION

Json = Mapping[str, Any]


def workload_name(body: Json) -> str:
    """The service that a Deployment or StatefulSet is for."""
    meta = body["metadata"]
    return str((meta.get("labels") or {}).get(SERVICE_LABEL) or meta["name"])


def service_status(body: Json) -> dict[str, Any]:
    """Of one Deployment or StatefulSet; ``uris`` is null when no host name leads there."""
    status = body.get("status") or {}
    stateful = body.get("kind") == "StatefulSet"
    available = int(status.get("currentReplicas" if stateful else "availableReplicas", 0))
    uris = [u for u in str((body["metadata"].get("annotations") or {}).get(URIS_ANNOTATION, "")).split(",") if u]
    return {
        "name": workload_name(body),
        "available": available,
        "total": int(status.get("replicas", 0)),
        "uris": uris or None,
        "observed_generation": int(status.get("observedGeneration", 0)),
        "replicas": int(status.get("replicas", 0)),
        "updated_replicas": int(status.get("updatedReplicas", 0)),
        "ready_replicas": int(status.get("readyReplicas", 0)),
        "available_replicas": available,
    }


def with_hosts_of(status: dict[str, Any], workloads: Sequence[Json]) -> dict[str, Any]:
    """As the peer tells a single service: one that has a host name is told with all of the lease's."""
    if status["uris"] is None:
        return status
    listed = [host for body in workloads for host in service_status(body)["uris"] or ()]
    return status | {"uris": list(dict.fromkeys(listed))}


def lease_status(
    group: ManifestGroup, workloads: Sequence[Json], node_ports: Sequence[Json], *, host: str
) -> dict[str, Any]:
    """``node_ports`` are the Services of type NodePort in the lease's namespace."""
    services = {workload_name(body): service_status(body) for body in workloads}
    return {"services": services, "forwarded_ports": forwarded_ports(group, node_ports, host=host), "ips": None}


def forwarded_ports(group: ManifestGroup, node_ports: Sequence[Json], *, host: str) -> dict[str, Any] | None:
    """None unless some global expose is on another external port than 80, as the peer has it."""
    if not any(e.is_global and e.external_port != HTTP_PORT for s in group.services for e in s.expose):
        return None
    found: dict[str, list[dict[str, Any]]] = {}
    for body in node_ports:
        name = workload_name(body)
        for port in body["spec"].get("ports") or ():
            if not port.get("nodePort"):
                continue
            entry = {
                "host": host,
                "port": int(port["targetPort"]),
                "externalPort": int(port["nodePort"]),
                "proto": str(port.get("protocol", "TCP")),
                "name": name,
            }
            found.setdefault(name, []).append({k: v for k, v in entry.items() if k != "host" or v})
    return found


def only(body: dict[str, Any], services: frozenset[str]) -> dict[str, Any]:
    """A lease status cut down to the services that a token names."""
    ports = body["forwarded_ports"]
    return {
        "services": {k: v for k, v in body["services"].items() if k in services},
        "forwarded_ports": None if ports is None else {k: v for k, v in ports.items() if k in services},
        "ips": body["ips"],
    }


def group_amounts(group: ManifestGroup) -> dict[str, int]:
    return _amounts(sum_amounts(need_of(s.resources) * s.count for s in group.services))


def _amounts(amounts: Amounts) -> dict[str, int]:
    return {
        "cpu": amounts.cpu_milli,
        "gpu": amounts.gpus,
        "memory": amounts.memory_bytes,
        "storage_ephemeral": amounts.ephemeral_bytes,
    }


def provider_status(
    *,
    address: str,
    host: str,
    groups: Iterable[ManifestGroup],
    deployments: int,
    leases: int,
    nodes: Iterable[Json],
    pods: Iterable[Json],
) -> dict[str, Any]:
    """``leases`` as on chain; ``groups`` those whose manifest is here; free is allocatable minus what pods ask for."""
    uses = [use for use in map(pod_use, pods) if use is not None]
    listed = []
    for node in map(node_of, nodes):
        free = (node.allocatable - sum_amounts(use.amounts for use in uses if use.node == node.name)).floor()
        listed.append({"name": node.name, "allocatable": _amounts(node.allocatable), "available": _amounts(free)})
    active = [group_amounts(group) for group in groups]
    inventory: dict[str, Any] = {"active": active} if active else {}
    inventory["available"] = {"nodes": listed} if listed else {}
    cluster = {"leases": leases, "inventory": inventory}
    body = {"cluster": cluster, "bidengine": {"orders": 0}, "manifest": {"deployments": deployments}}
    return body | ({"cluster_public_hostname": host} if host else {}) | {"address": address}
