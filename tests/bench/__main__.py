"""``make bench``: the figures of the main story on a rig of 24 GPUs, each beside its bar; exit 1 when one is missed."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from gpulease.ids import LeaseId
from gpulease.workload.names import lease_namespace
from tests.bench.orders import Tenant, Waits
from tests.e2e.told import delete, lease, wait_ready
from tests.rig.audit import Write, writes
from tests.rig.chainview import OnChain
from tests.rig.cluster import Rig
from tests.rig.config import GpuSpec, RigConfig
from tests.rig.stack import OPERATOR_NAMESPACE, Json, OnRig, Ports, Stack, rss_mb, until

GPUS = 24
SINGLE_ROUNDS = 10
BURSTS = 5
BURST = 20
LEASES = 20
QUIET_S = 60.0
_BETWEEN_S = 2.5
"""Between two leases: containers of one may start while the next is leased, but not those of many."""
_OPERATOR = "gpulease-operator"


@dataclass(frozen=True, slots=True)
class Row:
    figure: str
    counted: str
    value: str
    bar: str
    good: bool


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(-(-int(share * 100) * len(ordered) // 100), len(ordered)) - 1]


def blocks_row(title: str, waits: list[Waits]) -> Row:
    orders = sum(w.orders for w in waits)
    good = sum(w.next_block for w in waits)
    worst = max(max(w.blocks) for w in waits)
    share = 100 * good / orders
    return Row(
        title,
        f"{orders} orders",
        f"{good} in the next block ({share:.0f} %), worst {worst} blocks",
        "≥ 95 %",
        share >= 95,
    )


class Bench:
    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.stack = Stack(OnRig(rig), name="bench", ports=Ports.free(), block_time_ms=1000)
        self.rows: list[Row] = []

    def run(self) -> None:
        stack = self.stack
        for start in (stack.start_chain, stack.install, stack.start_agent, stack.start_operator, stack.start_gateway):
            start()
        stack.apply_example("provider.yaml", _slow_withdrawals)
        wait_ready(stack, "demo", kind="gpuprovider", namespace=OPERATOR_NAMESPACE)
        until("the gateway listening", stack.gateway_listens, timeout_s=30)
        self.one_lease()
        self.orders()
        self.many_leases()
        good = self.rig.warm_s <= 30
        self.rows.append(
            Row("control plane + node up, warm", f"{GPUS} GPUs", f"{self.rig.warm_s:.1f} s", "≤ 30 s", good)
        )

    # -- one lease -----------------------------------------------------------------------------------------

    def one_lease(self) -> None:
        """Writes from lease to Running, and what a running lease costs in a quiet minute."""
        stack = self.stack
        lease(stack, "one")
        wait_ready(stack, "one")
        (found,) = self._leases()
        begin_s = stack.chain.block_time_s(found.height)
        running_s = time.time()
        ours = self._writes(begin_s, running_s)
        words = f"{len(ours)} writes"
        self.rows.append(Row("API writes, lease → Running", "1 lease", words, "≤ 12", len(ours) <= 12))
        time.sleep(20)
        quiet_from_s = time.time()
        time.sleep(QUIET_S)
        quiet = self._writes(quiet_from_s, time.time())
        told = ", ".join(map(str, quiet[:3]))
        value = f"{len(quiet)} writes{': ' + told if told else ''}"
        self.rows.append(Row("API writes, quiet minute, lease running", f"{QUIET_S:.0f} s", value, "0", not quiet))
        memory_mb = rss_mb(stack.processes["operator"])
        self.rows.append(
            Row("operator memory, one lease", "1 lease", f"{memory_mb:.0f} MB RSS", "≤ 130 MB", memory_mb <= 130)
        )
        delete(stack, "one")

    # -- orders --------------------------------------------------------------------------------------------

    def orders(self) -> None:
        tenant = Tenant(self.stack)
        single = [tenant.wait_for_bids(1) for _ in range(SINGLE_ROUNDS)]
        self.rows.append(blocks_row("order seen → bid included, 1 order in a block", single))
        self._all_free()
        bursts = []
        for _ in range(BURSTS):
            bursts.append(tenant.wait_for_bids(BURST))
            self._all_free()
        self.rows.append(blocks_row(f"order seen → bid included, {BURST} orders in a block", bursts))

    def _all_free(self) -> None:
        def look() -> bool:
            body = self.stack.get("gpuprovider", "demo", OPERATOR_NAMESPACE) or {}
            return bool(body["status"]["gpus"]["free"] == GPUS)

        until("all GPUs free again", look, timeout_s=60)

    # -- many leases ---------------------------------------------------------------------------------------

    def many_leases(self) -> None:
        names = [f"many-{n}" for n in range(LEASES)]
        known = {x.key for x in self._leases()}
        for name in names:
            lease(self.stack, name, _small)
            time.sleep(_BETWEEN_S)
        for name in names:
            wait_ready(self.stack, name)
        took_s = [self._pod_after_s(x) for x in self._leases() if x.key not in known]
        p95 = percentile(took_s, 0.95)
        value = f"p50 {percentile(took_s, 0.5):.2f} s, p95 {p95:.2f} s, max {max(took_s):.2f} s"
        self.rows.append(Row("lease event → pod object", f"{len(took_s)} leases", value, "p95 ≤ 1 s", p95 <= 1.0))
        for name in names:
            delete(self.stack, name)

    def _pod_after_s(self, found: OnChain) -> float:
        """From the time of the lease's block to the API server's having been asked for the pod."""
        raw = found.id
        id_ = LeaseId(raw["owner"], int(raw["dseq"]), int(raw["gseq"]), int(raw["oseq"]), raw["provider"])
        space, begin_s = lease_namespace(id_), self.stack.chain.block_time_s(found.height)
        made = [
            w.at_s
            for w in writes(self.rig.audit_log, since_s=begin_s)
            if (w.verb, w.resource, w.namespace) == ("create", "pods", space)
        ]
        return min(made) - begin_s

    def _leases(self) -> list[OnChain]:
        return self.stack.chain.leases(self.stack.address("tenant"))

    def _writes(self, since_s: float, until_s: float) -> list[Write]:
        return list(writes(self.rig.audit_log, user=_OPERATOR, since_s=since_s, until_s=until_s))


def _slow_withdrawals(body: Json) -> None:
    body["spec"]["settlement"]["withdrawPeriodSeconds"] = 3600
    body["spec"]["bidding"] = {"maxOpenBids": 200}


def _small(body: Json) -> None:
    body["spec"]["services"][0]["resources"] |= {"cpu": "20m", "memory": "32Mi", "storage": "32Mi"}


def show(rows: list[Row]) -> bool:
    table = Table(title="gpulease bench: the main story on the rig, 1 s blocks")
    for column in ("figure", "counted", "measured", "bar", ""):
        table.add_column(column)
    for row in rows:
        table.add_row(row.figure, row.counted, row.value, row.bar, "ok" if row.good else "MISSED")
    Console(width=150).print(table)
    return all(row.good for row in rows)


def main() -> int:
    with Rig(RigConfig(gpus=(GpuSpec(),) * GPUS)) as rig:
        bench = Bench(rig)
        try:
            bench.run()
        finally:
            bench.stack.down()
            good = show(bench.rows)
    return 0 if good and bench.rows else 1


if __name__ == "__main__":
    sys.exit(main())
