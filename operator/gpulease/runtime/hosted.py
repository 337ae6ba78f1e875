"""The provider's side of a lease at work: gather, decide (:mod:`gpulease.lease.plan`), execute."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import structlog

from gpulease.agent.collector import UsageCollector
from gpulease.chain import codec
from gpulease.chain.outbox import Priority
from gpulease.errors import KubeConflict, KubeError
from gpulease.ids import LeaseId
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Json, Ref
from gpulease.lease import plan as planner
from gpulease.lease import states as s
from gpulease.market.model import Deployment, Lease, LeaseState
from gpulease.planning import Seen
from gpulease.runtime import hosted_view, views
from gpulease.runtime import status as statuses
from gpulease.runtime.clock import Clock
from gpulease.runtime.health import DeviceHealth
from gpulease.runtime.hosted_view import InCluster
from gpulease.runtime.lease_figures import LeaseFigures
from gpulease.runtime.provider import Providers, ProviderSite
from gpulease.runtime.rights import LeaseRights
from gpulease.runtime.stock import Held
from gpulease.runtime.work import HostedKey
from gpulease.store.journal import Journal
from gpulease.units import NS_PER_S
from gpulease.workload.names import hosted_name, lease_namespace, manifest_secret
from gpulease.workload.objects import MANAGED_BY, ROUTE_API, Hosting

log = structlog.get_logger(__name__)
_KIND, _ORPHAN = "hosted", "orphan"
_WITHDRAWN = "withdrawn"
_TOLD_TO_TENANTS = frozenset({"ApplicationFault", "DeviceFaulty", "DeviceWatched", "NoticeGiven", "WindowRunning"})
_QUIET_START_S = 8.0
"""A lease that is on its way is not worth a status write until it has taken this long, or has trouble to tell of."""

_LIMITS = frozenset({"NetworkPolicy", "ResourceQuota", "LimitRange", "Secret"})
"""Kinds that a pod must not be there before."""


@dataclass(slots=True)
class _Round:
    """One look at one lease: what was read, so that the actions need not read it again."""

    key: HostedKey
    site: ProviderSite
    seen: s.ObservedLease
    cluster: InCluster
    held: Held | None
    lease: Lease | None

    @property
    def namespace(self) -> str:
        return lease_namespace(self.key.lease)


class HostedLeases:
    """All leases won by this operator's providers."""

    def __init__(
        self,
        cluster: Cluster,
        providers: Providers,
        journal: Journal,
        usage: UsageCollector,
        clock: Clock,
        *,
        health: DeviceHealth,
        namespace: str,
        retention_s: float,
        rights: LeaseRights,
    ) -> None:
        self._cluster, self._providers, self._journal = cluster, providers, journal
        self._usage, self._clock, self._health = usage, clock, health
        self._namespace, self._retention_s = namespace, retention_s
        self._rights = rights
        self._up_since_ns = clock.now_ns()
        self._figures = statuses.Figures()
        self.states: dict[LeaseId, str] = {}
        """Last known state, for metrics."""
        self.by_namespace: dict[str, LeaseId] = {}
        self.figures: dict[LeaseId, LeaseFigures] = {}
        """Money of live leases as of their last look, for metrics."""
        self.won_total: Counter[str] = Counter()
        """Leases that came into being, by provider."""

    async def reconcile(self, key: HostedKey) -> float | None:
        """One step; returns seconds until the next look."""
        site = self._providers.by_address(key.lease.provider)
        if site is None:
            return 5.0
        if site.session.problem is not None:
            return 2.0
        round_ = await self._gather(key, site)
        policy = s.Policy(float(site.spec.manifest_timeout_s), self._retention_s)
        plan = planner.decide(round_.seen, policy)
        await self._execute(round_, plan)
        if self._too_early(round_, plan):
            return min(plan.requeue_after_s or _QUIET_START_S, _QUIET_START_S)
        return plan.requeue_after_s

    # --- gather ------------------------------------------------------------------------------------------------------

    async def _gather(self, key: HostedKey, site: ProviderSite) -> _Round:
        session, lease_id = site.session, key.lease
        self.by_namespace[lease_namespace(lease_id)] = lease_id
        held = site.stock.reservations.get(str(lease_id))
        hosting = await self._hosting(site)
        lease, deployment, cluster = await asyncio.gather(
            session.see(session.client.lease(lease_id)),
            session.see(session.client.deployment(lease_id.deployment)),
            self._read(lease_id, hosting, held),
        )
        self._note(lease_id.provider, str(lease_id), lease.value)
        money = _money(site, lease, deployment)
        self._note_figures(site, lease.value, deployment.value, money, held)
        if held is not None and lease.value is not None:
            site.stock.reservations.mark_leased(str(lease_id))
        usage = self._usage.usage(lease_namespace(lease_id))
        workload = cluster.workload
        if usage is not None and usage.running and workload.namespace_exists:
            devices = tuple(sorted({device for _, _, device in usage.running}))
            workload = replace(workload, device_uuids=devices)
        seen = s.ObservedLease(
            id=lease_id,
            now_ns=self._clock.now_ns(),
            height=lease.height,
            block_time_ns=session.tip.block_time_ns,
            lease=lease,
            deployment=deployment,
            up_since_ns=self._up_since_ns,
            hosted_known=True,
            hosted=cluster.hosted,
            manifest_known=True,
            manifest=cluster.manifest,
            workload=workload,
            objects_differ=cluster.objects.differ,
            money=money,
            gpu_seconds=usage.gpu_seconds if usage is not None else None,
            troubles=views.troubles(self._health, usage),
            credit=views.credit(usage, lease.value, held, block_time_ns=session.tip.block_time_ns),
            drain=views.drain((await site.stock.snapshot()).nodes, held, cluster.hosted),
            orphan_seen_height=self._orphan_seen(str(lease_id)),
        )
        return _Round(key, site, seen, cluster, held, lease.value)

    def _orphan_seen(self, lease_id: str) -> int | None:
        body = self._journal.get(_ORPHAN, lease_id)
        return None if body is None else int(body["height"])

    async def _read(self, lease: LeaseId, hosting: Hosting, held: Held | None) -> InCluster:
        try:
            return await hosted_view.read(
                self._cluster, lease, operator_namespace=self._namespace, hosting=hosting, held=held
            )
        except KubeError as error:
            await self._rights.grant_after(error, lease_namespace(lease))
            raise

    async def _hosting(self, site: ProviderSite) -> Hosting:
        snapshot = await site.stock.snapshot()
        spec = site.spec
        return Hosting(
            pod_security=spec.pod_security,
            runtime_class=spec.runtime_class,
            closed_ranges=snapshot.cluster_ranges(),
            opened_ranges=spec.private_ranges_allowed,
            domain=spec.gateway_domain,
            public_host=spec.gateway_domain or urlsplit(spec.host_uri).hostname or "",
            ingress_class=spec.ingress_class,
            http_gateway=spec.http_gateway if await self._serves_routes(spec.http_gateway is not None) else None,
            storage_classes=spec.storage_classes,
        )

    async def _serves_routes(self, wanted: bool) -> bool:
        """Whether the cluster has the Gateway API; asked only where an admin names a Gateway, and again after a no."""
        return wanted and await self._cluster.serves(ROUTE_API, "HTTPRoute")

    def _note(self, provider: str, lease_id: str, lease: Lease | None) -> None:
        """The journal's list of live leases: what is looked at again after a restart."""
        live = lease is not None and lease.state in (LeaseState.ACTIVE, LeaseState.RECLAIMING)
        known = self._journal.get(_KIND, lease_id)
        if lease is not None and self._orphan_seen(lease_id) is not None:
            self._journal.delete(_ORPHAN, lease_id)
        if known is None and lease is None:
            return
        if known is None:
            self.won_total[provider] += 1
        if known is None or bool(known.get("live")) != live:
            self._journal.put(_KIND, lease_id, {"live": live}, owner=provider, is_open=live)

    def _note_figures(
        self,
        site: ProviderSite,
        lease: Lease | None,
        deployment: Deployment | None,
        money: s.MoneyView | None,
        held: Held | None,
    ) -> None:
        if lease is None:
            return
        if lease.state not in views.LIVE or deployment is None:
            self.figures.pop(lease.id, None)
            return
        self.figures[lease.id] = LeaseFigures(
            session=site.session,
            price_uact_per_block=lease.price.amount,
            gpus=sum(amounts.gpus for amounts in held.nodes.values()) if held is not None else 0,
            settled_height=deployment.escrow.settled_at,
            settle_every_s=site.spec.withdraw_period_s,
            money=money,
        )

    # --- execute -----------------------------------------------------------------------------------------------------

    async def _execute(self, round_: _Round, plan: s.Plan) -> None:
        facts = dict(plan.facts)
        body = round_.cluster.hosted_body
        for action in plan.actions:
            match action:
                case s.CreateHosted():
                    body = await self._create_hosted(round_)
                case s.ApplyWorkload():
                    await self._apply(round_)
                case s.Withdraw(key):
                    self._withdraw(round_, key)
                case s.CloseBid(reason, key):
                    self._close_bid(round_, reason, key)
                case s.RememberClosed(height):
                    facts["closedSeenHeight"] = height
                case s.RememberDrain(height):
                    facts["drainSeenHeight"] = height
                case s.StartReclaim(reason, key):
                    self._start_reclaim(round_, reason, key)
                case s.RecordCredit(uact, key):
                    lease_id = round_.key.lease
                    books = round_.site.session.books
                    books.record_credit(key, owner=lease_id.owner, provider=lease_id.provider, uact=uact)
                case s.RememberOrphan(height):
                    self._journal.put(_ORPHAN, str(round_.key.lease), {"height": height}, is_open=False)
                case s.StopPods():
                    await self._stop_pods(round_)
                case s.DeleteNamespace(uid):
                    await self._destroy(round_, uid)
                case s.ReleaseCapacity():
                    self._release(round_)
                case s.ForgetHosted():
                    await self._forget(round_)
                    return
        if plan.state is s.HostedState.CLOSED:
            # The planner asks for this state only once, before a closing time is known.
            moment = datetime.fromtimestamp(self._clock.now_ns() // NS_PER_S, tz=UTC)
            facts["closedTime"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        if body is not None:
            await self._write_status(round_, body, plan, facts)

    async def _write_status(self, round_: _Round, body: Json, plan: s.Plan, facts: dict[str, Any]) -> None:
        if plan.state is not None:
            self.states[round_.key.lease] = plan.state.value
        if self._too_early(round_, plan):
            return
        written = await statuses.publish(
            self._cluster,
            body,
            self._figures,
            state=plan.state.value if plan.state is not None else None,
            conditions=plan.conditions,
            facts=facts,
            along=plan.figures,
            now_ns=self._clock.now_ns(),
        )
        ready = next((c for c in plan.conditions if c.type == "Ready"), None)
        if written is not None and ready is not None and plan.state is s.HostedState.DEGRADED:
            await self._cluster.event(body, ready.reason, ready.message, type_="Warning")
        if written is not None:
            await self._tell_tenant(round_, plan)

    async def _tell_tenant(self, round_: _Round, plan: s.Plan) -> None:
        """What only the provider knows goes into the lease's own namespace, whose events the gateway streams."""
        if not round_.cluster.workload.namespace_exists or round_.cluster.group is None:
            return
        first = round_.cluster.group.services[0].name
        meta = {"name": first, "namespace": round_.namespace}
        for condition in plan.conditions:
            if condition.reason in _TOLD_TO_TENANTS:
                about = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta}
                await self._cluster.event(about, condition.reason, condition.message, type_="Warning")
                return

    def _too_early(self, round_: _Round, plan: s.Plan) -> bool:
        """Whether a passing state of a young lease can wait: its next state comes within moments."""
        lease = round_.lease
        if lease is None or plan.state not in (s.HostedState.AWAITING_MANIFEST, s.HostedState.DEPLOYING):
            return False
        if any(c.reason == "ManifestRefused" for c in plan.conditions):
            return False
        age_s = (round_.seen.height - lease.created_at) * round_.seen.block_time_ns / NS_PER_S
        written = round_.seen.hosted is not None and bool(round_.seen.hosted.status.get("state"))
        return age_s < _QUIET_START_S and not written

    async def _create_hosted(self, round_: _Round) -> Json | None:
        lease = round_.lease
        if lease is None:
            return None
        deployment = round_.seen.deployment.value if round_.seen.deployment is not None else None
        body = hosted_view.hosted_body(
            round_.key.lease,
            namespace=self._namespace,
            price=str(lease.price.amount),
            created_height=lease.created_at,
            manifest_hash=deployment.hash.hex() if deployment is not None else None,
            placement=_placement(round_),
        )
        log.info("hosting", lease=str(round_.key.lease))
        return await self._cluster.apply(body)

    async def _apply(self, round_: _Round) -> None:
        """Namespace, then what limits it, then what runs in it: a pod must never be there before its limits."""
        write = list(round_.cluster.objects.write)
        spaces = [o for o in write if o["kind"] == "Namespace"]
        for space in spaces:
            await self._cluster.apply(space)
            await self._rights.grant(round_.namespace)
        limits = [o for o in write if o["kind"] in _LIMITS]
        await asyncio.gather(*(self._write(o) for o in limits))
        await asyncio.gather(*(self._write(o) for o in write if o not in spaces and o not in limits))
        for extra in round_.cluster.objects.remove:
            await self._cluster.delete(Ref.of(extra), uid=str(extra["metadata"]["uid"]))
        log.info("workload applied", lease=str(round_.key.lease), namespace=round_.namespace)

    async def _write(self, wanted: Json) -> Json:
        return await self._rights.patiently(lambda: self._cluster.apply(wanted))

    def _withdraw(self, round_: _Round, key: str) -> None:
        round_.site.session.send(
            round_.site.key,
            key,
            "withdraw",
            codec.withdraw_lease(round_.key.lease),
            priority=Priority.MONEY,
            memo=self._memo(round_, key),
            then=round_.key,
        )

    def _memo(self, round_: _Round, key: str) -> str:
        """What a withdrawal says of the usage it is for: the root over the records since the last one that has paid.

        Empty for a withdrawal that is under way: it keeps the memo it was sent with.
        """
        session, lease = round_.site.session, str(round_.key.lease)
        under_way = session.outcome(key)
        if under_way is not None and under_way.problem is None:
            return ""
        before = self._journal.get(_WITHDRAWN, lease)
        last = session.outcome(before["key"]) if before is not None else None
        if last is not None and last.succeeded:
            self._usage.note_withdrawn(round_.namespace, last.intent.memo)
        if before is None or before["key"] != key:
            self._journal.put(_WITHDRAWN, lease, {"key": key}, is_open=False)
        return self._usage.records_since(round_.namespace, self._usage.settled(round_.namespace)).memo

    def _close_bid(self, round_: _Round, reason: int, key: str) -> None:
        log.warning("lease is given up", lease=str(round_.key.lease), reason=reason)
        round_.site.session.send(
            round_.site.key,
            key,
            "close-bid",
            codec.close_bid(round_.key.lease, reason=reason),
            priority=Priority.MARKET,
            then=round_.key,
        )

    def _start_reclaim(self, round_: _Round, reason: int, key: str) -> None:
        log.warning("lease is reclaimed", lease=str(round_.key.lease), reason=reason)
        round_.site.session.send(
            round_.site.key,
            key,
            "start-reclaim",
            codec.start_reclaim(round_.key.lease, reason=reason),
            then=round_.key,
        )

    async def _stop_pods(self, round_: _Round) -> None:
        """Of a namespace without a lease: its Deployments go to zero, everything else stays as it is."""
        namespace = round_.namespace
        round_.site.orphans.add(namespace)
        label = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())
        for body in (await self._cluster.list("apps/v1", "Deployment", namespace=namespace, labels=label)).items:
            if int(body["spec"].get("replicas", 1)):
                log.error("namespace without a lease: pods stopped", namespace=namespace, name=body["metadata"]["name"])
                await self._cluster.merge_patch(Ref.of(body), {"spec": {"replicas": 0}})

    async def _destroy(self, round_: _Round, uid: str) -> None:
        """The workload, then the manifest, which may hold the tenant's secrets."""
        log.info("workload removed", lease=str(round_.key.lease), namespace=round_.namespace)
        try:
            await self._cluster.delete(Ref("v1", "Namespace", round_.namespace), uid=uid)
        except KubeConflict:
            log.warning("namespace is another one by now", namespace=round_.namespace)
            return
        await self._cluster.delete(Ref("v1", "Secret", manifest_secret(round_.namespace), self._namespace))

    def _release(self, round_: _Round) -> None:
        round_.site.orphans.discard(round_.namespace)
        if round_.site.stock.reservations.release(str(round_.key.lease)):
            log.info("capacity released", lease=str(round_.key.lease))

    async def _forget(self, round_: _Round) -> None:
        hosted = round_.seen.hosted
        assert hosted is not None
        ref = Ref(hosted_view.API, "HostedLease", hosted_name(round_.key.lease), self._namespace)
        await self._cluster.delete(ref, uid=hosted.uid)
        self._figures.forget(hosted.uid)
        self.states.pop(round_.key.lease, None)
        self.figures.pop(round_.key.lease, None)
        self.by_namespace.pop(round_.namespace, None)


def _placement(round_: _Round) -> list[dict[str, Any]]:
    if round_.held is None:
        return []
    names = {x.resources.id: x.name for x in round_.cluster.group.services} if round_.cluster.group is not None else {}
    return [
        {"node": node, "service": names.get(rid, f"resource-{rid}"), "replicas": count}
        for rid, by_node in sorted(round_.held.replicas.items())
        for node, count in sorted(by_node.items())
    ]


def _money(site: ProviderSite, lease: Seen[Lease | None], deployment: Seen[Deployment | None]) -> s.MoneyView | None:
    if lease.value is None:
        return None
    return views.money_view(
        lease.value,
        deployment.value,
        height=min(lease.height, deployment.height),
        block_time_ns=site.session.tip.block_time_ns,
        period_s=site.spec.withdraw_period_s,
        threshold_uact=site.spec.withdraw_threshold_uact,
    )
