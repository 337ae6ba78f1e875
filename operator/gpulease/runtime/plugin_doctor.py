"""``kubectl gpulease doctor``: what a working installation needs, looked at one by one. Pure: facts in, findings out.

Every finding that is not good says what to do. What could not be read is unknown, and says why; it is never taken for
missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from gpulease.inventory.devices import PRODUCT_LABEL, Node, node_of
from gpulease.kube.refs import Json

OLDEST_MINOR = 28
MOST_SKEW_S = 5.0
STALE_BLOCK_S = 120.0
LOW_FEES_UAKT = 2_000_000
_PLUGINS = ("nvidia-device-plugin",)
_DCGM = ("dcgm-exporter",)
_ENGINES = ("calico-node", "cilium", "antrea-agent", "kube-router", "weave-net", "ovnkube-node", "canal", "azure-npm")


class Verdict(Enum):
    GOOD = "good"
    LOOK = "look"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """``do`` is empty when nothing is to be done."""

    check: str
    verdict: Verdict
    says: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class Unread:
    """A part that could not be read, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One chain endpoint as it answered: ``height`` and ``time_ns`` of its last block."""

    chain: str
    url: str
    answer: Unread | None = None
    height: int = 0
    time_ns: int = 0
    catching_up: bool = False


@dataclass(frozen=True, slots=True)
class Wallet:
    """``problem`` is set when there is no usable key; ``balances`` in micro-units by denomination."""

    owner: str
    problem: str = ""
    address: str = ""
    balances: Mapping[str, int] | Unread = field(default_factory=lambda: Unread("the chain was not asked"))


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is looked at; lists are bodies as the API server spells them."""

    now_ns: int
    own_version: str
    server: Json | Unread
    ours: Sequence[Json] | Unread
    nodes: Sequence[Json] | Unread
    daemons: Sequence[Json] | Unread
    agents: Sequence[Json] | Unread
    operators: Sequence[Json] | Unread
    heartbeats: Sequence[Json] | Unread
    endpoints: Sequence[Endpoint] = ()
    wallets: Sequence[Wallet] = ()


def examine(facts: Facts) -> list[Finding]:
    """All findings in the order in which things are set up: the first bad one is usually the cause of later ones."""
    found = [_cluster(facts.server), _resources(facts.ours)]
    if isinstance(facts.nodes, Unread):
        found.append(_unread("GPUs", facts.nodes))
    else:
        nodes = [node_of(body) for body in facts.nodes]
        found += [_device_plugin(nodes, facts.daemons), _labels(nodes), _agents(nodes, facts.agents)]
    found += [_dcgm(facts.daemons), _network_policies(facts.daemons), _version(facts), _clock(facts)]
    found += [_endpoint(endpoint, facts.now_ns) for endpoint in facts.endpoints]
    found += [_wallet(wallet) for wallet in facts.wallets]
    return found


def _unread(check: str, part: Unread) -> Finding:
    return Finding(
        check, Verdict.UNKNOWN, f"Could not be read: {part.why}", "Run it with rights to read this, or ask an admin."
    )


def _cluster(server: Json | Unread) -> Finding:
    if isinstance(server, Unread):
        return Finding(
            "cluster", Verdict.BAD, f"The API server does not answer: {server.why}", "Check --kubeconfig and --context."
        )
    minor = "".join(c for c in str(server.get("minor", "")) if c.isdigit())
    version = str(server.get("gitVersion", "?"))
    if minor and int(minor) < OLDEST_MINOR:
        do = f"Upgrade to Kubernetes 1.{OLDEST_MINOR} or newer."
        return Finding("cluster", Verdict.BAD, f"Kubernetes {version} is too old.", do)
    return Finding("cluster", Verdict.GOOD, f"Kubernetes {version}.")


def _resources(ours: Sequence[Json] | Unread) -> Finding:
    if isinstance(ours, Unread):
        do = "Install the chart, or apply its crds/ folder: helm does not upgrade them by itself."
        return Finding("resources", Verdict.BAD, f"The kinds of gpulease.dev cannot be listed: {ours.why}", do)
    return Finding("resources", Verdict.GOOD, f"{len(ours)} providers and leases.")


