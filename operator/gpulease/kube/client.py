"""The API server as the operator uses it: JSON in, JSON out, every call with a deadline.

``None`` from :meth:`Cluster.get` is a positive answer ("there is none"); not knowing is ``KubeUnreachable``. Writes
are server-side applies under one field manager, counted by kind, so that tests can hold the operator to its budget.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any

from gpulease.errors import KubeError, KubeNotFound, KubeUnreachable
from gpulease.kube.events import EventRecorder
from gpulease.kube.exec import PROTOCOLS, ExecStream
from gpulease.kube.refs import (
    Json,
    Listing,
    Ref,
    Resource,
    collection_path,
    group_path,
    known_resource,
    object_path,
    selector,
)
from gpulease.kube.transport import CallPolicy, Connect, Transport, connect_from

FIELD_MANAGER = "gpulease"
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_PAGE = 500
_MOST_ITEMS = 100_000
_LOG_LIMIT_BYTES = 1 << 20
_LOG_LINE_BYTES = 1 << 16


class Cluster:
    """One cluster. Raises ``KubeNotFound``, ``KubeConflict``, ``KubeError``, ``KubeUnreachable`` and nothing else."""

    def __init__(self, transport: Transport, *, now: Callable[[], datetime] | None = None) -> None:
        """``now`` stamps Events; the system's time by default."""
        self._transport = transport
        self._discovered: dict[tuple[str, str], Resource] = {}
        self._writes: Counter[str] = Counter()
        self._events = EventRecorder(self, component=FIELD_MANAGER, now=now)

    @classmethod
    def connect(
        cls,
        kubeconfig: str | None = None,
        *,
        context: str | None = None,
        policy: CallPolicy | None = None,
        how: Connect | None = None,
    ) -> Cluster:
        """Lazily: the first call opens the connection. ``kubeconfig`` None: ``$KUBECONFIG``, then in-cluster."""
        return cls(Transport(how or connect_from(kubeconfig, context), policy=policy))

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._transport.close()

    @property
    def writes_total(self) -> Mapping[str, int]:
        """Successful writes by kind (``GPULease``, or ``GPULease/status`` for the subresource)."""
        return dict(self._writes)

    @property
    def calls_total(self) -> Mapping[tuple[str, int], int]:
        """Attempts by (method, HTTP code); code 0 is "no answer"."""
        return dict(self._transport.calls_total)

    # Reading

    async def get(self, ref: Ref, *, deadline_s: float | None = None) -> Json | None:
        """The object, or None when the API server says that there is none of that name."""
        path = object_path(ref, await self._resource(ref.api_version, ref.kind))
        try:
            answer = await self._transport.call("GET", path, what=f"reading {ref}", deadline_s=deadline_s)
        except KubeNotFound:
            return None
        return answer.json()

    async def list(
        self,
        api_version: str,
        kind: str,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | str | None = None,
        fields: Mapping[str, str] | str | None = None,
        page: int = _PAGE,
    ) -> Listing:
        """All objects, page by page from one snapshot; begun again once when the snapshot expires under way."""
        resource = await self._resource(api_version, kind)
        path = collection_path(api_version, resource, namespace)
        query = {"labelSelector": selector(labels), "fieldSelector": selector(fields), "limit": page}
        try:
            return await self._pages(path, query, api_version, kind)
        except KubeError as error:
            if error.status != 410:
                raise
        return await self._pages(path, query, api_version, kind)

    async def _pages(self, path: str, query: Mapping[str, Any], api_version: str, kind: str) -> Listing:
        items: list[Json] = []
        token: str | None = None
        while True:
            answer = await self._transport.call(
                "GET", path, query={**query, "continue": token}, what=f"listing {kind} objects"
            )
            body = answer.json()
            # Items of built-in lists come without these two, and everything else here relies on them.
            items.extend({**item, "apiVersion": api_version, "kind": kind} for item in body.get("items") or ())
            meta = body.get("metadata", {})
            token = meta.get("continue") or None
            if token is None:
                return Listing(tuple(items), str(meta.get("resourceVersion", "")))
            if len(items) > _MOST_ITEMS:
                raise KubeError(413, "TooMany", f"more than {_MOST_ITEMS} {kind} objects match: narrow the selector")

    async def pod_log(
        self,
        namespace: str,
        pod: str,
        *,
        container: str | None = None,
        tail_lines: int | None = None,
        since_s: int | None = None,
        previous: bool = False,
        timestamps: bool = False,
        limit_bytes: int = _LOG_LIMIT_BYTES,
    ) -> str:
        """The log as text, undecodable bytes replaced."""
        query = {
            "container": container,
            "tailLines": tail_lines,
            "sinceSeconds": since_s,
            "previous": previous,
            "timestamps": timestamps,
            "limitBytes": limit_bytes,
        }
        path = object_path(Ref("v1", "Pod", pod, namespace), Resource("pods", True), "log")
        answer = await self._transport.call("GET", path, query=query, what=f"reading the log of {namespace}/{pod}")
        return answer.body.decode("utf-8", "replace")

    def follow_pod_log(
        self,
        namespace: str,
        pod: str,
        *,
        container: str | None = None,
        tail_lines: int | None = None,
        idle_s: float = 3600.0,
    ) -> AsyncIterator[bytes]:
        """Lines as they come, until the container ends; ``idle_s`` without any is taken for a dead stream."""
        query = {"container": container, "tailLines": tail_lines, "follow": True}
        path = object_path(Ref("v1", "Pod", pod, namespace), Resource("pods", True), "log")
        return self._transport.lines(path, query=query, what=f"following the log of {namespace}/{pod}", idle_s=idle_s)

    def log_lines(
        self,
        namespace: str,
        pod: str,
        *,
        container: str,
        follow: bool,
        tail_lines: int | None = None,
        since: str | None = None,
        idle_s: float = 3600.0,
    ) -> AsyncGenerator[bytes, None]:
        """Lines with their time of writing in front, RFC 3339; what is above 64 KiB of a line comes as a next one.

        ``since`` is such a time: lines from its whole second on.
        """
        query = {
            "container": container,
            "follow": follow,
            "tailLines": tail_lines,
            "sinceTime": since,
            "timestamps": True,
        }
        path = object_path(Ref("v1", "Pod", pod, namespace), Resource("pods", True), "log")
        what = f"reading the log of {namespace}/{pod}"
        return self._transport.lines(path, query=query, what=what, idle_s=idle_s, longest_bytes=_LOG_LINE_BYTES)

    async def watch(
        self,
        api_version: str,
        kind: str,
        *,
        namespace: str,
        resource_version: str,
        labels: Mapping[str, str] | str | None = None,
        metadata_only: bool = False,
        timeout_s: int = 240,
    ) -> AsyncGenerator[tuple[str, Json], None]:
        """Changes after ``resource_version`` as (type, object), until the API server ends the watch.

        A version that is no longer kept is a ``KubeError`` 410: list again. With ``metadata_only`` contents are not
        sent: nothing of a Secret but its name, labels and annotations passes here.
        """
        path = collection_path(api_version, await self._resource(api_version, kind), namespace)
        query = {
            "watch": True,
            "resourceVersion": resource_version,
            "labelSelector": selector(labels),
            "allowWatchBookmarks": True,
            "timeoutSeconds": timeout_s,
        }
        what = f"watching {kind} objects"
        accept = _METADATA_ONLY if metadata_only else None
        stream = self._transport.lines(path, query=query, what=what, idle_s=timeout_s + 30.0, accept=accept)
        async with aclosing(stream) as lines:
            async for line in lines:
                try:
                    change = json.loads(line)
                    type_, body = str(change["type"]), dict(change["object"])
                except (ValueError, KeyError, TypeError):
                    raise KubeUnreachable(f"{what}: the stream holds something that is no change") from None
                if type_ == "ERROR":
                    raise KubeError(int(body.get("code") or 500), str(body.get("reason", "")), f"{what}: {body}")
                yield type_, body

    async def exec(
        self, namespace: str, pod: str, *, container: str, command: Sequence[str], stdin: bool, tty: bool
    ) -> ExecStream:
        """Start a command. With ``tty`` stderr is part of stdout."""
        query = {
            "container": container,
            "command": list(command),
            "stdin": stdin,
            "stdout": True,
            "stderr": not tty,
            "tty": tty,
        }
        path = object_path(Ref("v1", "Pod", pod, namespace), Resource("pods", True), "exec")
        what = f"running a command in {namespace}/{pod}"
        return ExecStream(await self._transport.websocket(path, query=query, protocols=PROTOCOLS, what=what), what)

    async def serves(self, api_version: str, kind: str) -> bool:
        """Whether the cluster has such a kind; a yes is remembered, a no is asked again."""
        if (api_version, kind) in self._discovered:
            return True
        try:
            await self._resource(api_version, kind)
        except KubeError as error:
            if error.status != 404:
                raise
            return False
        return True

    async def version(self) -> Json:
        """``/version``: ``gitVersion``, ``platform`` and so on."""
        return (await self._transport.call("GET", "/version", what="reading the API server's version")).json()

    # Writing

    async def apply(
        self,
        obj: Mapping[str, Any],
        *,
        field_manager: str = FIELD_MANAGER,
        force: bool = True,
        deadline_s: float | None = None,
    ) -> Json:
        """Server-side apply: after it the fields of ``obj`` are as given and ours, the ones we gave up are gone.

        Without ``force``, fields of another manager that differ are a ``KubeConflict``. A ``metadata.uid`` in
        ``obj`` is a precondition: an object made anew under the same name is a ``KubeConflict``.
        """
        return await self._apply(obj, "", field_manager, force, deadline_s)

    async def apply_status(
        self,
        obj: Mapping[str, Any],
        *,
        field_manager: str = f"{FIELD_MANAGER}-status",
        deadline_s: float | None = None,
    ) -> Json:
        """The same for the status subresource; its own manager, so that neither apply takes the other's fields."""
        return await self._apply(obj, "status", field_manager, True, deadline_s)

    async def _apply(
        self, obj: Mapping[str, Any], subresource: str, manager: str, force: bool, deadline_s: float | None
    ) -> Json:
        ref = Ref.of(obj)
        path = object_path(ref, await self._resource(ref.api_version, ref.kind), subresource)
        body = copy.deepcopy(dict(obj))
        body["metadata"].pop("managedFields", None)
        answer = await self._transport.call(
            "PATCH",
            path,
            query={"fieldManager": manager, "force": force},
            body=body,
            content_type=_APPLY,
            what=f"applying {ref}{'/' + subresource if subresource else ''}",
            deadline_s=deadline_s,
        )
        self._count(ref.kind, subresource)
        return answer.json()

    async def create(self, obj: Mapping[str, Any], *, field_manager: str = FIELD_MANAGER) -> Json:
        """``KubeConflict`` when it exists. After ``KubeUnreachable`` it may or may not exist: read before a retry."""
        name = obj["metadata"].get("name") or obj["metadata"].get("generateName", "")
        ref = Ref(str(obj["apiVersion"]), str(obj["kind"]), str(name), obj["metadata"].get("namespace"))
        path = collection_path(ref.api_version, await self._resource(ref.api_version, ref.kind), ref.namespace)
        answer = await self._transport.call(
            "POST",
            path,
            query={"fieldManager": field_manager},
            body=dict(obj),
            what=f"creating {ref}",
            repeatable=False,
        )
        self._count(ref.kind)
        return answer.json()

    async def replace(self, obj: Mapping[str, Any], *, field_manager: str = FIELD_MANAGER) -> Json:
        """Write the whole object over the version that ``metadata.resourceVersion`` names, else ``KubeConflict``."""
        ref = Ref.of(obj)
        path = object_path(ref, await self._resource(ref.api_version, ref.kind))
        answer = await self._transport.call(
            "PUT", path, query={"fieldManager": field_manager}, body=dict(obj), what=f"replacing {ref}"
        )
        self._count(ref.kind)
        return answer.json()

    async def patch_metadata(
        self,
        obj: Mapping[str, Any],
        *,
        add_finalizers: Iterable[str] = (),
        remove_finalizers: Iterable[str] = (),
        annotations: Mapping[str, str | None] | None = None,
        labels: Mapping[str, str | None] | None = None,
    ) -> Json:
        """Change finalizers, annotations (None removes) and labels of the version read, in one write.

        ``obj`` is the object as last read; ``KubeConflict`` when somebody wrote since. No write when nothing would
        change.
        """
        ref = Ref.of(obj)
        meta = obj["metadata"]
        held = [str(f) for f in meta.get("finalizers") or ()]
        dropped = set(remove_finalizers)
        wanted = [f for f in held if f not in dropped]
        wanted.extend(f for f in add_finalizers if f not in wanted)
        patch: Json = {}
        if wanted != held:
            patch["finalizers"] = wanted
        for field, changes in (("annotations", annotations), ("labels", labels)):
            old = meta.get(field) or {}
            new = {key: value for key, value in (changes or {}).items() if old.get(key) != value}
            if new:
                patch[field] = new
        if not patch:
            return dict(obj)
        # A resourceVersion in a merge patch makes the API server refuse any other version with 409.
        patch["resourceVersion"] = meta["resourceVersion"]
        path = object_path(ref, await self._resource(ref.api_version, ref.kind))
        answer = await self._transport.call(
            "PATCH",
            path,
            query={"fieldManager": FIELD_MANAGER},
            body={"metadata": patch},
            content_type=_MERGE,
            what=f"changing the metadata of {ref}",
        )
        self._count(ref.kind)
        return answer.json()

    async def patch_finalizers(
        self, obj: Mapping[str, Any], *, add: str | None = None, remove: str | None = None
    ) -> Json:
        """Add or remove one finalizer; ``KubeConflict`` when ``obj`` is not the newest version."""
        return await self.patch_metadata(
            obj, add_finalizers=[add] if add else (), remove_finalizers=[remove] if remove else ()
        )

    async def delete(
        self,
        ref: Ref,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: str = "Background",
        grace_s: int | None = None,
    ) -> bool:
        """True when the API server took the request, False when there was none to delete.

        ``uid`` and ``resource_version`` are preconditions: ``KubeConflict`` when the object is another one now.
        """
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid or resource_version:
            body["preconditions"] = {key: value for key, value in preconditions.items() if value}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        path = object_path(ref, await self._resource(ref.api_version, ref.kind))
        try:
            await self._transport.call("DELETE", path, body=body, what=f"deleting {ref}")
        except KubeNotFound:
            return False
        self._count(ref.kind)
        return True

    async def merge_patch(self, ref: Ref, patch: Mapping[str, Any], *, subresource: str = "") -> Json:
        """A plain merge patch, for objects that are not ours to apply (node conditions, event counts)."""
        path = object_path(ref, await self._resource(ref.api_version, ref.kind), subresource)
        answer = await self._transport.call(
            "PATCH",
            path,
            query={"fieldManager": FIELD_MANAGER},
            body=dict(patch),
            content_type=_MERGE,
            what=f"patching {ref}",
        )
        self._count(ref.kind, subresource)
        return answer.json()

    async def event(self, obj: Mapping[str, Any], reason: str, message: str, *, type_: str = "Normal") -> bool:
        """Tell the object's owners, once; never raises for a failed write (:mod:`gpulease.kube.events`)."""
        return await self._events.record(obj, reason, message, type_=type_)

    def _count(self, kind: str, subresource: str = "") -> None:
        self._writes[f"{kind}/{subresource}" if subresource else kind] += 1

    async def _resource(self, api_version: str, kind: str) -> Resource:
        known = known_resource(api_version, kind) or self._discovered.get((api_version, kind))
        if known is not None:
            return known
        body = (
            await self._transport.call("GET", group_path(api_version), what=f"looking up what serves {kind}")
        ).json()
        for entry in body.get("resources", ()):
            if "/" not in entry["name"]:
                found = Resource(str(entry["name"]), bool(entry["namespaced"]))
                self._discovered[api_version, str(entry["kind"])] = found
        try:
            return self._discovered[api_version, kind]
        except KeyError:
            raise KubeError(
                404, "NotServed", f"the cluster serves no kind {kind} in {api_version}: install what defines it"
            ) from None
