"""What the cluster shows of one hosted lease, read in one go and compared with what it should show.

Everything is read by list or by name at the moment it is needed: what is decided on it may create, and after a close
destroy, so an old copy will not do.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gpulease.errors import ManifestError
from gpulease.gateway import manifests
from gpulease.ids import LeaseId
from gpulease.kube.apply import difference
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Json, Ref
from gpulease.lease.states import HostedView, ManifestView, WorkloadView
from gpulease.market.attributes import persistent_class
from gpulease.runtime.stock import Held
from gpulease.units import NS_PER_S
from gpulease.workload import isolation, manifest, status
from gpulease.workload.model import ManifestGroup
from gpulease.workload.names import hosted_name, lease_namespace, manifest_secret
from gpulease.workload.objects import MANAGED_BY, ROUTE_API, Hosted, Hosting, build

API = "gpulease.dev/v1alpha1"
_OWNED = (
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
    ("networking.k8s.io/v1", "Ingress"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("v1", "ResourceQuota"),
    ("v1", "LimitRange"),
    ("v1", "Secret"),
)
_NEVER_REMOVED = ("Namespace", "PersistentVolumeClaim")
"""What a tenant keeps goes with the whole namespace only, never because a manifest names it no more."""
_OUR_LABEL = "app.kubernetes.io/managed-by=gpulease"


@dataclass(frozen=True, slots=True)
class Objects:
    """What has to be written to the lease's namespace and what is there too much, in order."""

    write: tuple[Json, ...] = ()
    remove: tuple[Json, ...] = ()

    @property
    def differ(self) -> bool:
        return bool(self.write or self.remove)


@dataclass(frozen=True, slots=True)
class InCluster:
    """One lease in the cluster, as of now."""

    hosted_body: Json | None
    hosted: HostedView | None
    manifest: ManifestView | None
    group: ManifestGroup | None
    workload: WorkloadView
    objects: Objects = field(default_factory=Objects)


async def read(
    cluster: Cluster,
    lease: LeaseId,
    *,
    operator_namespace: str,
    hosting: Hosting,
    held: Held | None,
) -> InCluster:
    """``KubeUnreachable`` when any part of it cannot be known. ``held`` is what the lease's bid reserved."""
    namespace = lease_namespace(lease)
    body, secret, space = await asyncio.gather(
        cluster.get(Ref(API, "HostedLease", hosted_name(lease), operator_namespace)),
        cluster.get(Ref("v1", "Secret", manifest_secret(namespace), operator_namespace)),
        cluster.get(Ref("v1", "Namespace", namespace)),
    )
    view, group = manifest_view(secret)
    owned: list[Json] = []
    pods: Sequence[Json] = ()
    if space is not None:
        listings = await asyncio.gather(
            cluster.list("v1", "Pod", namespace=namespace),
            *(
                cluster.list(*kind, namespace=namespace, labels=_OUR_LABEL)
                for kind in _owned_kinds(hosting, held, group)
            ),
        )
        pods = listings[0].items
        owned = [item for listing in listings[1:] for item in listing.items]
    workload = _workload(space, [o for o in owned if o["kind"] == "Deployment"], pods)
    objects = Objects()
    if group is not None and view is not None and view.problem is None:
        wanted = build(_hosted(lease, group, held), hosting)
        objects = compare(wanted, [*([space] if space is not None else []), *owned])
    return InCluster(body, None if body is None else hosted_view(body), view, group, workload, objects)


def _owned_kinds(hosting: Hosting, held: Held | None, group: ManifestGroup | None) -> list[tuple[str, str]]:
    """Kinds that are rare are listed only where a lease may have them: each is a call at every look."""
    kinds = list(_OWNED)
    if hosting.http_gateway is not None:
        kinds.append((ROUTE_API, "HTTPRoute"))
    if held is not None and any(grant.device_class for grant in held.grants.values()):
        kinds.append(("resource.k8s.io/v1", "ResourceClaimTemplate"))
    volumes = (v for x in (group.services if group is not None else ()) for v in x.resources.storage)
    if any(persistent_class(volume) is not None for volume in volumes):
        kinds.append(("v1", "PersistentVolumeClaim"))
    return kinds