def _device_plugin(nodes: Sequence[Node], daemons: Sequence[Json] | Unread) -> Finding:
    with_gpus = [node for node in nodes if node.device_total]
    total = sum(node.allocatable.devices for node in with_gpus)
    sick = {node.name: node.sick_gpus for node in with_gpus if node.sick_gpus}
    if sick:
        names = ", ".join(f"{count} of node {name}" for name, count in sorted(sick.items()))
        do = "Look for 'NVRM: Xid' in the node's kernel log; the runbook GpuleaseGpuQuarantined goes on from there."
        return Finding("device plugin", Verdict.LOOK, f"{total} GPUs; withdrawn as sick: {names}.", do)
    if total:
        return Finding("device plugin", Verdict.GOOD, f"{total} GPUs on {len(with_gpus)} nodes.")
    if not isinstance(daemons, Unread) and _running(daemons, _PLUGINS):
        do = "See the plugin's log: without the NVIDIA driver and container runtime on the node it finds nothing."
        return Finding("device plugin", Verdict.BAD, "It runs, but offers no GPU.", do)
    do = "Install NVIDIA's device plugin or GPU operator. A cluster that only buys leases needs none."
    return Finding("device plugin", Verdict.LOOK, "No node offers nvidia.com/gpu.", do)


def _labels(nodes: Sequence[Node]) -> Finding:
    with_gpus = [node for node in nodes if node.allocatable.devices]
    bare = sorted(node.name for node in with_gpus if not node.product)
    strange = sorted({node.product for node in with_gpus if node.product and not node.kinds})
    if bare:
        do = "Install GPU feature discovery (gfd.enabled=true in the device plugin's chart): bids need the model."
        return Finding("GFD labels", Verdict.BAD, f"No label {PRODUCT_LABEL} on {', '.join(bare)}.", do)
    if strange:
        do = "These models are not in the model table and cannot be sold."
        return Finding("GFD labels", Verdict.LOOK, f"Unknown products: {', '.join(strange)}.", do)
    models = sorted({str(kind) for node in with_gpus for kind in node.kinds})
    return Finding("GFD labels", Verdict.GOOD, f"Models: {', '.join(models) or 'none, as there are no GPUs'}.")


def _agents(nodes: Sequence[Node], agents: Sequence[Json] | Unread) -> Finding:
    if isinstance(agents, Unread):
        return _unread("node agents", agents)
    up = {body["spec"].get("nodeName") for body in agents if (body.get("status") or {}).get("phase") == "Running"}
    missing = sorted(node.name for node in nodes if node.device_total and node.name not in up)
    if missing:
        do = "Usage there is not measured. Check the agent's DaemonSet: tolerations, image, events of its pods."
        return Finding("node agents", Verdict.BAD, f"No agent runs on {', '.join(missing)}.", do)
    return Finding("node agents", Verdict.GOOD, f"{len(up)} run.")


def _dcgm(daemons: Sequence[Json] | Unread) -> Finding:
    if isinstance(daemons, Unread):
        return _unread("DCGM", daemons)
    if _running(daemons, _DCGM):
        return Finding("DCGM", Verdict.GOOD, "dcgm-exporter runs.")
    do = "Optional: install dcgm-exporter to have more evidence in usage records; NVML is used without it."
    return Finding("DCGM", Verdict.LOOK, "No dcgm-exporter was found.", do)


def _network_policies(daemons: Sequence[Json] | Unread) -> Finding:
    if isinstance(daemons, Unread):
        return _unread("NetworkPolicy", daemons)
    engines = _running(daemons, _ENGINES)
    if engines:
        return Finding("NetworkPolicy", Verdict.GOOD, f"Enforced by {', '.join(engines)}.")
    do = "Unless your network plugin enforces NetworkPolicies, tenants reach your network: install one that does."
    return Finding("NetworkPolicy", Verdict.UNKNOWN, "No engine that is known to enforce them was found.", do)


