"""kopf as the ear at the API server: every event puts a key on the queue, and nothing else happens here.

An event that is lost costs time until the next resync, never correctness. Our own status writes come back as events
too; they are told from changes by what users and other controllers can change.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import kopf
import structlog

from gpulease.errors import KubeError, KubeUnreachable
from gpulease.gateway.manifests import LEASE_ANNOTATION, MANIFEST_LABEL
from gpulease.ids import LeaseId
from gpulease.inventory.devices import LEASE_LABEL
from gpulease.kube.client import Cluster
from gpulease.runtime.hosted_view import lease_of
from gpulease.runtime.specs import object_name
from gpulease.runtime.work import HostedKey, ProviderKey, TenantKey, WorkKey

log = structlog.get_logger(__name__)
GROUP, VERSION = "gpulease.dev", "v1alpha1"
_RESTART_S = 5.0
_STOP_S = 5.0
_MOST_REMEMBERED = 100_000

Enqueue = Callable[[WorkKey], None]
LeaseOf = Callable[[str], LeaseId | None]
"""The lease of a namespace, as far as it is known."""


class ManifestWatch:
    """Manifests that the gateway has kept, as Secrets of the operator's own namespace.

    By a watch of its own: kopf would have to watch the Secrets of the whole cluster, which are none of our business.
    """

    def __init__(self, cluster: Cluster, *, namespace: str, enqueue: Enqueue) -> None:
        self._cluster, self._namespace, self._enqueue = cluster, namespace, enqueue
        self._versions: dict[str, str] = {}

    async def run(self) -> None:
        """Until cancelled: list, follow until the stream ends, list again. What was told is not told again."""
        labels = {MANIFEST_LABEL: "true"}
        while True:
            try:
                found = await self._cluster.list("v1", "Secret", namespace=self._namespace, labels=labels)
                versions = {str(b["metadata"]["name"]): str(b["metadata"]["resourceVersion"]) for b in found.items}
                for body in found.items:
                    name = str(body["metadata"]["name"])
                    if self._versions.get(name) != versions[name]:
                        self._tell(body)
                self._versions = versions
                stream = self._cluster.watch(
                    "v1",
                    "Secret",
                    namespace=self._namespace,
                    resource_version=found.resource_version,
                    labels=labels,
                    metadata_only=True,
                )
                async with contextlib.aclosing(stream) as changes:
                    async for type_, body in changes:
                        if type_ != "BOOKMARK":
                            self._tell(body)
            except (KubeError, KubeUnreachable) as error:
                log.info("watch of manifests ended", error=str(error))
                await asyncio.sleep(1.0)

    def _tell(self, body: Mapping[str, Any]) -> None:
        try:
            self._enqueue(HostedKey(LeaseId.parse(str(body["metadata"]["annotations"][LEASE_ANNOTATION]))))
        except (KeyError, ValueError, TypeError):
            log.warning("manifest without a lease", name=body["metadata"].get("name"))


class Watcher:
    """``ready`` is set once the watches stand.

    kopf runs in a thread with a loop of its own: it takes every task of its loop for its own and cancels them all when
    it ends, takes the process's signals, and kills the process when a task does not end in time.
    """

    def __init__(
        self, *, enqueue: Enqueue, lease_of_namespace: LeaseOf, kubeconfig: str | None, roles: set[str]
    ) -> None:
        self._enqueue, self._lease_of = enqueue, lease_of_namespace
        self._kubeconfig, self._roles = kubeconfig, roles
        self._seen: dict[str, tuple[Any, ...]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.ready = threading.Event()
        self.restarts_total = 0

    async def run(self) -> None:
        """Until cancelled. kopf gives up when the API server is away for long: it is then started anew."""
        self._loop = asyncio.get_running_loop()
        while True:
            stop = threading.Event()
            ended = self._loop.create_future()
            threading.Thread(target=self._listen, args=(self._loop, stop, ended), name="kopf", daemon=True).start()
            try:
                error = await asyncio.shield(ended)
            except asyncio.CancelledError:
                stop.set()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended, _STOP_S)
                raise
            # Whatever ended the watches: the resync goes on meanwhile, and the watches come back.
            log.warning("watches ended", error=str(error) or type(error).__name__)
            self.restarts_total += 1
            await asyncio.sleep(_RESTART_S)

    def _listen(
        self, loop: asyncio.AbstractEventLoop, stop: threading.Event, ended: asyncio.Future[BaseException | None]
    ) -> None:
        """The thread: kopf until it is told to stop or fails."""

        async def listen() -> None:
            try:
                await kopf.operator(
                    registry=self._registry(),
                    settings=_settings(),
                    standalone=True,
                    clusterwide=True,
                    ready_flag=self.ready,
                    stop_flag=stop,
                )
            finally:
                stop.set()  # kopf waits for it in a thread that would never end otherwise

        error: BaseException | None = None
        try:
            asyncio.run(listen())
        except BaseException as caught:  # told to the operator's loop, which decides
            error = caught
        with contextlib.suppress(RuntimeError):  # the operator's loop is closed: nobody asks any more
            loop.call_soon_threadsafe(_settle, ended, error)

    def _tell(self, key: WorkKey) -> None:
        """From kopf's thread to the operator's loop."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._enqueue, key)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        on = kopf.on.event
        on("v1", "namespaces", labels={LEASE_LABEL: kopf.PRESENT}, registry=registry, id="ns")(self._in_lease)
        if "tenant" in self._roles:
            on(GROUP, VERSION, "gpuleases", registry=registry, id="tenant")(self._tenant)
        if "provider" in self._roles:
            on(GROUP, VERSION, "gpuproviders", registry=registry, id="provider")(self._provider)
            on(GROUP, VERSION, "hostedleases", registry=registry, id="hosted")(self._hosted)
            for group, kind in (("v1", "pods"), ("apps/v1", "deployments")):
                on(group, kind, labels={LEASE_LABEL: kopf.PRESENT}, registry=registry, id=kind)(self._in_lease)
        return registry

    async def _login(self, **kwargs: Any) -> Any:
        if self._kubeconfig is not None:
            # kopf takes the path from nowhere else.
            os.environ["KUBECONFIG"] = self._kubeconfig
        if "KUBECONFIG" in os.environ:
            return kopf.login_with_kubeconfig(**kwargs)
        found = kopf.login_with_service_account(**kwargs)
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}", "") for part in ("HOST", "PORT"))
        if found is not None and host and port:
            # kopf goes by a name that cluster DNS has to know; the address is in every pod, and our own calls use it.
            server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
            return dataclasses.replace(found, server=server)
        return found or kopf.login_with_kubeconfig(**kwargs)

    async def _tenant(self, *, body: Mapping[str, Any], type: str, **_: Any) -> None:
        if self._is_news(body, type):
            self._tell(TenantKey(object_name(body)))

    async def _provider(self, *, body: Mapping[str, Any], type: str, **_: Any) -> None:
        if self._is_news(body, type):
            self._tell(ProviderKey(object_name(body)))

    async def _hosted(self, *, body: Mapping[str, Any], type: str, **_: Any) -> None:
        if self._is_news(body, type):
            self._of(lambda: lease_of(dict(body)))

    async def _in_lease(self, *, labels: Mapping[str, str], **_: Any) -> None:
        found = self._lease_of(str(labels[LEASE_LABEL]))
        if found is not None:
            self._tell(HostedKey(found))

    def _of(self, read: Callable[[], LeaseId]) -> None:
        try:
            self._tell(HostedKey(read()))
        except (KeyError, ValueError, TypeError):
            # Somebody's own object under our label: the resync looks at what is ours by other means.
            return

    def _is_news(self, body: Mapping[str, Any], type_: str) -> bool:
        meta = body["metadata"]
        uid = str(meta["uid"])
        if type_ == "DELETED":
            self._seen.pop(uid, None)
            return True
        facts = (
            meta.get("generation"),
            meta.get("deletionTimestamp"),
            tuple(sorted((meta.get("annotations") or {}).items())),
            tuple(meta.get("finalizers") or ()),
        )
        known = self._seen.get(uid)
        if known is None and len(self._seen) >= _MOST_REMEMBERED:
            return True
        self._seen[uid] = facts
        return known != facts


def _settle(ended: asyncio.Future[BaseException | None], error: BaseException | None) -> None:
    if not ended.done():
        ended.set_result(error)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.networking.request_timeout, settings.networking.connect_timeout = 30, 5
    settings.networking.enforce_retry_after = True
    settings.watching.server_timeout = 300
    settings.posting.enabled = False
    settings.process.ultimate_exiting_timeout = None
    settings.persistence.finalizer = "gpulease.dev/kopf"
    return settings