def _hosted(lease: LeaseId, group: ManifestGroup, held: Held | None) -> Hosted:
    if held is None:
        return Hosted(lease, group)
    return Hosted(lease, group, held.nodes_by_resource(), held.grants, held.overcommit)


def hosted_view(body: Json) -> HostedView:
    raw = body.get("status") or {}
    closed = raw.get("closedTime")
    return HostedView(
        name=str(body["metadata"]["name"]),
        uid=str(body["metadata"]["uid"]),
        generation=int(body["metadata"].get("generation", 1)),
        status=raw,
        closed_seen_height=raw.get("closedSeenHeight"),
        closed_at_ns=_ns(closed) if closed else None,
        noticed_at_ns=_ns(str(body["metadata"]["creationTimestamp"])) if "creationTimestamp" in body["metadata"] else 0,
    )


def _ns(stamp: str) -> int:
    return int(datetime.fromisoformat(stamp).timestamp()) * NS_PER_S


def manifest_view(secret: Json | None) -> tuple[ManifestView | None, ManifestGroup | None]:
    """The manifest that the gateway kept, and the lease's own group of it."""
    if secret is None:
        return None, None
    try:
        raw = base64.b64decode(secret["data"][manifests.DATA_KEY], validate=True)
        hash_ = manifest.manifest_hash(manifest.parse(raw))
    except (KeyError, ValueError, ManifestError) as error:
        return ManifestView(b"", f"the kept manifest cannot be read ({error}); the tenant has to send it again"), None
    group = manifests.hosted_group(secret)
    if group is None:
        return ManifestView(
            hash_, "the kept manifest has no group for this lease; the tenant has to send it again"
        ), None
    return ManifestView(hash_, isolation.refusal(group)), group


def compare(wanted: Sequence[Json], live: Sequence[Json]) -> Objects:
    """Pure: what to write and what to remove so that ``live`` becomes ``wanted``."""
    have = {_name(body): body for body in live}
    names = {_name(body) for body in wanted}
    write = tuple(w for w in wanted if _name(w) not in have or difference(w, have[_name(w)]) is not None)
    remove = tuple(
        body
        for body in live
        if body["kind"] not in _NEVER_REMOVED
        and _name(body) not in names
        and "deletionTimestamp" not in body["metadata"]
    )
    return Objects(write, remove)


def _name(body: Json) -> tuple[str, str]:
    return str(body["kind"]), str(body["metadata"]["name"])


def _workload(space: Json | None, deployments: Sequence[Json], pods: Sequence[Json]) -> WorkloadView:
    if space is None:
        return WorkloadView(namespace_exists=False)
    verdict = status.judge(deployments, pods)
    ours = (space["metadata"].get("labels") or {}).items() >= MANAGED_BY.items()
    return WorkloadView(
        namespace_exists=True,
        # Without our label it is not our namespace, whatever its name: it gets no uid to be deleted by.
        namespace_uid=str(space["metadata"]["uid"]) if ours else None,
        namespace_terminating="deletionTimestamp" in space["metadata"],
        verdict=verdict.state,
        reason=verdict.reason,
        message=verdict.message,
    )


def hosted_body(
    lease: LeaseId,
    *,
    namespace: str,
    price: str,
    created_height: int,
    manifest_hash: str | None,
    placement: Sequence[Mapping[str, Any]],
) -> Json:
    """The HostedLease as the operator applies it."""
    spec: Json = {
        "leaseID": {
            "owner": lease.owner,
            "dseq": str(lease.dseq),
            "gseq": lease.gseq,
            "oseq": lease.oseq,
            "provider": lease.provider,
        },
        "priceUactPerBlock": price,
        "namespace": lease_namespace(lease),
        "createdHeight": created_height,
    }
    if manifest_hash:
        spec["manifestHash"] = manifest_hash
    if placement:
        spec["placement"] = list(placement)
    return {
        "apiVersion": API,
        "kind": "HostedLease",
        "metadata": {"name": hosted_name(lease), "namespace": namespace, "labels": dict(MANAGED_BY)},
        "spec": spec,
    }


def lease_of(body: Json) -> LeaseId:
    """``KeyError`` or ``ValueError`` for a body that the CRD would not take."""
    raw = body["spec"]["leaseID"]
    return LeaseId(str(raw["owner"]), int(raw["dseq"]), int(raw["gseq"]), int(raw["oseq"]), str(raw["provider"]))
