"""What keeps tenants apart from each other, from the node and from the provider's networks (DESIGN §7)."""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from gpulease.inventory.amounts import GPU_RESOURCE, Amounts
from gpulease.inventory.placement import Grant, Overcommit, need_of
from gpulease.market.attributes import persistent_class
from gpulease.workload.model import ManifestGroup, Service

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
_FORBIDDEN_ENV = ("NVIDIA_", "CUDA_MPS_", "LD_PRELOAD", "LD_AUDIT", "GLIBC_TUNABLES")
"""Set by a tenant these would choose devices, or libraries inside the runtime's hooks."""
_CAPABILITIES_ENV = "NVIDIA_DRIVER_CAPABILITIES"
_CAPABILITIES = frozenset({"compute", "utility", "video", "graphics"})
"""Driver parts that a tenant may ask for; ``all`` would mount whatever a later driver adds."""
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
_CLOSED_PATHS = (
    "/proc",
    "/sys",
    "/dev",
    "/run/nvidia",
    "/run/nvidia-persistenced",
    "/run/secrets",
    "/var/run",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/nvidia-container-runtime",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/nvidia",
    "/usr/sbin",
    "/bin",
    "/lib",
    "/lib64",
    "/sbin",
)
"""A volume over one of these, or over a folder that holds one, would stand where the runtime puts its own."""
_OPEN_PATHS = ("/dev/shm",)
_MOST_ENV = 256
_MOST_ENV_BYTES = 128 * 1024
_MOST_WORDS_BYTES = 64 * 1024


def refusal(group: ManifestGroup) -> str | None:
    """Why this group may not run here, None when it may. The tenant reads it, so it says what to change."""
    for service in group.services:
        problem = _env_refusal(service) or _command_refusal(service) or _volume_refusal(service)
        if problem is not None:
            return f"service {service.name} {problem}"
    return None


def _env_refusal(service: Service) -> str | None:
    entries = service.env or ()
    if len(entries) > _MOST_ENV or sum(len(entry) for entry in entries) > _MOST_ENV_BYTES:
        return f"sets more than {_MOST_ENV} variables or {_MOST_ENV_BYTES >> 10} KiB of them: put them into the image"
    for entry in entries:
        name, _, value = entry.partition("=")
        if not _ENV_NAME.match(name):
            return f"sets {name[:40]!r}, which is no name of a variable: use letters, digits and underscores"
        if name == _CAPABILITIES_ENV:
            unknown = {part.strip() for part in value.split(",")} - _CAPABILITIES
            if unknown:
                allowed = ", ".join(sorted(_CAPABILITIES))
                return f"asks for driver capabilities {', '.join(sorted(unknown))[:80]}; allowed are {allowed}"
        elif name.upper().startswith(_FORBIDDEN_ENV):
            return f"sets {name}, which is the provider's to set: remove it from env"
    return None


def _command_refusal(service: Service) -> str | None:
    words = (*(service.command or ()), *(service.args or ()))
    if sum(len(word) for word in words) > _MOST_WORDS_BYTES:
        return f"has a command of more than {_MOST_WORDS_BYTES >> 10} KiB: put a script into the image"
    return None


def _volume_refusal(service: Service) -> str | None:
    for volume in service.resources.storage:
        if persistent_class(volume) is not None and service.count > 1:
            return (
                f"has {service.count} replicas and persistent volume {volume.name}, which belongs to one: use count 1"
            )
    for mount in (service.params.mounts or ()) if service.params else ():
        path = posixpath.normpath(mount.path)
        if ".." in mount.path.split("/") or not mount.path.startswith("/") or path == "/":
            return f"mounts {mount.name} at {mount.path[:80]}: name an absolute path below / without .."
        closed = any(_within(path, base) or _within(base, path) for base in _CLOSED_PATHS)
        if closed and not any(_within(path, base) for base in _OPEN_PATHS):
            return f"mounts {mount.name} at {mount.path[:80]}, which belongs to the system: choose another path"
    return None


def _within(path: str, base: str) -> bool:
    return path == base or path.startswith(f"{base}/")


def amounts_spec(amounts: Amounts) -> dict[str, str]:
    """A resource list without devices."""
    return {
        "cpu": f"{amounts.cpu_milli}m",
        "memory": str(amounts.memory_bytes),
        "ephemeral-storage": str(amounts.ephemeral_bytes),
    }


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


def quota_spec(
    group: ManifestGroup, *, grants: Mapping[int, Grant] | None = None, overcommit: Overcommit | None = None
) -> dict[str, Any]:
    """Exactly what was leased: nothing else can be started in the namespace."""
    terms = overcommit or Overcommit()
    limits, requests = Amounts(), Amounts()
    devices: dict[str, int] = {f"requests.{GPU_RESOURCE}": 0}
    pods = claims = claimed_bytes = 0
    for service in group.services:
        need = need_of(service.resources)
        limits, requests = limits + need * service.count, requests + terms.requests(need) * service.count
        pods += service.count
        kept = [v.quantity_bytes for v in service.resources.storage if persistent_class(v) is not None]
        claims, claimed_bytes = claims + len(kept), claimed_bytes + sum(kept)
        if need.gpus:
            grant = (grants or {}).get(service.resources.id, Grant())
            named = f"requests.{grant.resource}"
            if grant.device_class:
                named = f"{grant.device_class}.deviceclass.resource.k8s.io/devices"
            devices[named] = devices.get(named, 0) + need.gpus * service.count
    hard = {
        "pods": str(pods),
        **{f"requests.{name}": value for name, value in amounts_spec(requests).items()},
        **{f"limits.{name}": value for name, value in amounts_spec(limits).items()},
        **{name: str(count) for name, count in devices.items()},
        "persistentvolumeclaims": str(claims),
        "services.loadbalancers": "0",
    }
    if claims:
        hard["requests.storage"] = str(claimed_bytes)
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
