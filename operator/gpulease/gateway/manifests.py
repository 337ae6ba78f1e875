"""Taking in a manifest: read, held against the chain, kept durably for the operator (gateway reference §5.3).

The Secret in the operator's namespace is the hand-over: who wins the race between gateway and operator does not
matter, and a restart of either loses nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from gpulease.errors import ManifestError
from gpulease.gateway import hosts
from gpulease.gateway.hosts import HostRefused, Kept
from gpulease.gateway.ports import ChainPort, ClusterPort
from gpulease.ids import DeploymentId, LeaseId
from gpulease.kube.refs import Json, Ref
from gpulease.market.model import Deployment
from gpulease.workload import isolation, manifest
from gpulease.workload.model import Expose, Manifest, ManifestGroup
from gpulease.workload.names import lease_namespace, manifest_secret

MANIFEST_LABEL = "gpulease.dev/manifest"
LEASE_ANNOTATION = "gpulease.dev/lease"
HASH_ANNOTATION = "gpulease.dev/manifest-hash"
GROUP_ANNOTATION = "gpulease.dev/group"
HOSTS_ANNOTATION = "gpulease.dev/hosts"
"""Custom host names that lead to the lease, comma separated; left out when its manifest asks for none."""
DATA_KEY = "manifest.json"
MOST_NAME_CHARS = 50
NO_LEASE = "no lease for deployment"
WRONG_HASH = "manifest version validation failed"
UNKNOWN_DEPLOYMENT = "rpc error: code = NotFound desc = Deployment not found: key not found"


class NotTaken(ManifestError):
    """A manifest that is not taken in: ``status`` and the answer's text, which clients match on."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class ManifestStore:
    """Manifests by lease, as Secrets of the operator's namespace."""

    def __init__(self, cluster: ClusterPort, *, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace

    async def keep(
        self, lease: LeaseId, group: str, raw: bytes, hash_: bytes, held: Iterable[str] | None = None
    ) -> None:
        """``held``: the custom host names that lead to the lease, None when its manifest asks for none."""
        await self._cluster.apply(secret_body(lease, group, raw, hash_, namespace=self._namespace, held=held))

    async def hold(self, entry: Kept) -> None:
        """Write which host names a kept manifest's lease holds, and nothing else of it."""
        meta, data = entry.secret["metadata"], entry.secret["data"][DATA_KEY]
        annotations = meta["annotations"]
        await self.keep(
            entry.lease,
            str(annotations.get(GROUP_ANNOTATION, "")),
            base64.b64decode(data),
            bytes.fromhex(str(annotations.get(HASH_ANNOTATION, ""))),
            entry.held,
        )

    async def group(self, lease: LeaseId) -> ManifestGroup | None:
        """What the lease runs, None when no manifest was taken in for it."""
        ref = Ref("v1", "Secret", manifest_secret(lease_namespace(lease)), self._namespace)
        found = await self._cluster.get(ref)
        if found is None:
            return None
        return kept_group(found)

    async def all(self) -> Sequence[Json]:
        """Every kept Secret."""
        found = await self._cluster.list("v1", "Secret", namespace=self._namespace, labels={MANIFEST_LABEL: "true"})
        return found.items


def kept_group(secret: Json) -> ManifestGroup | None:
    """The lease's own group out of a kept Secret; None for one that somebody has broken by hand."""
    try:
        groups = manifest.parse(base64.b64decode(secret["data"][DATA_KEY], validate=True))
    except (KeyError, ValueError, ManifestError):
        return None
    name = str((secret["metadata"].get("annotations") or {}).get(GROUP_ANNOTATION, ""))
    return next((g for g in groups if g.name == name), groups[0] if len(groups) == 1 else None)


def kept_lease(secret: Json) -> LeaseId | None:
    """Whose manifest a kept Secret is; None for one that somebody has broken by hand."""
    try:
        return LeaseId.parse(str((secret["metadata"].get("annotations") or {}).get(LEASE_ANNOTATION, "")))
    except ValueError:
        return None


def hosted_group(secret: Json) -> ManifestGroup | None:
    """The lease's own group with only those custom host names that lead to it: what the operator makes objects of."""
    group, held = kept_group(secret), held_hosts(secret)
    if group is None or held is None:
        return group

    def cut(expose: Expose) -> Expose:
        return replace(expose, hosts=tuple(host for host in expose.hosts or () if host.lower() in held))

    services = tuple(replace(s, expose=tuple(cut(e) if e.hosts else e for e in s.expose)) for s in group.services)
    return ManifestGroup(group.name, services)


def kept_entries(secrets: Iterable[Json]) -> list[Kept]:
    """Oldest first; Secrets that somebody broke by hand are left out."""
    found = []
    for secret in secrets:
        group, lease = kept_group(secret), kept_lease(secret)
        if group is None or lease is None:
            continue
        wanted, said = hosts.wanted(group), held_hosts(secret)
        found.append(Kept(secret, lease, wanted, wanted if said is None else wanted & said))
    return sorted(found, key=lambda k: (str(k.secret["metadata"].get("creationTimestamp", "")), str(k.lease)))


def held_hosts(secret: Json) -> frozenset[str] | None:
    """The custom host names that lead to a kept manifest's lease; None: all that the manifest asks for."""
    said = (secret["metadata"].get("annotations") or {}).get(HOSTS_ANNOTATION)
    return None if said is None else frozenset(name for name in str(said).split(",") if name)


def secret_body(
    lease: LeaseId, group: str, raw: bytes, hash_: bytes, *, namespace: str, held: Iterable[str] | None = None
) -> Json:
    annotations = {LEASE_ANNOTATION: str(lease), GROUP_ANNOTATION: group, HASH_ANNOTATION: hash_.hex()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": manifest_secret(lease_namespace(lease)),
            "namespace": namespace,
            "labels": {MANIFEST_LABEL: "true", "app.kubernetes.io/managed-by": "gpulease"},
            "annotations": annotations | ({} if held is None else {HOSTS_ANNOTATION: ",".join(sorted(held))}),
        },
        "type": "Opaque",
        "data": {DATA_KEY: base64.b64encode(raw).decode()},
    }


