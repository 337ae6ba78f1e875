"""The tenant's side at work: gather, decide (:mod:`gpulease.tenancy.plan`), execute."""

from __future__ import annotations

from dataclasses import replace

from gpulease.ids import DeploymentId
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Ref
from gpulease.runtime.chains import ChainHub
from gpulease.runtime.clock import Clock
from gpulease.runtime.lease_figures import TenantFigures
from gpulease.runtime.outside import Outside
from gpulease.runtime.specs import ObjectName
from gpulease.runtime.talks import Talks
from gpulease.runtime.tenant_actions import Actor
from gpulease.runtime.tenant_gather import Gatherer
from gpulease.runtime.work import TenantKey
from gpulease.tenancy import plan as planner
from gpulease.tenancy import states as s
from gpulease.units import NS_PER_S

API = "gpulease.dev/v1alpha1"
_MOST_STEPS = 3


class Tenants:
    """All GPULeases of the cluster."""

    def __init__(self, cluster: Cluster, hub: ChainHub, talks: Talks, clock: Clock, outside: Outside) -> None:
        self._cluster, self._talks = cluster, talks
        self._gatherer = Gatherer(cluster, hub, talks, clock)
        self._actor = Actor(cluster, talks, clock, outside)
        self.by_deployment: dict[DeploymentId, ObjectName] = {}
        self.states: dict[ObjectName, str] = {}
        """Last known state by object, for metrics."""
        self.figures: dict[ObjectName, TenantFigures] = {}
        """Escrow by object as of its last look, for metrics."""

    async def reconcile(self, key: TenantKey) -> float | None:
        """One step; returns seconds until the next look."""
        body = await self._cluster.get(Ref(API, "GPULease", key.name.name, key.name.namespace))
        if body is None:
            self._forget(key.name)
            return None
        round_ = await self._gatherer.gather(key, body)
        if round_.seen.deployment_id is not None:
            self.by_deployment[round_.seen.deployment_id] = key.name
        if round_.chain is not None and round_.seen.funds is not None:
            self.figures[key.name] = TenantFigures(round_.chain, round_.seen.funds, round_.seen.wanted.budget_uact)
        for _ in range(_MOST_STEPS):
            plan = planner.decide(round_.seen)
            if plan.state is not None:
                self.states[key.name] = plan.state.value
            spoken_to = await self._actor.execute(round_, plan)
            if spoken_to is None:
                break
            # What a gateway has just said may allow the next step at once; the chain's part is as fresh as it was.
            round_.seen = replace(round_.seen, gateway=self._talks.view(spoken_to))
        return _next_look_s(round_.seen, plan)

    def _forget(self, name: ObjectName) -> None:
        self.states.pop(name, None)
        self.figures.pop(name, None)
        for id_ in [i for i, known in self.by_deployment.items() if known == name]:
            del self.by_deployment[id_]
            self._gatherer.forget(id_)
            self._talks.forget(id_)


def _next_look_s(seen: s.ObservedTenant, plan: s.Plan) -> float | None:
    """As the plan says, or earlier when the funds need a look."""
    wanted = plan.requeue_after_s
    if wanted is None or seen.funds is None or seen.funds.next_check_height is None:
        return wanted
    blocks = max(seen.funds.next_check_height - seen.height, 1)
    return min(wanted, blocks * seen.block_time_ns / NS_PER_S)
