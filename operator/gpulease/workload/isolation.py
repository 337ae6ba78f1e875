"""What keeps tenants apart from each other, from the node and from the provider's networks (DESIGN §7)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from gpulease.inventory.placement import need_of
from gpulease.workload.model import ManifestGroup

PRIVATE_V4 = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
PRIVATE_V6 = ("::1/128", "64:ff9b::/96", "fc00::/7", "fe80::/10", "ff00::/8")
_FORBIDDEN_ENV = ("NVIDIA_", "CUDA_MPS_", "LD_PRELOAD")
"""Set by a tenant these would choose devices, or libraries inside the runtime's hooks."""


def refusal(group: ManifestGroup) -> str | None:
    """Why this group may not run here, None when it may."""
    for service in group.services:
        for entry in service.env or ():
            name = entry.split("=", 1)[0]
            if name.upper().startswith(_FORBIDDEN_ENV):
                return f"service {service.name} sets {name}, which is the provider's to set: remove it from env"
        for volume in service.resources.storage:
            if any(a.key == "persistent" and a.value == "true" for a in volume.attributes):
                return f"service {service.name} asks for persistent volume {volume.name}, which is not offered here"
    return None


def namespace_labels(pod_security: str) -> dict[str, str]:
    prefix = "pod-security.kubernetes.io"
    return {f"{prefix}/{mode}": pod_security for mode in ("enforce", "audit", "warn")} | {
        f"{prefix}/enforce-version": "latest"
    }


def pod_security_context() -> dict[str, Any]:
    return {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def baseline_pod_security_context() -> dict[str, Any]:
    """Class ``baseline``: images that run as root are let in, everything else stays closed."""
    return {"seccompProfile": {"type": "RuntimeDefault"}}


def container_security_context(pod_security: str) -> dict[str, Any]:
    context: dict[str, Any] = {"allowPrivilegeEscalation": False, "privileged": False}
    if pod_security == "restricted":
        context |= {"capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    return context


def network_rules(group: ManifestGroup, *, closed_ranges: Sequence[str], opened: Sequence[str]) -> dict[str, Any]:
    """The spec of the namespace's one NetworkPolicy: default deny, with the exceptions of DESIGN §7.

    ``closed_ranges`` are the cluster's own (nodes, API server, pods, services); ``opened`` the admin's exceptions.
    """
    own: dict[str, Any] = {"podSelector": {}}
    ingress: list[dict[str, Any]] = [{"from": [own]}]
    ports = sorted({(e.port, e.protocol) for s in group.services for e in s.expose if e.is_global})
    if ports:
        ingress.append({"ports": [{"port": port, "protocol": protocol} for port, protocol in ports]})
    dns = {
        "to": [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
            }
        ],
        "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
    }
    closed = [*PRIVATE_V4, *PRIVATE_V6, *closed_ranges]
    public = [
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": list(_minimal(tuple(closed), 4))}},
        {"ipBlock": {"cidr": "::/0", "except": list(_minimal(tuple(closed), 6))}},
    ]
    egress: list[dict[str, Any]] = [{"to": [own]}, dns, {"to": public}]
    if opened:
        egress.append({"to": [{"ipBlock": {"cidr": cidr}} for cidr in sorted(opened)]})
    return {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": ingress, "egress": egress}


@lru_cache(maxsize=64)
def _minimal(ranges: tuple[str, ...], version: int) -> tuple[str, ...]:
    """Without what another range covers, so that the policy does not change with every node of one subnet."""
    networks = [ipaddress.ip_network(text, strict=False) for text in ranges]
    if version == 4:
        return tuple(str(n) for n in ipaddress.collapse_addresses(n for n in networks if n.version == 4))
    return tuple(str(n) for n in ipaddress.collapse_addresses(n for n in networks if n.version == 6))


def quota_spec(group: ManifestGroup) -> dict[str, Any]:
    """Exactly what was leased: nothing else can be started in the namespace."""
    cpu = memory = ephemeral = gpus = pods = 0
    for service in group.services:
        need = need_of(service.resources)
        cpu += need.cpu_milli * service.count
        memory += need.memory_bytes * service.count
        ephemeral += need.ephemeral_bytes * service.count
        gpus += need.gpus * service.count
        pods += service.count
    hard = {
        "pods": str(pods),
        "requests.cpu": f"{cpu}m",
        "limits.cpu": f"{cpu}m",
        "requests.memory": str(memory),
        "limits.memory": str(memory),
        "requests.ephemeral-storage": str(ephemeral),
        "limits.ephemeral-storage": str(ephemeral),
        "requests.nvidia.com/gpu": str(gpus),
        "persistentvolumeclaims": "0",
        "services.loadbalancers": "0",
    }
    return {"hard": hard}


def limit_range_spec(group: ManifestGroup) -> dict[str, Any]:
    """No container larger than the largest service; none without limits."""
    needs = [need_of(service.resources) for service in group.services]
    most: Mapping[str, str] = {
        "cpu": f"{max(n.cpu_milli for n in needs)}m",
        "memory": str(max(n.memory_bytes for n in needs)),
        "ephemeral-storage": str(max(n.ephemeral_bytes for n in needs)),
    }
    return {"limits": [{"type": "Container", "max": dict(most), "default": dict(most), "defaultRequest": dict(most)}]}