async def take_in(
    raw: bytes,
    id_: DeploymentId,
    *,
    provider: str,
    chain: ChainPort,
    store: ManifestStore,
    blocked_hosts: Iterable[str] = (),
) -> int:
    """Check and keep; the number of leases it is for. ``NotTaken`` otherwise, or an ``Unreachable``."""
    wanted = _read(raw)
    deployment = await chain.deployment(id_)
    if deployment is None:
        raise NotTaken(500, UNKNOWN_DEPLOYMENT)
    leases = [
        lease.id for lease in await chain.leases(owner=id_.owner, dseq=id_.dseq, provider=provider, state="active")
    ]
    hash_ = _check(wanted, deployment)
    if not leases:
        raise NotTaken(404, NO_LEASE)
    groups = {lease: group_of(wanted, deployment, lease) for lease in leases}
    for group in groups.values():
        refusal = isolation.refusal(group) or _too_long(group)
        if refusal is not None:
            raise NotTaken(422, f"invalid manifest: {refusal}")
    held = await _hosts(groups, store, tuple(blocked_hosts))
    for lease, group in groups.items():
        await store.keep(lease, group.name, raw, hash_, held[lease])
    return len(leases)


async def _hosts(
    groups: Mapping[LeaseId, ManifestGroup], store: ManifestStore, blocked_hosts: tuple[str, ...]
) -> dict[LeaseId, frozenset[str] | None]:
    """Which custom host names each lease gets. Closed leases' Secrets are gone, and their names are free."""
    wanted = {lease: hosts.wanted(group) for lease, group in groups.items()}
    if not any(wanted.values()):
        return dict.fromkeys(groups)
    kept = kept_entries(await store.all())
    try:
        return {
            lease: hosts.assign(kept, lease, names, blocked_hosts=blocked_hosts) if names else None
            for lease, names in wanted.items()
        }
    except HostRefused as error:
        raise NotTaken(500, str(error)) from None


def _too_long(group: ManifestGroup) -> str | None:
    """Objects are named after services, some with a suffix; the API server takes 63 characters."""
    name = next((s.name for s in group.services if len(s.name) > MOST_NAME_CHARS), None)
    return None if name is None else f"service name {name[:20]}… is longer than {MOST_NAME_CHARS} characters"


def _read(raw: bytes) -> Manifest:
    if not raw.strip():
        raise NotTaken(422, "EOF")
    try:
        return manifest.parse(raw)
    except ManifestError as error:
        raise NotTaken(422, str(error)) from None


def _check(wanted: Manifest, deployment: Deployment) -> bytes:
    try:
        manifest.validate(wanted)
        hash_ = manifest.manifest_hash(wanted)
        if hash_ != deployment.hash:
            raise NotTaken(422, WRONG_HASH)
        manifest.cross_check(wanted, [group.spec for group in deployment.groups])
    except NotTaken:
        raise
    except ManifestError as error:
        raise NotTaken(422, str(error)) from None
    return hash_


def group_of(wanted: Manifest, deployment: Deployment, lease: LeaseId) -> ManifestGroup:
    """The lease's own group; ``NotTaken`` when the chain's answers do not fit each other."""
    name = next((g.spec.name for g in deployment.groups if g.id.gseq == lease.gseq), None)
    found = next((g for g in wanted if g.name == name), None)
    if found is None:
        raise NotTaken(422, f"invalid manifest: no group for the lease's group number {lease.gseq}")
    return found
