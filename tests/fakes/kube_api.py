"""A Kubernetes API server in memory: objects by path, versions, conflicts, server-side apply, finalizers, watches.

It answers what :class:`gpulease.kube.transport.Transport` asks over HTTP, as (status, JSON bytes). Controllers and
nodes are in :mod:`tests.fakes.kube_nodes`. Lists inside objects are atomic to an apply; admission is what the tests
need of it: namespaces that end take nothing new, and quotas count pods.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpulease.kube import refs

Json = dict[str, Any]
Kind = tuple[str, str]
Name = tuple[str, str]
Listener = Callable[[str, Kind, Json], None]
_KIND_OF = {
    (version, plural): ((version, kind), namespaced)
    for version, kinds in refs._TABLE.items()
    for kind, (plural, namespaced) in kinds.items()
}
_WATCH_WINDOW = 2000
NAMESPACE: Kind = ("v1", "Namespace")
POD: Kind = ("v1", "Pod")
NODE: Kind = ("v1", "Node")
SECRET: Kind = ("v1", "Secret")
DEPLOYMENT: Kind = ("apps/v1", "Deployment")
QUOTA: Kind = ("v1", "ResourceQuota")


class Refused(Exception):
    """An error answer."""

    def __init__(self, status: int, reason: str, message: str, name: str = "") -> None:
        super().__init__(message)
        self.status = status
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
        self.body = json.dumps({**body, "code": status, "details": {"name": name} if name else {}}).encode()


@dataclass(slots=True)
class Stored:
    """``raw`` is the body as JSON; ``owned`` the paths that each field manager has applied."""

    body: Json
    raw: bytes
    owned: dict[str, frozenset[tuple[str, ...]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Write:
    """One accepted write, for budgets and blame. ``what`` is create, apply, status, patch, put or delete."""

    at_s: float
    actor: str
    what: str
    kind: str
    name: str
    noop: bool


class KubeApi:
    """``now_s`` is any clock that never goes back; ``stamp`` its text form."""

    def __init__(self, now_s: Callable[[], float], stamp: Callable[[], str]) -> None:
        self._now_s, self._stamp = now_s, stamp
        self.objects: dict[Kind, dict[Name, Stored]] = {}
        self.version = 1000
        self._serial = 0
        self._listeners: list[Listener] = []
        self._log: dict[Kind, deque[tuple[int, str, Json]]] = {}
        self._forgotten: dict[Kind, int] = {}
        self.writes: deque[Write] = deque(maxlen=20_000)
        self.reads: Counter[tuple[str, str]] = Counter()
        self.secret_reads: Counter[tuple[str, str]] = Counter()
        self._node_port = 30000

    # --- what controllers and tests use ------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell of every change, at once; returns how to end it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def get(self, kind: Kind, name: str, namespace: str = "") -> Json | None:
        found = self.objects.get(kind, {}).get((namespace, name))
        return None if found is None else found.body

    def all(self, kind: Kind, namespace: str | None = None) -> list[Json]:
        return [s.body for (ns, _), s in self.objects.get(kind, {}).items() if namespace in (None, ns)]

    def put(self, body: Json, *, actor: str = "test") -> Json:
        """Create or replace whole, past all rules but versions."""
        kind, name = _key(body)
        old = self.objects.get(kind, {}).get(name)
        return self._store(kind, name, _fresh(body), old, actor, "put").body

    def change(self, kind: Kind, name: str, namespace: str, edit: Callable[[Json], None], *, actor: str) -> bool:
        """Edit a copy and store it; False when there is none of that name."""
        old = self.objects.get(kind, {}).get((namespace, name))
        if old is None:
            return False
        body = json.loads(old.raw)
        edit(body)
        self._store(kind, (namespace, name), body, old, actor, "patch")
        return True

    def remove(self, kind: Kind, name: str, namespace: str, *, actor: str) -> None:
        """Ask for deletion, as ``kubectl delete`` does; nothing when it is not there."""
        if (namespace, name) in self.objects.get(kind, {}):
            self._delete(kind, (namespace, name), {}, actor)

    def drop(self, kind: Kind, name: Name) -> None:
        """Gone for good."""
        stored = self.objects.get(kind, {}).pop(name, None)
        if stored is None:
            return
        self.version += 1
        stored.body["metadata"]["resourceVersion"] = str(self.version)
        self._tell("DELETED", kind, stored.body)
        uid = stored.body["metadata"]["uid"]
        for other in (POD, DEPLOYMENT) if kind in (DEPLOYMENT, ("gpulease.dev/v1alpha1", "GPULease")) else ():
            owned = [
                n
                for n, s in self.objects.get(other, {}).items()
                if any(o.get("uid") == uid for o in s.body["metadata"].get("ownerReferences") or ())
            ]
            for dependent in owned:
                self._delete(other, dependent, {}, "garbage-collector")

    # --- HTTP --------------------------------------------------------------------------------------------------------

    def handle(
        self, method: str, path: str, query: Mapping[str, Any], body: Any, content_type: str, *, actor: str
    ) -> tuple[int, bytes]:
        """One request to its answer; an error answer is one too."""
        if path == "/version":
            return 200, b'{"major":"1","minor":"34","gitVersion":"v1.34.4"}'
        try:
            kind, namespace, name, sub = _parse(path)
            if method == "GET":
                return 200, self._read(kind, namespace, name, query, actor)
            key = (namespace or "", name or "")
            if method == "POST":
                return 201, self._create(kind, namespace or "", body, actor)
            if method == "DELETE":
                return 200, self._delete(kind, key, body or {}, actor)
            if method == "PUT":
                return 200, self._replace(kind, key, body, actor)
            if "apply" in content_type:
                return 200, self._apply(kind, key, sub, body, str(query.get("fieldManager")), actor)
            return 200, self._merge(kind, key, sub, body, actor)
        except Refused as error:
            return error.status, error.body

    def _read(self, kind: Kind, namespace: str | None, name: str | None, query: Mapping[str, Any], actor: str) -> bytes:
        self.reads[actor, kind[1]] += 1
        if name is not None:
            stored = self._found(kind, (namespace or "", name))
            if kind == SECRET:
                self.secret_reads[actor, f"{namespace}/{name}"] += 1
            return stored.raw
        wanted = _selector(str(query.get("labelSelector") or ""))
        fields = _selector(str(query.get("fieldSelector") or ""))
        raws = [
            stored.raw
            for (ns, _), stored in sorted(self.objects.get(kind, {}).items())
            if namespace in (None, ns)
            and wanted(stored.body["metadata"].get("labels") or {})
            and _by_field(fields, stored)
        ]
        head = json.dumps({"kind": f"{kind[1]}List", "metadata": {"resourceVersion": str(self.version)}}).encode()
        return head[:-1] + b', "items": [' + b",".join(raws) + b"]}"

    def _found(self, kind: Kind, key: Name) -> Stored:
        stored = self.objects.get(kind, {}).get(key)
        if stored is None:
            raise Refused(404, "NotFound", f'{kind[1]} "{key[1]}" not found', key[1])
        return stored

    def _create(self, kind: Kind, namespace: str, body: Json, actor: str) -> bytes:
        new = _fresh(body)
        key = (namespace, str(new["metadata"]["name"]))
        if key in self.objects.get(kind, {}):
            raise Refused(409, "AlreadyExists", f'{kind[1]} "{key[1]}" already exists', key[1])
        self._admit(kind, namespace)
        return self._store(kind, key, new, None, actor, "create").raw

    def _admit(self, kind: Kind, namespace: str) -> None:
        if not namespace:
            return
        space = self.get(NAMESPACE, namespace)
        if space is None:
            raise Refused(404, "NotFound", f'namespaces "{namespace}" not found', namespace)
        if "deletionTimestamp" in space["metadata"]:
            words = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise Refused(403, "Forbidden", words, namespace)

    def _replace(self, kind: Kind, key: Name, body: Json, actor: str) -> bytes:
        old = self._found(kind, key)
        version = (body["metadata"] or {}).get("resourceVersion")
        if version and version != old.body["metadata"]["resourceVersion"]:
            raise Refused(409, "Conflict", f"{key[1]} has been modified", key[1])
        new = _fresh(body)
        if "status" in old.body:
            new["status"] = old.body["status"]
        return self._store(kind, key, new, old, actor, "put").raw

    def _merge(self, kind: Kind, key: Name, sub: str, patch: Json, actor: str) -> bytes:
        old = self._found(kind, key)
        version = (patch.get("metadata") or {}).get("resourceVersion")
        if version and version != old.body["metadata"]["resourceVersion"]:
            raise Refused(409, "Conflict", f"{key[1]} has been modified", key[1])
        body = json.loads(old.raw)
        if sub == "status":
            patch = {"status": patch.get("status") or {}}
        _merge_into(body, patch)
        return self._store(kind, key, body, old, actor, "status" if sub else "patch").raw

    def _apply(self, kind: Kind, key: Name, sub: str, patch: Json, manager: str, actor: str) -> bytes:
        patch = _fresh(patch)
        old = self.objects.get(kind, {}).get(key)
        if old is None:
            if sub:
                raise Refused(404, "NotFound", f'{kind[1]} "{key[1]}" not found', key[1])
            self._admit(kind, key[0])
            patch.pop("status", None)
        elif patch["metadata"].get("uid") not in (None, old.body["metadata"]["uid"]):
            raise Refused(409, "Conflict", f"uid mismatch of {key[1]}", key[1])
        wanted = {"status": patch.get("status") or {}} if sub else {k: v for k, v in patch.items() if k != "status"}
        paths = frozenset(_leaves(wanted, ()))
        owner = f"{manager}/{sub}"
        body: Json = json.loads(old.raw) if old is not None else {}
        others = {p for name, owned in (old.owned if old else {}).items() if name != owner for p in owned}
        for gone in (old.owned.get(owner, frozenset()) if old else frozenset()) - paths - others:
            _cut(body, gone)
        _merge_into(body, wanted, deletes=False)
        stored = self._store(kind, key, body, old, actor, "status" if sub else "apply")
        stored.owned[owner] = paths
        return stored.raw

    def _delete(self, kind: Kind, key: Name, options: Json, actor: str) -> bytes:
        old = self._found(kind, key)
        meta = old.body["metadata"]
        for field_, value in (options.get("preconditions") or {}).items():
            if meta.get(field_) != value:
                raise Refused(409, "Conflict", f"precondition {field_} of {key[1]} does not hold", key[1])
        lingers = bool(meta.get("finalizers")) or kind in (NAMESPACE, POD)
        if not lingers:
            self._wrote(actor, "delete", kind, key, noop=False)
            self.drop(kind, key)
        elif "deletionTimestamp" not in meta:
            body = json.loads(old.raw)
            body["metadata"]["deletionTimestamp"] = self._stamp()
            if kind == NAMESPACE:
                body.setdefault("status", {})["phase"] = "Terminating"
            self._store(kind, key, body, old, actor, "delete")
        return b'{"kind":"Status","status":"Success"}'

    # --- the store ---------------------------------------------------------------------------------------------------

    def _store(self, kind: Kind, key: Name, body: Json, old: Stored | None, actor: str, what: str) -> Stored:
        meta = body["metadata"]
        body["apiVersion"], body["kind"] = kind
        meta["name"] = key[1]
        if key[0]:
            meta["namespace"] = key[0]
        if old is None:
            self._serial += 1
            meta["uid"] = str(uuid.UUID(int=(0xA << 124) | self._serial))
            meta["creationTimestamp"] = self._stamp()
            meta["generation"] = 1
        else:
            for kept in ("uid", "creationTimestamp", "generation", "deletionTimestamp"):
                if kept in old.body["metadata"]:
                    meta[kept] = old.body["metadata"][kept]
            meta["resourceVersion"] = old.body["metadata"]["resourceVersion"]
        self._default(kind, body)
        if old is not None:
            if body == old.body:
                self._wrote(actor, what, kind, key, noop=True)
                return old
            if _spec(body) != _spec(old.body):
                meta["generation"] = int(meta["generation"]) + 1
        self.version += 1
        meta["resourceVersion"] = str(self.version)
        self._wrote(actor, what, kind, key, noop=False)
        stored = Stored(body, json.dumps(body).encode(), old.owned if old is not None else {})
        self.objects.setdefault(kind, {})[key] = stored
        self._tell("ADDED" if old is None else "MODIFIED", kind, body)
        if "deletionTimestamp" in meta and not meta.get("finalizers") and kind not in (NAMESPACE, POD):
            self.drop(kind, key)
        return stored

    def _default(self, kind: Kind, body: Json) -> None:
        """The few fields that the API server fills in and the operator has to live with."""
        spec = body.get("spec")
        if kind == ("v1", "Service") and spec is not None:
            spec.setdefault("clusterIP", "10.96.0.10")
            for port in spec.get("ports") or ():
                if spec.get("type") == "NodePort" and "nodePort" not in port:
                    self._node_port += 1
                    port["nodePort"] = self._node_port
        if kind == DEPLOYMENT and spec is not None:
            spec.setdefault("progressDeadlineSeconds", 600)
            spec["template"]["spec"].setdefault("dnsPolicy", "ClusterFirst")
        if kind == NAMESPACE:
            body.setdefault("status", {}).setdefault("phase", "Active")
            body["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = body["metadata"]["name"]

    def _wrote(self, actor: str, what: str, kind: Kind, key: Name, *, noop: bool) -> None:
        self.writes.append(Write(self._now_s(), actor, what, kind[1], "/".join(filter(None, key)), noop))

    def _tell(self, type_: str, kind: Kind, body: Json) -> None:
        log = self._log.setdefault(kind, deque())
        log.append((self.version, type_, body))
        if len(log) > _WATCH_WINDOW:
            self._forgotten[kind] = log.popleft()[0]
        for listener in list(self._listeners):
            listener(type_, kind, body)

    # --- watching ----------------------------------------------------------------------------------------------------

    def compact(self) -> None:
        """Forget all history: every watch from an older version is answered 410."""
        for kind, log in self._log.items():
            log.clear()
            self._forgotten[kind] = self.version

    def since(self, path: str, query: Mapping[str, Any], version: int) -> list[tuple[int, str, Json]]:
        """Events after ``version``; ``Refused`` 410 when they are no longer known."""
        kind, namespace, _, _ = _parse(path)
        if version < self._forgotten.get(kind, 0):
            raise Refused(410, "Expired", f"too old resource version: {version}")
        wanted = _selector(str(query.get("labelSelector") or ""))
        return [
            (at, type_, body)
            for at, type_, body in self._log.get(kind, ())
            if at > version
            and namespace in (None, body["metadata"].get("namespace"))
            and wanted(body["metadata"].get("labels") or {})
        ]


def _key(body: Json) -> tuple[Kind, Name]:
    meta = body["metadata"]
    return (str(body["apiVersion"]), str(body["kind"])), (str(meta.get("namespace") or ""), str(meta["name"]))


def _fresh(body: Any) -> Json:
    copied: Json = json.loads(json.dumps(body))
    return copied


def _parse(path: str) -> tuple[Kind, str | None, str | None, str]:
    """Kind, namespace (None: all of them, or a cluster-scoped kind), name and subresource."""
    parts = path.strip("/").split("/")
    version, rest = (parts[1], parts[2:]) if parts[0] == "api" else (f"{parts[1]}/{parts[2]}", parts[3:])
    namespace: str | None = None
    if len(rest) >= 3 and rest[0] == "namespaces" and (version, rest[2]) in _KIND_OF:
        namespace, rest = rest[1], rest[2:]
    entry = _KIND_OF.get((version, rest[0]))
    if entry is None:
        raise Refused(404, "NotFound", f"the server could not find the requested resource {path}")
    return entry[0], namespace, rest[1] if len(rest) > 1 else None, rest[2] if len(rest) > 2 else ""


def _selector(text: str) -> Callable[[Mapping[str, str]], bool]:
    terms = [term.partition("=") for term in text.split(",") if term]

    def fits(labels: Mapping[str, str]) -> bool:
        return all(key in labels and (not mark or labels[key] == value) for key, mark, value in terms)

    return fits


def _by_field(fits: Callable[[Mapping[str, str]], bool], stored: Stored) -> bool:
    meta, spec = stored.body["metadata"], stored.body.get("spec") or {}
    known = {"metadata.name": meta["name"], "metadata.namespace": meta.get("namespace", "")}
    return fits({**known, "spec.nodeName": str(spec.get("nodeName", ""))} if isinstance(spec, dict) else known)


def _spec(body: Json) -> Any:
    return {k: v for k, v in body.items() if k not in ("metadata", "status")}


def _leaves(value: Any, path: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _leaves(below, (*path, key))
    else:
        yield path


def _cut(body: Json, path: tuple[str, ...]) -> None:
    for key in path[:-1]:
        below = body.get(key)
        if not isinstance(below, dict):
            return
        body = below
    body.pop(path[-1], None)


def _merge_into(body: Json, patch: Mapping[str, Any], *, deletes: bool = True) -> None:
    for key, value in patch.items():
        if value is None and deletes:
            body.pop(key, None)
        elif isinstance(value, dict):
            below = body.get(key)
            if not isinstance(below, dict):
                below = body[key] = {}
            _merge_into(below, value, deletes=deletes)
        else:
            body[key] = value
