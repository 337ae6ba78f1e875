"""Usage records come in from the nodes' agents; a lease is looked at again when what it holds has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from gpulease.agent.collector import AgentSource, UsageCollector
from gpulease.errors import AgentUnreachable, BadInput
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Json
from gpulease.runtime.health import DeviceHealth
from gpulease.runtime.work import NodeUsageKey

log = structlog.get_logger(__name__)
AGENT_LABEL = "gpulease.dev/agent"
AGENT_PORT = 9412
_CATCH_UP_S = 0.2


class UsageIntake:
    """``problems`` says by node why its usage is unknown now."""

    def __init__(
        self,
        collector: UsageCollector,
        *,
        endpoints: Mapping[str, str],
        token: str | None,
        connect: Callable[..., AgentSource],
        poll_s: float,
        on_change: Callable[[str], None],
        health: DeviceHealth | None = None,
        on_trouble: Callable[[str], None] = lambda namespace: None,
        on_devices: Callable[[], None] = lambda: None,
    ) -> None:
        self._collector, self._token, self._poll_s = collector, token, poll_s
        self._fixed, self._found = dict(endpoints), dict[str, str]()
        self._connect, self._on_change = connect, on_change
        self._health, self._on_trouble, self._on_devices = health, on_trouble, on_devices
        self.problems: dict[str, str] = {}
        self.lost_total = 0

    @property
    def nodes(self) -> Mapping[str, str]:
        """Agent URLs by node; what the settings name goes before what was found."""
        return {**self._found, **self._fixed}

    async def discover(self, cluster: Cluster, *, namespace: str) -> None:
        """Agents that run as pods of the operator's namespace."""
        pods = await cluster.list("v1", "Pod", namespace=namespace, labels={AGENT_LABEL: "true"})
        self._found = {str(p["spec"]["nodeName"]): _url(p) for p in pods.items if _url(p)}

    async def pull(self, key: NodeUsageKey) -> float | None:
        """One look at one node; returns seconds until the next, None for a node without an agent any more."""
        url = self.nodes.get(key.node)
        if url is None:
            self.problems.pop(key.node, None)
            return None
        agent = self._connect(url, token=self._token)
        await self._look_at_devices(key.node, agent)
        try:
            done = await self._collector.collect(key.node, agent)
        except (AgentUnreachable, BadInput) as error:
            if self.problems.get(key.node) != str(error):
                log.warning("usage of a node is unknown", node=key.node, problem=str(error))
            self.problems[key.node] = str(error)
            return self._poll_s
        self.problems.pop(key.node, None)
        self.lost_total += done.lost
        for namespace in done.namespaces:
            self._on_change(namespace)
        return _CATCH_UP_S if done.behind else self._poll_s

    async def _look_at_devices(self, node: str, agent: AgentSource) -> None:
        """Before the records, so that a fault is known when the time after it comes in. Silence changes nothing."""
        if self._health is None:
            return
        try:
            facts = await agent.node_devices()
        except (AgentUnreachable, BadInput) as error:
            log.debug("devices of a node are unknown", node=node, problem=str(error))
            return
        if facts.node != node:
            return
        affected = self._health.take(facts)
        for namespace in sorted(affected.namespaces):
            self._on_trouble(namespace)
        if affected.changed:
            self._on_devices()


def _url(pod: Json) -> str:
    address = str((pod.get("status") or {}).get("podIP") or "")
    if not address or not pod["spec"].get("nodeName"):
        return ""
    host = f"[{address}]" if ":" in address else address
    ports = [p for c in pod["spec"]["containers"] for p in c.get("ports") or () if p.get("name") == "http"]
    return f"http://{host}:{ports[0]['containerPort'] if ports else AGENT_PORT}"
