"""Names of Kubernetes objects and the URL paths that lead to them.

Paths need the plural of a kind. Ours and the built-in ones we use are in a table, so that start-up costs no discovery
calls; any other kind is looked up once (:meth:`gpulease.kube.client.Cluster`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Json = dict[str, Any]
"""One object as the API server spells it."""


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """One object; ``namespace`` is None for cluster-scoped kinds."""

    api_version: str
    kind: str
    name: str
    namespace: str | None = None

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> Ref:
        """The name of a body that carries ``apiVersion``, ``kind`` and ``metadata.name``; ``KeyError`` otherwise."""
        meta = obj["metadata"]
        return cls(str(obj["apiVersion"]), str(obj["kind"]), str(meta["name"]), meta.get("namespace") or None)

    def __str__(self) -> str:
        place = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind} {place}{self.name}"


@dataclass(frozen=True, slots=True)
class Listing:
    """A consistent snapshot of a collection as of ``resource_version``."""

    items: tuple[Json, ...]
    resource_version: str


@dataclass(frozen=True, slots=True)
class Resource:
    """How the API server spells a kind in a path."""

    plural: str
    namespaced: bool


_NAMESPACED = True
_CLUSTER = False

_TABLE: dict[str, dict[str, tuple[str, bool]]] = {
    "v1": {
        "ConfigMap": ("configmaps", _NAMESPACED),
        "Endpoints": ("endpoints", _NAMESPACED),
        "Event": ("events", _NAMESPACED),
        "LimitRange": ("limitranges", _NAMESPACED),
        "Namespace": ("namespaces", _CLUSTER),
        "Node": ("nodes", _CLUSTER),
        "PersistentVolumeClaim": ("persistentvolumeclaims", _NAMESPACED),
        "Pod": ("pods", _NAMESPACED),
        "ResourceQuota": ("resourcequotas", _NAMESPACED),
        "Secret": ("secrets", _NAMESPACED),
        "Service": ("services", _NAMESPACED),
        "ServiceAccount": ("serviceaccounts", _NAMESPACED),
    },
    "apps/v1": {
        "ControllerRevision": ("controllerrevisions", _NAMESPACED),
        "DaemonSet": ("daemonsets", _NAMESPACED),
        "Deployment": ("deployments", _NAMESPACED),
        "ReplicaSet": ("replicasets", _NAMESPACED),
        "StatefulSet": ("statefulsets", _NAMESPACED),
    },
    "batch/v1": {"CronJob": ("cronjobs", _NAMESPACED), "Job": ("jobs", _NAMESPACED)},
    "networking.k8s.io/v1": {
        "Ingress": ("ingresses", _NAMESPACED),
        "IngressClass": ("ingressclasses", _CLUSTER),
        "NetworkPolicy": ("networkpolicies", _NAMESPACED),
    },
    "policy/v1": {"PodDisruptionBudget": ("poddisruptionbudgets", _NAMESPACED)},
    "rbac.authorization.k8s.io/v1": {
        "ClusterRole": ("clusterroles", _CLUSTER),
        "ClusterRoleBinding": ("clusterrolebindings", _CLUSTER),
        "Role": ("roles", _NAMESPACED),
        "RoleBinding": ("rolebindings", _NAMESPACED),
    },
    "coordination.k8s.io/v1": {"Lease": ("leases", _NAMESPACED)},
    "events.k8s.io/v1": {"Event": ("events", _NAMESPACED)},
    "discovery.k8s.io/v1": {"EndpointSlice": ("endpointslices", _NAMESPACED)},
    "node.k8s.io/v1": {"RuntimeClass": ("runtimeclasses", _CLUSTER)},
    "scheduling.k8s.io/v1": {"PriorityClass": ("priorityclasses", _CLUSTER)},
    "storage.k8s.io/v1": {"StorageClass": ("storageclasses", _CLUSTER)},
    "resource.k8s.io/v1": {
        "DeviceClass": ("deviceclasses", _CLUSTER),
        "ResourceClaim": ("resourceclaims", _NAMESPACED),
        "ResourceClaimTemplate": ("resourceclaimtemplates", _NAMESPACED),
        "ResourceSlice": ("resourceslices", _CLUSTER),
    },
    "apiextensions.k8s.io/v1": {"CustomResourceDefinition": ("customresourcedefinitions", _CLUSTER)},
    "gpulease.dev/v1alpha1": {
        "GPULease": ("gpuleases", _NAMESPACED),
        "GPUProvider": ("gpuproviders", _NAMESPACED),
        "HostedLease": ("hostedleases", _NAMESPACED),
    },
}


def known_resource(api_version: str, kind: str) -> Resource | None:
    """From the table; None means: ask the API server."""
    entry = _TABLE.get(api_version, {}).get(kind)
    return None if entry is None else Resource(*entry)


def group_path(api_version: str) -> str:
    """``/api/v1`` for the core group, ``/apis/GROUP/VERSION`` for the others."""
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def collection_path(api_version: str, resource: Resource, namespace: str | None) -> str:
    """``namespace`` None on a namespaced kind means all namespaces."""
    place = f"/namespaces/{quote(namespace, safe='')}" if resource.namespaced and namespace else ""
    return f"{group_path(api_version)}{place}/{resource.plural}"


def object_path(ref: Ref, resource: Resource, subresource: str = "") -> str:
    """``ValueError`` when a namespaced kind comes without a namespace."""
    if resource.namespaced and not ref.namespace:
        raise ValueError(f"{ref} is namespaced and no namespace was given")
    tail = f"/{subresource}" if subresource else ""
    return f"{collection_path(ref.api_version, resource, ref.namespace)}/{quote(ref.name, safe='')}{tail}"


def selector(terms: Mapping[str, str] | str | None) -> str | None:
    """A label or field selector: a mapping means "all of these equal"."""
    if terms is None or isinstance(terms, str):
        return terms or None
    return ",".join(f"{key}={value}" for key, value in sorted(terms.items())) or None