def _version(facts: Facts) -> Finding:
    if isinstance(facts.operators, Unread):
        return _unread("versions", facts.operators)
    found = sorted({_label(body, "app.kubernetes.io/version") for body in facts.operators} - {""})
    if not found:
        return Finding("versions", Verdict.UNKNOWN, "No operator with a version label was found.", "Install the chart.")
    if found == [facts.own_version]:
        return Finding("versions", Verdict.GOOD, f"Operator and plugin are {facts.own_version}.")
    do = f"Use the plugin of the operator's version: pip install gpulease=={found[-1]}."
    return Finding("versions", Verdict.LOOK, f"Operator {', '.join(found)}, plugin {facts.own_version}.", do)


def _clock(facts: Facts) -> Finding:
    if isinstance(facts.heartbeats, Unread):
        return _unread("clock", facts.heartbeats)
    ahead = {str(b["metadata"]["name"]): _ahead_s(b, facts.now_ns) for b in facts.heartbeats}
    wrong = sorted(name for name, seconds in ahead.items() if seconds is not None and seconds > MOST_SKEW_S)
    if wrong:
        do = "Let chrony or systemd-timesyncd set the clocks, here and there: certificates and tokens depend on them."
        return Finding("clock", Verdict.BAD, f"These nodes are ahead of this machine: {', '.join(wrong)}.", do)
    if not ahead:
        return Finding("clock", Verdict.UNKNOWN, "No node has told its time.", "Check that kubelets run.")
    return Finding("clock", Verdict.GOOD, "No node is ahead of this machine.")


def _endpoint(endpoint: Endpoint, now_ns: int) -> Finding:
    check = f"chain {endpoint.chain}"
    if endpoint.answer is not None:
        do = "Check the URL from here and from the operator's pod; name a second endpoint in spec.chain.endpoints."
        return Finding(check, Verdict.BAD, f"{endpoint.url}: {endpoint.answer.why}", do)
    age_s = (now_ns - endpoint.time_ns) / 1e9
    if endpoint.catching_up:
        return Finding(check, Verdict.LOOK, f"{endpoint.url} is catching up.", "Wait, or use another endpoint.")
    if age_s > STALE_BLOCK_S:
        do = "Compare with a block explorer: it is this endpoint, the chain itself, or this machine's clock."
        return Finding(check, Verdict.BAD, f"{endpoint.url}: the last block is {age_s:.0f} s old.", do)
    if age_s < -MOST_SKEW_S:
        return Finding(
            check, Verdict.BAD, f"{endpoint.url}: its last block is from the future.", "Set this machine's clock."
        )
    return Finding(check, Verdict.GOOD, f"{endpoint.url} is at block {endpoint.height}.")


def _wallet(wallet: Wallet) -> Finding:
    check = f"wallet of {wallet.owner}"
    if wallet.problem:
        return Finding(check, Verdict.BAD, wallet.problem, "See what it says, then look again.")
    if isinstance(wallet.balances, Unread):
        return Finding(
            check, Verdict.UNKNOWN, f"{wallet.address}: {wallet.balances.why}", "Mend the chain endpoint first."
        )
    fees, uact = wallet.balances.get("uakt", 0), wallet.balances.get("uact", 0)
    says = f"{wallet.address} holds {fees} uakt and {uact} uact."
    if fees < LOW_FEES_UAKT:
        return Finding(check, Verdict.LOOK, says, f"Send AKT to it: below {LOW_FEES_UAKT} uakt fees may not last.")
    return Finding(check, Verdict.GOOD, says)


def _running(daemons: Iterable[Json], names: Sequence[str]) -> list[str]:
    """DaemonSets with a ready pod whose name or ``app`` label contains one of ``names``."""
    found = []
    for body in daemons:
        own = f"{body['metadata']['name']} {_label(body, 'app')} {_label(body, 'app.kubernetes.io/name')}"
        if (body.get("status") or {}).get("numberReady") and any(name in own for name in names):
            found.append(str(body["metadata"]["name"]))
    return sorted(found)


def _label(body: Mapping[str, Any], name: str) -> str:
    return str((body["metadata"].get("labels") or {}).get(name, ""))


def _ahead_s(body: Json, now_ns: int) -> float | None:
    """By how much a heartbeat is from the future; None for one that tells no time."""
    text = (body.get("spec") or {}).get("renewTime")
    return None if not text else datetime.fromisoformat(str(text)).timestamp() - now_ns / 1e9
