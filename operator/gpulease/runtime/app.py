"""The operator: every part made once, wired, and run in one event loop until it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from gpulease.agent.collector import UsageCollector
from gpulease.chain.events import ChainEvent
from gpulease.errors import ConfigError
from gpulease.kube.client import Cluster
from gpulease.kube.leadership import Election
from gpulease.kube.queue import WorkQueue
from gpulease.runtime import resync
from gpulease.runtime.chains import ChainHub, ChainSession
from gpulease.runtime.clock import Clock
from gpulease.runtime.events import keys_of
from gpulease.runtime.health import DeviceHealth
from gpulease.runtime.hosted import HostedLeases
from gpulease.runtime.market import Market
from gpulease.runtime.metrics import MetricsServer
from gpulease.runtime.outside import Network, Outside
from gpulease.runtime.provider import Providers
from gpulease.runtime.rights import LeaseRights
from gpulease.runtime.specs import ChainSpec
from gpulease.runtime.talks import Talks
from gpulease.runtime.tenant import Tenants
from gpulease.runtime.usage import UsageIntake
from gpulease.runtime.watch import ManifestWatch
from gpulease.runtime.work import (
    BidKey,
    ChainKey,
    ClusterKey,
    HostedKey,
    NodeUsageKey,
    OrderKey,
    ProviderKey,
    TenantKey,
    WorkKey,
)
from gpulease.settings import OperatorSettings
from gpulease.store.journal import Journal

log = structlog.get_logger(__name__)
_MARKET_WORKERS = 4


class Operator:
    """Both roles. ``run`` returns when cancelled; a part that fails for good ends the whole, to be started anew."""

    def __init__(
        self,
        settings: OperatorSettings,
        cluster: Cluster,
        journal: Journal,
        clock: Clock,
        *,
        kubeconfig: str | None = None,
        outside: Outside | None = None,
    ) -> None:
        """``outside`` None is the real network, found through ``kubeconfig`` as :class:`Cluster` finds it."""
        self.settings, self.cluster, self.journal, self.clock = settings, cluster, journal, clock
        self._outside: Outside = outside or Network(kubeconfig=kubeconfig)
        self.roles = set(settings.roles)
        self._devices: dict[str, frozenset[str]] = {}
        self.usage = UsageCollector(journal)
        self.hub = ChainHub(self._session)
        self.health = DeviceHealth(journal, self.usage)
        self.providers = Providers(cluster, self.hub, journal, clock, self.health, look_s=self._outside.pace.provider_s)
        self.market = Market(self.providers)
        self.hosted = HostedLeases(
            cluster,
            self.providers,
            journal,
            self.usage,
            clock,
            health=self.health,
            namespace=settings.namespace,
            retention_s=settings.closed_lease_retention_s,
            rights=LeaseRights(cluster, clock, namespace=settings.namespace, bindings=settings.lease_bindings),
        )
        self.tenants = Tenants(cluster, self.hub, Talks(journal), clock, self._outside)
        self.intake = UsageIntake(
            self.usage,
            endpoints=settings.agent_endpoints,
            token=_token(settings),
            connect=self._outside.agent,
            poll_s=settings.agent_poll_interval_s,
            on_change=self._usage_changed,
            health=self.health,
            on_trouble=self._device_trouble,
            on_devices=self._devices_changed,
        )
        # Bids have a queue of their own: an order is lost within blocks, everything else can wait for its turn.
        self.queues: Mapping[str, WorkQueue[WorkKey]] = {
            "market": WorkQueue(self._look, name="market", workers=_MARKET_WORKERS),
            "main": WorkQueue(self._look, name="main", workers=settings.workers),
        }
        self._watcher = self._outside.watcher(
            enqueue=self.enqueue, lease_of_namespace=self.hosted.by_namespace.get, roles=self.roles
        )
        self._manifests = ManifestWatch(cluster, namespace=settings.namespace, enqueue=self.enqueue)
        self.election: Election | None = None
        """None for an operator that works alone."""
        self._server: MetricsServer | None = None
        if settings.metrics_listen:
            host, port = _listen(settings.metrics_listen)
            self._server = MetricsServer(self, host=host, port=port)

    @property
    def watching(self) -> bool:
        return self._watcher.ready.is_set()

    # --- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        if self._server is not None:
            await self._server.start()
        try:
            if self.settings.standalone:
                await self._work()
            else:
                await self._lead()
        finally:
            if self._server is not None:
                await self._server.stop()
            await self.hub.close()
            await self._outside.close()

    async def _lead(self) -> None:
        election = self.election = Election(self.cluster, namespace=self.settings.namespace)
        await election.acquire()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(election.hold(), name="election")
                group.create_task(self._work(), name="work")
        finally:
            await election.release()

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name, queue in self.queues.items():
                group.create_task(queue.run(), name=f"queue:{name}")
            group.create_task(self._watcher.run(), name="watch")
            group.create_task(self.hub.failed.raised(), name="chains")
            if "provider" in self.roles:
                group.create_task(self._manifests.run(), name="watch-manifests")
            group.create_task(self._resync(), name="resync")

    async def _resync(self) -> None:
        while True:
            self.enqueue(ClusterKey(), urgent=False)
            for session in self.hub.sessions:
                self.enqueue(ChainKey(session.name), urgent=False)
            for node in self.intake.nodes:
                self.enqueue(NodeUsageKey(node), urgent=False)
            await self.clock.sleep(self.settings.resync_interval_s)

    # --- work --------------------------------------------------------------------------------------------------------

    def enqueue(self, key: WorkKey, *, urgent: bool = True) -> None:
        queue = self.queues["market" if isinstance(key, OrderKey | BidKey) else "main"]
        queue.add(key, urgent=urgent)

    async def _look(self, key: WorkKey) -> float | None:
        again_s = await self._look_at(key)
        return None if again_s is None else max(again_s, self._outside.pace.soonest_s)

    async def _look_at(self, key: WorkKey) -> float | None:
        match key:
            case OrderKey():
                return await self.market.look_at_order(key)
            case BidKey():
                return await self.market.look_at_bid(key)
            case HostedKey():
                return await self.hosted.reconcile(key)
            case TenantKey():
                return await self.tenants.reconcile(key)
            case ProviderKey(name):
                return await self.providers.reconcile(name)
            case NodeUsageKey():
                return await self.intake.pull(key)
            case ChainKey(name):
                await self._look_at_chain(name)
            case ClusterKey():
                await self._look_at_cluster()
        return None

    async def _look_at_chain(self, name: str) -> None:
        session = self.hub.named(name)
        if session is None or "provider" not in self.roles:
            return
        for key in await resync.chain_keys(session, self.providers, self.journal):
            self.enqueue(key, urgent=False)

    async def _look_at_cluster(self) -> None:
        if "provider" in self.roles:
            await self.intake.discover(self.cluster, namespace=self.settings.namespace)
        for key in await resync.cluster_keys(self.cluster, namespace=self.settings.namespace, roles=self.roles):
            self.enqueue(key, urgent=False)

    # --- what the parts tell each other ------------------------------------------------------------------------------

    def _session(self, spec: ChainSpec) -> ChainSession:
        return ChainSession(
            spec,
            client=self._outside.chain(spec),
            pace=self._outside.pace,
            journal=self.journal,
            clock=self.clock,
            tx_lifetime_s=self.settings.tx_lifetime_s,
            fee_budget_uakt_per_day=self.settings.fee_budget_uakt_per_day,
            on_event=self._chain_event,
            on_resync=lambda session: self.enqueue(ChainKey(session.name)),
            on_settled=self.enqueue,
        )

    def _chain_event(self, session: ChainSession, event: ChainEvent, height: int) -> None:
        for key in keys_of(event, session, self.providers, self.tenants):
            self.enqueue(key)

    def _usage_changed(self, namespace: str) -> None:
        """Only a change of what is held is worth a look; running on is not."""
        lease = self.hosted.by_namespace.get(namespace)
        usage = self.usage.usage(namespace)
        if lease is None or usage is None:
            return
        devices = frozenset(device for _, _, device in usage.running)
        if self._devices.get(namespace) != devices:
            self._devices[namespace] = devices
            self.enqueue(HostedKey(lease))

    def _device_trouble(self, namespace: str) -> None:
        lease = self.hosted.by_namespace.get(namespace)
        if lease is not None:
            self.enqueue(HostedKey(lease))

    def _devices_changed(self) -> None:
        for name in self.providers.by_name:
            self.enqueue(ProviderKey(name))


def _token(settings: OperatorSettings) -> str | None:
    if settings.agent_token_file is None:
        return None
    try:
        token = settings.agent_token_file.read_text().strip()
    except OSError as error:
        raise ConfigError(f"GPULEASE_AGENT_TOKEN_FILE cannot be read: {error}") from error
    if not token:
        raise ConfigError(f"GPULEASE_AGENT_TOKEN_FILE {settings.agent_token_file} is empty; write the token into it")
    return token


def _listen(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"GPULEASE_METRICS_LISTEN {text!r} is not HOST:PORT, such as 127.0.0.1:9411")
    return host.strip("[]"), int(port)
