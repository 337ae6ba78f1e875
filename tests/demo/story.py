"""The story of one lease, from an order on chain to the last micro-unit, told by the sources themselves.

Every fact is read where it is made: the chain's REST and RPC, the API server, the kubelet's PodResources, the node
agent's signed records, Prometheus. What the operator says of itself is compared with those, never believed alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from gpulease.ids import LeaseId
from gpulease.workload.names import lease_namespace
from tests.demo import books, pods, usage
from tests.demo.model import Seen, Step
from tests.rig.chainview import OnChain, Withdrawal
from tests.rig.errors import RigError
from tests.rig.stack import OPERATOR_NAMESPACE, TENANT_NAMESPACE, Change, Json, Stack, until

LEASE = "demo"
"""Name of the GPULease in docs/examples/lease.yaml, as of the GPUProvider."""
MICRO = 1_000_000


@dataclass(slots=True)
class Facts:
    """What the steps found out, for the steps after them and for the figures at the end. Times are Unix seconds."""

    since: int = 1
    before: dict[str, Mapping[str, int]] = field(default_factory=dict)
    applied_at_s: float = 0.0
    order: OnChain | None = None
    bid: OnChain | None = None
    lease: OnChain | None = None
    namespace: str = ""
    pod: str = ""
    uuid: str = ""
    running_at_s: float = 0.0
    quiet_from_s: float = 0.0
    deleted_at_s: float = 0.0
    withdrawals: list[Withdrawal] = field(default_factory=list)
    operator_rss_mb: float = 0.0


class Story:
    """Steps over a :class:`Stack`. A test may run ``setup``, ``lease`` and ``close`` apart, or single ``look``s.

    ``patience_s`` is how long one step may take beyond the blocks it needs; ``waiting`` is told why it still waits.
    """

    def __init__(
        self,
        stack: Stack,
        *,
        change_lease: Change | None = None,
        change_provider: Change | None = None,
        patience_s: float = 60.0,
        waiting: Callable[[str], None] | None = None,
    ) -> None:
        self.stack, self.facts = stack, Facts()
        self._waiting = waiting
        self._change_lease, self._change_provider = change_lease, change_provider
        self._patience_s = patience_s
        self._block_s = stack.block_time_ms / 1000

    # -- the acts ----------------------------------------------------------------------------------------------

    def setup(self) -> Sequence[Step]:
        return (
            Step("setup", "embedded chain", "devnet", self.chain_up),
            Step("setup", "CRDs, namespaces, wallets", "kube-apiserver", self.installed),
            Step("setup", "node agent", "agent", self.agent_up),
            Step("setup", "operator, both roles", "operator", self.operator_up),
            Step("setup", "Prometheus", "prometheus", self.prometheus_up),
            Step("setup", "provider on chain", "operator", self.provider_registered),
            Step("setup", "gateway", "gateway", self.gateway_up),
        )

    def lease(self) -> Sequence[Step]:
        return (
            Step("lease", "deployment and order on chain", "operator", self.ordered),
            Step("lease", "our bid", "operator", self.bid_made),
            Step("lease", "lease", "operator", self.leased),
            Step("lease", "manifest accepted by the gateway", "gateway", self.manifest_taken),
            Step("lease", "namespace, policies, pod", "operator", self.objects_made),
            Step("lease", "pod Running with a GPU", "kubelet", self.running),
            Step("lease", "usage records growing", "agent", self.metered),
            Step("lease", "DCGM series of that GPU", "prometheus", self.dcgm_series),
            Step("lease", "withdraw in a block", "operator", self.withdrawn),
            Step("lease", "balances", "operator", self.balances),
        )

    def close(self) -> Sequence[Step]:
        return (
            Step("close", "final settlement", "operator", self.settled),
            Step("close", "pod and namespace gone", "operator", self.gone),
            Step("close", "GPU free again", "kubelet", self.gpu_free),
            Step("close", "deposits returned", "operator", self.deposits_back),
            Step("close", "ledger equals the chain", "operator", self.ledger_balanced),
        )

    # -- setup -------------------------------------------------------------------------------------------------

    def chain_up(self) -> Seen:
        self.stack.start_chain()
        chain = self.stack.chain
        self.facts.since = chain.height() + 1
        self.facts.before = {name: chain.balances(self.stack.address(name)) for name in ("provider", "tenant")}
        return Seen(f"{chain.chain_id()}, a block every {self._block_s:g} s; provider and tenant funded")

    def installed(self) -> Seen:
        self.stack.install()
        found = [one for one in self.stack.items("crd") if one["spec"]["group"] == "gpulease.dev"]
        return Seen(f"{len(found)} CRDs, {OPERATOR_NAMESPACE}, {TENANT_NAMESPACE}")

    def agent_up(self) -> Seen:
        self.stack.start_agent()
        return Seen(", ".join(f"{node} at {url}" for node, url in self.stack.agents.items()))

    def operator_up(self) -> Seen:
        self.stack.start_operator()
        return Seen(f"ready, pid {self.stack.processes['operator'].pid}")

    def prometheus_up(self) -> Seen:
        self.stack.start_prometheus()
        return Seen(self.stack.prometheus_url)

    def provider_registered(self) -> Seen:
        self.stack.apply_example("provider.yaml", self._change_provider)
        address = self.stack.address("provider")

        def on_chain() -> Seen | None:
            record = self.stack.chain.provider(address)
            certificates = self.stack.chain.certificates(address)
            body = self.stack.get("gpuprovider", LEASE, OPERATOR_NAMESPACE) or {}
            ready = condition(body, "Ready")
            if record is None or not certificates:
                raise RigError(
                    f"record {'there' if record else 'missing'}, certificate "
                    f"{'there' if certificates else 'missing'}; {ready}"
                )
            if record["host_uri"] != self.stack.gateway_url or not ready.startswith("Ready=True"):
                raise RigError(f"host {record['host_uri']}; {ready}")
            gpus = body["status"].get("gpus", {})
            return Seen(
                f"{short(address)}: record and certificate; {gpus.get('free')} of {gpus.get('total')} GPUs free"
            )

        seen: Seen = self._until("the provider's record and certificate on chain", on_chain, blocks=10)
        return seen

    def gateway_up(self) -> Seen:
        self.stack.start_gateway()
        self._until("the gateway listening", self.stack.gateway_listens)
        return Seen(self.stack.gateway_url)

    # -- lease -------------------------------------------------------------------------------------------------

    def ordered(self) -> Seen:
        self.facts.applied_at_s = time.time()
        self.stack.apply_example("lease.yaml", self._change_lease)
        owner = self.stack.address("tenant")

        def look() -> OnChain | None:
            orders = self.stack.chain.orders(owner)
            if not orders:
                raise RigError(self._lease_words())
            return orders[-1]

        order = self._until("an order of the tenant on chain", look, blocks=10)
        self.facts.order = order
        (deployment,) = (d for d in self.stack.chain.deployments(owner) if d.id["dseq"] == order.id["dseq"])
        assert deployment.escrow is not None
        return Seen(
            f"dseq {order.id['dseq']}, deposit {coins(deployment.escrow.funds)}", order.height, self._time(order.height)
        )

    def bid_made(self) -> Seen:
        provider, order = self.stack.address("provider"), self._order()

        def look() -> OnChain | None:
            bids = [b for b in self.stack.chain.bids(order.id["owner"]) if b.id["provider"] == provider]
            found = next((b for b in bids if b.id["dseq"] == order.id["dseq"]), None)
            if found is None:
                raise RigError(usage.declined(self.stack))
            return found

        bid = self._until("our bid on the order", look, blocks=10)
        self.facts.bid = bid
        price = bid.raw["bid"]["price"]
        late = bid.height - order.height
        return Seen(
            f"{Decimal(price['amount']).normalize():f} {price['denom']} per block, "
            f"{late} block{'s' * (late != 1)} after the order",
            bid.height,
            self._time(bid.height),
        )

    def leased(self) -> Seen:
        order = self._order()

        def look() -> OnChain | None:
            leases = self.stack.chain.leases(order.id["owner"])
            found = next((x for x in leases if x.id["dseq"] == order.id["dseq"]), None)
            if found is None:
                raise RigError(self._lease_words())
            return found

        lease = self._until("a lease on the order", look, blocks=20)
        if lease.id["provider"] != self.stack.address("provider"):
            raise RigError(f"the lease went to {lease.id['provider']}, which is not our provider")
        self.facts.lease = lease
        self.facts.namespace = lease_namespace(self.lease_id())
        return Seen(f"{lease.key} with {short(lease.id['provider'])}", lease.height, self._time(lease.height))

    def manifest_taken(self) -> Seen:
        words = self._until(
            "the manifest reaching the gateway",
            lambda: pods.manifest_kept(self.stack, self._lease(), self.facts.namespace),
        )
        return Seen(words)

    def objects_made(self) -> Seen:
        pod, words = self._until(
            "the lease's namespace, policies and pod", lambda: pods.objects(self.stack, self.facts.namespace)
        )
        self.facts.pod = pod
        return Seen(words)

    def running(self) -> Seen:
        uuid, since_s = self._until(
            "the pod Running with a GPU of its own",
            lambda: pods.running(self.stack, self.facts.namespace, self.facts.pod),
        )
        self.facts.uuid, self.facts.running_at_s = uuid, min(since_s, time.time())
        return Seen(uuid)

    def metered(self) -> Seen:
        words = usage.growing(self.stack, self.facts.namespace, self.facts.uuid, patience_s=self._patience_s)
        self.facts.quiet_from_s = time.time()
        return Seen(words)

    def dcgm_series(self) -> Seen:
        return Seen(
            usage.dcgm(self.stack, self.facts.namespace, self.facts.pod, self.facts.uuid, patience_s=self._patience_s)
        )

    def withdrawn(self) -> Seen:
        dseq = int(self._lease().id["dseq"])

        def look() -> list[Withdrawal]:
            found = [w for w in self.stack.chain.withdrawals(since=self._lease().height) if w.dseq == dseq]
            if not found:
                raise RigError(f"none yet; spec.settlement.withdrawPeriodSeconds is {self._withdraw_period_s()}")
            return found

        self.facts.withdrawals = self._until("a withdraw transaction in a block", look, blocks=90)
        one = self.facts.withdrawals[0]
        return Seen(f"{coins(one.paid)} to the provider, tx {one.tx[:12]}…", one.height, self._time(one.height))

    def balances(self) -> Seen:
        self.facts.operator_rss_mb = books.operator_rss_mb(self.stack)
        return Seen(
            self._until(
                "the ledger equal to the bank", lambda: books.mid_lease(self.stack, self._lease(), self.facts.before)
            )
        )

    def _withdraw_period_s(self) -> int:
        provider = self.stack.get("gpuprovider", LEASE, OPERATOR_NAMESPACE) or {}
        return int(provider.get("spec", {}).get("settlement", {}).get("withdrawPeriodSeconds", 3600))

    # -- close -------------------------------------------------------------------------------------------------

    def settled(self) -> Seen:
        self.facts.deleted_at_s = time.time()
        words = ("delete", "gpulease", LEASE, "-n", TENANT_NAMESPACE, "--wait=false", "--ignore-not-found")
        self.stack.cluster.kubectl(*words)
        lease = self._lease()

        def look() -> OnChain | None:
            found = next(x for x in self.stack.chain.leases(lease.id["owner"]) if x.id == lease.id)
            return found if found.state == "closed" else None

        closed = self._until("the lease closed on chain", look, blocks=10)
        self.facts.lease = closed
        height = int(closed.raw["lease"]["closed_on"])
        payment = closed.raw["escrow_payment"]["state"]
        # A withdraw in the block of the close leaves the payment "open" in the store, settled to nothing: a known bug
        # of the chain. What matters is that nothing is left in it.
        if int(Decimal(payment["balance"]["amount"])) or Decimal(payment["unsettled"]["amount"]):
            raise RigError(f"the lease is closed and its payment is not settled: {payment}")
        paid = payment["withdrawn"]
        return Seen(
            f"{coins({paid['denom']: int(paid['amount'])})} paid in all for {height - closed.height} blocks",
            height,
            self._time(height),
        )

    def gone(self) -> Seen:
        return Seen(
            self._until("the pod and its namespace being gone", lambda: pods.gone(self.stack, self.facts.namespace))
        )

    def gpu_free(self) -> Seen:
        return Seen(self._until("the GPU being free", lambda: pods.gpu_free(self.stack, self.facts.uuid)))

    def deposits_back(self) -> Seen:
        return Seen(
            self._until("both deposits coming back", lambda: books.deposits_back(self.stack, self._lease()), blocks=10)
        )

    def ledger_balanced(self) -> Seen:
        def look() -> str:
            return books.closing(self.stack, self._lease(), self.facts.before, since=self.facts.since)

        return Seen(self._until("the ledger equal to the chain's balances", look, blocks=10))

    def on_chain(self) -> OnChain:
        """The lease as last read from the chain."""
        return self._lease()

    def paid_uact(self) -> int:
        """What escrow paid out for the lease so far, as of the last look at it."""
        return int(self._lease().raw["escrow_payment"]["state"]["withdrawn"]["amount"])

    # -- helpers -----------------------------------------------------------------------------------------------

    def lease_id(self) -> LeaseId:
        found = self._lease().id
        return LeaseId(found["owner"], int(found["dseq"]), int(found["gseq"]), int(found["oseq"]), found["provider"])

    def _order(self) -> OnChain:
        if self.facts.order is None:
            raise RigError("no order was seen yet")
        return self.facts.order

    def _lease(self) -> OnChain:
        if self.facts.lease is None:
            raise RigError("no lease was seen yet")
        return self.facts.lease

    def _time(self, height: int) -> float:
        return self.stack.chain.block_time_s(height)

    def _until(self, what: str, look: Any, *, blocks: int = 0) -> Any:
        """Look until it is there; a process of ours that ended meanwhile ends the wait."""

        patience_s = self._patience_s + blocks * self._block_s

        def told() -> Any:
            try:
                return look()
            except RigError as error:
                if self._waiting is not None:
                    self._waiting(str(error))
                raise

        return until(what, told, timeout_s=patience_s, alive=self.stack.processes.values())

    def _lease_words(self) -> str:
        """What the tenant's object says of itself, for when nothing happens."""
        body = self.stack.get("gpulease", LEASE, TENANT_NAMESPACE)
        return condition(body or {}, "Ready")


def condition(body: Json, kind: str) -> str:
    """``Ready=False WalletMissing: …`` of an object's status."""
    for one in (body.get("status") or {}).get("conditions", ()):
        if one["type"] == kind:
            return f"{kind}={one['status']} {one['reason']}: {one['message']}"
    return f"{body.get('kind', 'the object')} has no condition {kind} yet"


def short(address: str) -> str:
    return f"{address[:10]}…{address[-4:]}"


def coins(amounts: Mapping[str, Any]) -> str:
    """``500000 uact`` by denomination, largest first; fractions only where there are any."""
    parts = [
        f"{Decimal(amount).normalize():,f} {denom}".replace(",", " ") for denom, amount in amounts.items() if amount
    ]
    return " + ".join(parts) or "nothing"
