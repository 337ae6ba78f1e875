"""From a manifest group to the Kubernetes objects of one lease, in the order in which they have to be applied.

The same input gives the same objects, byte for byte: what differs from the cluster is what has to be written.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpulease.ids import LeaseId
from gpulease.inventory.devices import LEASE_LABEL
from gpulease.inventory.placement import NO_OVERCOMMIT, RAM_CLASS, Grant, Overcommit, need_of
from gpulease.market.attributes import persistent_class
from gpulease.workload import isolation
from gpulease.workload.model import HTTP_PORT, Expose, ManifestGroup, Service
from gpulease.workload.names import lease_namespace, static_host

SERVICE_LABEL = "gpulease.dev/service"
LEASE_ID_ANNOTATION = "gpulease.dev/lease-id"
URIS_ANNOTATION = "gpulease.dev/uris"
ROUTE_API = "gateway.networking.k8s.io/v1"
MANAGED_BY = {"app.kubernetes.io/managed-by": "gpulease"}
_GRACE_S = 10
_GPU_CLAIM = "gpu"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hosting:
    """How this provider hosts: its isolation class, runtime, networks and names."""

    pod_security: str = "restricted"
    runtime_class: str | None = None
    closed_ranges: tuple[str, ...] = ()
    opened_ranges: tuple[str, ...] = ()
    domain: str = ""
    public_host: str = ""
    ingress_class: str | None = None
    http_gateway: tuple[str, str] | None = None
    """(namespace, name) of the Gateway that routes attach to; None: Ingress objects."""
    storage_classes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hosted:
    """One lease to host, with what its bid reserved: by resource id, on which nodes and which devices."""

    lease: LeaseId
    group: ManifestGroup
    nodes: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    grants: Mapping[int, Grant] = field(default_factory=dict)
    overcommit: Overcommit = NO_OVERCOMMIT

    def grant(self, service: Service) -> Grant:
        return self.grants.get(service.resources.id, Grant())


def build(hosted: Hosted, hosting: Hosting) -> tuple[Json, ...]:
    """Namespace first, then what limits it, then what runs in it."""
    namespace = lease_namespace(hosted.lease)
    rules = isolation.network_rules(hosted.group, closed_ranges=hosting.closed_ranges, opened=hosting.opened_ranges)
    objects = [
        _namespace(hosted.lease, namespace, hosting.pod_security),
        _object("networking.k8s.io/v1", "NetworkPolicy", "lease", namespace, spec=rules),
        _object("v1", "ResourceQuota", "lease", namespace, spec=_quota(hosted)),
        _object("v1", "LimitRange", "lease", namespace, spec=isolation.limit_range_spec(hosted.group)),
    ]
    for service in hosted.group.services:
        if service.credentials is not None:
            objects.append(_pull_secret(service, namespace))
        objects.extend(_claims(hosted, service, hosting, namespace))
        objects.append(_deployment(hosted, service, hosting, namespace))
        objects.extend(_services(hosted, service, hosting, namespace))
    return tuple(objects)


def _quota(hosted: Hosted) -> Json:
    return isolation.quota_spec(hosted.group, grants=hosted.grants, overcommit=hosted.overcommit)


def _claims(hosted: Hosted, service: Service, hosting: Hosting, namespace: str) -> list[Json]:
    """What a service claims beside CPU and memory: persistent volumes, and its GPUs where DRA hands them out."""
    found: list[Json] = []
    for volume in service.resources.storage:
        class_ = persistent_class(volume)
        if class_ is None:
            continue
        spec: Json = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": str(volume.quantity_bytes)}},
            "storageClassName": hosting.storage_classes.get(class_, class_),
        }
        name = _volume_claim(service, volume.name)
        found.append(_object("v1", "PersistentVolumeClaim", name, namespace, service=service.name, spec=spec))
    grant = hosted.grant(service)
    if grant.device_class and service.resources.gpu_units:
        exactly: Json = {
            "deviceClassName": grant.device_class,
            "selectors": [{"cel": {"expression": grant.selector}}],
            "allocationMode": "ExactCount",
            "count": service.resources.gpu_units,
        }
        spec = {
            "metadata": {"labels": _labels(namespace, service.name)},
            "spec": {"devices": {"requests": [{"name": _GPU_CLAIM, "exactly": exactly}]}},
        }
        name = f"{service.name}-gpu"
        kind = "ResourceClaimTemplate"
        found.append(_object("resource.k8s.io/v1", kind, name, namespace, service=service.name, spec=spec))
    return found


def _volume_claim(service: Service, volume: str) -> str:
    return f"{service.name}-{volume}"


def _labels(namespace: str, service: str = "") -> dict[str, str]:
    labels = {**MANAGED_BY, LEASE_LABEL: namespace}
    return {**labels, SERVICE_LABEL: service} if service else labels


def _object(api_version: str, kind: str, name: str, namespace: str, *, service: str = "", **fields: Any) -> Json:
    meta = {"name": name, "namespace": namespace, "labels": _labels(namespace, service)}
    return {"apiVersion": api_version, "kind": kind, "metadata": meta, **fields}


def _namespace(lease: LeaseId, namespace: str, pod_security: str) -> Json:
    labels = {
        **_labels(namespace),
        **isolation.namespace_labels(pod_security),
        "akash.network/lease.id.dseq": str(lease.dseq),
        "akash.network/lease.id.gseq": str(lease.gseq),
        "akash.network/lease.id.oseq": str(lease.oseq),
        "akash.network/lease.id.owner": lease.owner,
        "akash.network/lease.id.provider": lease.provider,
    }
    meta = {"name": namespace, "labels": labels, "annotations": {LEASE_ID_ANNOTATION: str(lease)}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}


def _pull_secret(service: Service, namespace: str) -> Json:
    assert service.credentials is not None
    login = {"username": service.credentials.username, "password": service.credentials.password}
    if service.credentials.email:
        login["email"] = service.credentials.email
    config = json.dumps({"auths": {service.credentials.host: login}}, sort_keys=True, separators=(",", ":"))
    return _object(
        "v1",
        "Secret",
        f"{service.name}-pull",
        namespace,
        service=service.name,
        type="kubernetes.io/dockerconfigjson",
        data={".dockerconfigjson": base64.b64encode(config.encode()).decode()},
    )


def uris(lease: LeaseId, service: Service, domain: str) -> tuple[str, ...]:
    """Host names that lead to a service through the ingress; none without a domain."""
    if not domain:
        return ()
    found: list[str] = []
    for expose in service.expose:
        if expose.is_ingress:
            # Names under the provider's own domain are given out by lease, never by asking.
            found.extend(h for h in expose.hosts or () if h.lower() != domain and not h.lower().endswith(f".{domain}"))
            found.append(static_host(lease, service.name, domain))
    return tuple(dict.fromkeys(found))


def _deployment(hosted: Hosted, service: Service, hosting: Hosting, namespace: str) -> Json:
    labels = _labels(namespace, service.name)
    need = need_of(service.resources)
    keeps = any(persistent_class(volume) is not None for volume in service.resources.storage)
    # A second pod beside the old one would need a second GPU, or the volume that the old one still has.
    strategy: Json = (
        {"type": "Recreate"}
        if need.gpus or keeps
        else {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    )
    annotations = {LEASE_ID_ANNOTATION: str(hosted.lease)}
    names = uris(hosted.lease, service, hosting.domain)
    if names:
        annotations[URIS_ANNOTATION] = ",".join(names)
    built = _object(
        "apps/v1",
        "Deployment",
        service.name,
        namespace,
        service=service.name,
        spec={
            "replicas": service.count,
            "revisionHistoryLimit": 1,
            "strategy": strategy,
            "selector": {"matchLabels": {LEASE_LABEL: namespace, SERVICE_LABEL: service.name}},
            "template": {"metadata": {"labels": labels}, "spec": _pod_spec(hosted, service, hosting)},
        },
    )
    built["metadata"]["annotations"] = annotations
    return built


def _pod_spec(hosted: Hosted, service: Service, hosting: Hosting) -> Json:
    restricted = hosting.pod_security == "restricted"
    spec: Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_S,
        "securityContext": (
            isolation.pod_security_context() if restricted else isolation.baseline_pod_security_context()
        ),
        "containers": [_container(hosted, service, hosting)],
    }
    if hosted.grant(service).device_class and service.resources.gpu_units:
        spec["resourceClaims"] = [{"name": _GPU_CLAIM, "resourceClaimTemplateName": f"{service.name}-gpu"}]
    if service.credentials is not None:
        spec["imagePullSecrets"] = [{"name": f"{service.name}-pull"}]
    if hosting.runtime_class and service.resources.gpu_units:
        spec["runtimeClassName"] = hosting.runtime_class
    nodes = hosted.nodes.get(service.resources.id)
    if nodes:
        # matchFields takes one value per requirement: several nodes are alternatives.
        terms = [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]} for node in sorted(nodes)
        ]
        required = {"nodeSelectorTerms": terms}
        spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    volumes = _volumes(service)
    if volumes:
        spec["volumes"] = volumes
    return spec


def _container(hosted: Hosted, service: Service, hosting: Hosting) -> Json:
    need, grant = need_of(service.resources), hosted.grant(service)
    limits, requests = isolation.amounts_spec(need), isolation.amounts_spec(hosted.overcommit.requests(need))
    resources: Json = {"limits": limits, "requests": requests}
    if need.gpus and grant.device_class:
        resources["claims"] = [{"name": _GPU_CLAIM}]
    elif need.gpus:
        limits[grant.resource] = requests[grant.resource] = str(need.gpus)
    container: Json = {
        "name": service.name,
        "image": service.image,
        "resources": resources,
        "env": _env(hosted, service, hosting),
        "securityContext": isolation.container_security_context(hosting.pod_security),
    }
    if service.command:
        container["command"] = list(service.command)
    if service.args:
        container["args"] = list(service.args)
    ports = sorted({(e.port, e.protocol) for e in service.expose})
    if ports:
        container["ports"] = [{"containerPort": port, "protocol": protocol} for port, protocol in ports]
    mounts = (service.params.mounts or ()) if service.params else ()
    if mounts:
        container["volumeMounts"] = [
            {"name": m.name, "mountPath": m.path, **({"readOnly": True} if m.read_only else {})} for m in mounts
        ]
    return container


def _env(hosted: Hosted, service: Service, hosting: Hosting) -> list[Json]:
    lease = hosted.lease
    own = {
        "AKASH_GROUP_SEQUENCE": str(lease.gseq),
        "AKASH_DEPLOYMENT_SEQUENCE": str(lease.dseq),
        "AKASH_ORDER_SEQUENCE": str(lease.oseq),
        "AKASH_OWNER": lease.owner,
        "AKASH_PROVIDER": lease.provider,
        "AKASH_CLUSTER_PUBLIC_HOSTNAME": hosting.public_host,
    }
    if not service.resources.gpu_units:
        # Without this an image that sets it to "all" sees every GPU of the node under NVIDIA's runtime.
        own["NVIDIA_VISIBLE_DEVICES"] = "void"
    tenant = {name: value for name, _, value in (entry.partition("=") for entry in service.env or ())}
    return [{"name": name, "value": value} for name, value in {**tenant, **own}.items()]


def _volumes(service: Service) -> list[Json]:
    mounted = {m.name for m in (service.params.mounts or ())} if service.params else set()
    volumes = []
    for volume in service.resources.storage:
        if volume.name not in mounted:
            continue
        if persistent_class(volume) is not None:
            claim = {"claimName": _volume_claim(service, volume.name)}
            volumes.append({"name": volume.name, "persistentVolumeClaim": claim})
            continue
        source: Json = {"sizeLimit": str(volume.quantity_bytes)}
        if any(a.key == "class" and a.value == RAM_CLASS for a in volume.attributes):
            source["medium"] = "Memory"
        volumes.append({"name": volume.name, "emptyDir": source})
    return volumes


def _services(hosted: Hosted, service: Service, hosting: Hosting, namespace: str) -> list[Json]:
    inside = [e for e in service.expose if e.is_ingress or not e.is_global]
    outside = [e for e in service.expose if e.is_global and not e.is_ingress]
    selector = {LEASE_LABEL: namespace, SERVICE_LABEL: service.name}
    found: list[Json] = []
    if inside:
        spec = {"type": "ClusterIP", "selector": selector, "ports": _ports(inside)}
        found.append(_object("v1", "Service", service.name, namespace, service=service.name, spec=spec))
    if outside:
        spec = {"type": "NodePort", "selector": selector, "ports": _ports(outside)}
        found.append(_object("v1", "Service", f"{service.name}-np", namespace, service=service.name, spec=spec))
    names = uris(hosted.lease, service, hosting.domain)
    if names:
        found.append(_route(service, hosting, namespace, names))
    return found


def _ports(exposes: list[Expose]) -> list[Json]:
    unique = {(e.outside_port, e.protocol): e for e in exposes}
    return [
        {"name": f"{outside}-{protocol.lower()}", "port": outside, "targetPort": e.port, "protocol": protocol}
        for (outside, protocol), e in sorted(unique.items())
    ]


def _route(service: Service, hosting: Hosting, namespace: str, names: tuple[str, ...]) -> Json:
    """How the service is reached by name: an HTTPRoute where the admin names a Gateway, else an Ingress."""
    if hosting.http_gateway is not None:
        gateway_namespace, gateway = hosting.http_gateway
        spec: Json = {
            "parentRefs": [{"name": gateway, "namespace": gateway_namespace}],
            "hostnames": list(names),
            "rules": [{"backendRefs": [{"name": service.name, "port": HTTP_PORT}]}],
        }
        return _object(ROUTE_API, "HTTPRoute", service.name, namespace, service=service.name, spec=spec)
    backend = {"service": {"name": service.name, "port": {"number": HTTP_PORT}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    spec = {"rules": [{"host": name, "http": {"paths": [path]}} for name in names]}
    if hosting.ingress_class:
        spec["ingressClassName"] = hosting.ingress_class
    return _object("networking.k8s.io/v1", "Ingress", service.name, namespace, service=service.name, spec=spec)
