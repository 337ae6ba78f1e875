"""The operator's metrics, scraped from an operator whose parts hold known things."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from gpulease.agent.metrics import AgentCollector
from gpulease.chain.broadcaster import Broadcaster
from gpulease.chain.keys import Key
from gpulease.chain.outbox import Intent
from gpulease.chain.reader import Tip
from gpulease.ids import LeaseId
from gpulease.inventory.devices import Amounts
from gpulease.inventory.placement import Placement
from gpulease.kube.queue import WorkQueue
from gpulease.lease.states import MoneyView
from gpulease.market.model import BidState, OrderState
from gpulease.market.pricing import parse_table
from gpulease.money.ledger import opening
from gpulease.runtime.app import Operator
from gpulease.runtime.chains import ChainSession
from gpulease.runtime.lease_figures import LeaseFigures, TenantFigures
from gpulease.runtime.metrics import OperatorCollector
from gpulease.runtime.provider import ProviderSite
from gpulease.runtime.screening import NothingKnown
from gpulease.runtime.specs import ObjectName, parse_provider
from gpulease.runtime.stock import Reservations, Stock
from gpulease.runtime.work import BidKey
from gpulease.settings import OperatorSettings
from gpulease.store.journal import Journal
from gpulease.tenancy.states import FundsView
from gpulease.units import NS_PER_S, Dec
from gpulease.workload.names import lease_namespace
from tests.fakes.cluster import FakeCluster
from tests.fakes.promql import documented, promtool

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
KEY = Key(b"\x01" * 32)
NOW_S = 1_800_000_000
LEASE = LeaseId("akash1tenant", 7, 1, 1, KEY.address)
BLOCK_S = 6


class CountingCluster(FakeCluster):
    """As the operator's own client counts."""

    def __init__(self) -> None:
        super().__init__()
        self.writes_total: Counter[str] = Counter({"HostedLease": 3})


class Clock:
    now_s = float(NOW_S)

    def now_ns(self) -> int:
        return int(self.now_s * NS_PER_S)

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


@dataclass
class World:
    operator: Operator
    site: ProviderSite
    clock: Clock

    def at(self, height: int) -> None:
        tip = Tip(height, self.clock.now_ns(), BLOCK_S * NS_PER_S, True, None)
        self.site.session.reader.tip = tip

    def value(self, name: str, **labels: str) -> float | None:
        registry = CollectorRegistry()
        registry.register(OperatorCollector(self.operator))
        return registry.get_sample_value(name, labels)


def node(name: str, *, capacity: int, allocatable: int) -> dict[str, object]:
    def amounts(gpus: int) -> dict[str, str]:
        return {"cpu": "16", "memory": "64Gi", "ephemeral-storage": "100Gi", "nvidia.com/gpu": str(gpus)}

    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}},
        "spec": {},
        "status": {
            "capacity": amounts(capacity),
            "allocatable": amounts(allocatable),
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def pod(namespace: str, on: str, *, gpus: int) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-0", "namespace": namespace, "labels": {"gpulease.dev/lease": namespace}},
        "spec": {"nodeName": on, "containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": gpus}}}]},
        "status": {"phase": "Running"},
    }


async def forever(*_: object, **__: object) -> None:
    await asyncio.Event().wait()


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(ChainSession, "run", forever)
    monkeypatch.setattr(Broadcaster, "run", forever)
    body = yaml.safe_load((ROOT / "docs" / "examples" / "provider.yaml").read_text())
    body["metadata"] |= {"uid": "u", "generation": 1}
    spec = parse_provider(body)
    cluster, clock, journal = CountingCluster(), Clock(), Journal(":memory:")
    operator = Operator(OperatorSettings(), cluster, journal, clock, kubeconfig=None)  # type: ignore[arg-type]
    session = operator.hub.session(spec.chain)
    stock = Stock(cluster, Reservations(journal, KEY.address), spec=spec, devices=NothingKnown())  # type: ignore[arg-type]
    site = ProviderSite(spec, KEY, session, parse_table(spec.pricing), stock)
    operator.providers.by_name[spec.name] = site
    session.account(KEY)
    found = World(operator, site, clock)
    found.at(100)
    yield found
    for task in (*operator.hub._tasks, *session._tasks.values()):
        task.cancel()
    await operator.hub.close()
    journal.close()


def placement(on: str, gpus: int) -> Placement:
    return Placement(replicas={1: {on: 1}}, nodes={on: Amounts(1000, 0, 0, gpus)})


async def test_gpus_are_counted_by_node_and_state(world: World) -> None:
    cluster = world.operator.cluster
    assert isinstance(cluster, FakeCluster)
    cluster.put(node("a", capacity=8, allocatable=7))
    cluster.put(node("b", capacity=4, allocatable=4))
    cluster.put(pod("lease-1", "a", gpus=2))
    world.site.stock.reservations.hold("bid-2", "lease-2", placement("b", 3))
    labels = {"provider": KEY.address, "product": "NVIDIA-A100-SXM4-80GB"}
    assert world.value("gpulease_gpus", **labels, node="a", state="free") is None, "not read yet: unknown, not zero"
    await world.site.stock.snapshot()
    seen = {
        (on, state): world.value("gpulease_gpus", **labels, node=on, state=state)
        for on in ("a", "b")
        for state in ("leased", "reserved", "free", "quarantined")
    }
    assert [seen["a", state] for state in ("leased", "reserved", "free", "quarantined")] == [2, 0, 5, 1]
    assert [seen["b", state] for state in ("leased", "reserved", "free", "quarantined")] == [0, 3, 1, 0]


async def test_a_scrape_asks_neither_cluster_nor_chain(world: World) -> None:
    cluster = world.operator.cluster
    assert isinstance(cluster, FakeCluster)
    await world.site.stock.snapshot()
    before = cluster.lists_total
    assert world.value("gpulease_chain_height", chain="gpulease-devnet") == 100
    assert cluster.lists_total == before > 0


def hosted(world: World, *, owed: int, run_out: int | None) -> None:
    world.operator.hosted.by_namespace[lease_namespace(LEASE)] = LEASE
    money = MoneyView(owed, 40, run_out, False, "w", None)
    world.operator.hosted.figures[LEASE] = LeaseFigures(
        session=world.site.session,
        price_uact_per_block=Dec.of(1000),
        gpus=2,
        settled_height=90,
        settle_every_s=world.site.spec.withdraw_period_s,
        money=money,
    )


async def test_money_of_a_lease_moves_on_with_the_height(world: World) -> None:
    hosted(world, owed=500, run_out=130)
    lease = {"lease": str(LEASE)}
    assert world.value("gpulease_lease_price_uact_per_hour", **lease) == 600_000
    assert world.value("gpulease_lease_escrow_seconds", **lease) == 30 * BLOCK_S
    assert world.value("gpulease_lease_settlement_age_seconds", **lease) == 10 * BLOCK_S
    assert world.value("gpulease_lease_settlement_overdue_seconds", **lease) == 10 * BLOCK_S - 15
    assert world.value("gpulease_lease_unpaid_gpu_seconds", **lease) == 0
    assert world.value("gpulease_owed_uact", provider=KEY.address) == 500
    world.at(135)
    assert world.value("gpulease_lease_escrow_seconds", **lease) == 0
    assert world.value("gpulease_lease_unpaid_gpu_seconds", **lease) == 2 * 5 * BLOCK_S


@pytest.mark.parametrize(("owed", "overdue"), [(0, 0), (1, 45)])
async def test_a_settlement_is_overdue_only_with_money_owed(world: World, owed: int, overdue: int) -> None:
    hosted(world, owed=owed, run_out=None)
    assert world.value("gpulease_lease_settlement_overdue_seconds", lease=str(LEASE)) == overdue
    assert world.value("gpulease_lease_escrow_seconds", lease=str(LEASE)) is None


async def test_series_of_a_lease_join_with_its_namespace_and_end_with_it(world: World) -> None:
    hosted(world, owed=1, run_out=None)
    labels = {"lease": str(LEASE), "lease_namespace": lease_namespace(LEASE), "provider": KEY.address}
    assert world.value("gpulease_lease_info", **labels) == 1
    world.operator.hosted.figures.clear()
    assert world.value("gpulease_lease_info", **labels) is None


async def test_a_pending_transaction_ages(world: World) -> None:
    account = {"chain": "gpulease-devnet", "account": KEY.address}
    assert world.value("gpulease_oldest_transaction_seconds", **account) == 0
    sender = world.site.session.senders[KEY.address]
    sender.submit(Intent("k", "bid", (("/x", b""),), KEY.address))
    world.clock.now_s += 90
    assert world.value("gpulease_oldest_transaction_seconds", **account) == 90
    assert world.value("gpulease_pending_transactions", **account) == 1


async def test_wallet_and_fees(world: World) -> None:
    account = {"chain": "gpulease-devnet", "account": KEY.address}
    assert world.value("gpulease_wallet_balance", **account, denom="uakt") is None, "no book yet: unknown, not empty"
    world.site.session.books.ledger.post(opening(KEY.address, {"uakt": 12}, height=1))
    assert world.value("gpulease_wallet_balance", **account, denom="uakt") == 12
    assert world.value("gpulease_wallet_balance", **account, denom="uact") == 0
    assert world.value("gpulease_fees_last_day_uakt", **account) == 0
    assert world.value("gpulease_fee_budget_uakt", **account) == 50_000_000


class Answers:
    """The chain of one bid: what it says of the bid and of its order."""

    def __init__(self, bid: BidState | None, order: OrderState | None) -> None:
        self._bid, self._order = bid, order

    async def bid(self, _: LeaseId) -> Any:
        return None if self._bid is None else SimpleNamespace(state=self._bid)

    async def order(self, _: object) -> Any:
        return None if self._order is None else SimpleNamespace(state=self._order)

    async def lease(self, _: LeaseId) -> None:
        return None


@pytest.mark.parametrize(
    ("bid", "order", "outcome"),
    [
        (BidState.LOST, OrderState.ACTIVE, "outbid"),
        (BidState.CLOSED, OrderState.ACTIVE, "outbid"),
        (BidState.CLOSED, OrderState.CLOSED, "ended"),
        (BidState.CLOSED, None, "ended"),
        (None, None, "failed"),
    ],
)
async def test_a_bid_is_counted_once_by_what_became_of_it(
    world: World, bid: BidState | None, order: OrderState | None, outcome: str
) -> None:
    client: Any = Answers(bid, order)
    world.site.session.client = client
    world.site.stock.reservations.hold(str(LEASE), "ns", placement("a", 1))
    for _ in range(2):
        await world.operator.market.look_at_bid(BidKey(LEASE))
    kinds = ("won", "outbid", "ended", "failed")
    seen = {k: world.value("gpulease_bid_outcomes_total", provider=KEY.address, outcome=k) for k in kinds}
    assert seen == dict.fromkeys(kinds, 0) | {outcome: 1}
    assert world.site.stock.reservations.all() == []


async def test_certificate_tenant_and_leader(world: World) -> None:
    assert world.value("gpulease_certificate_expires_seconds", provider=KEY.address) is None
    world.site.certificate_expires_s = NOW_S + 3600.0
    assert world.value("gpulease_certificate_expires_seconds", provider=KEY.address) == 3600
    funds = FundsView(5, 70, 75, 110, 0, "k", None)
    world.operator.tenants.figures[ObjectName("team", "train")] = TenantFigures(world.site.session, funds, 100)
    assert world.value("gpulease_tenant_escrow_seconds", object="team/train") == 10 * BLOCK_S
    assert world.value("gpulease_tenant_funds_uact", object="team/train") == 70
    assert world.value("gpulease_tenant_budget_left_uact", object="team/train") == 25
    assert world.value("gpulease_leader") == 1, "one that works alone may always act"


async def test_names_and_help_are_as_prometheus_wants_them(world: World) -> None:
    hosted(world, owed=1, run_out=130)
    await world.site.stock.snapshot()
    registry = CollectorRegistry()
    registry.register(OperatorCollector(world.operator))
    text = generate_latest(registry).decode()
    assert text.count("# HELP") > 40
    assert promtool("check", "metrics", given=text) == ""


async def test_the_reference_page_has_the_labels_of_every_metric(world: World) -> None:
    view = SimpleNamespace(devices=(), sources={}, contested=(), recent_xids={}, offset_ms=0)
    agent: Any = SimpleNamespace(view=view, recorded_ms={})
    store: Any = SimpleNamespace(head=SimpleNamespace(seq=0, taken=0))
    made: dict[str, set[str]] = {}
    for family in [*OperatorCollector(world.operator).collect(), *AgentCollector(agent, store).collect()]:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labelled: Any = family
        made[name] = set(labelled._labelnames)
    assert made == {name: set(labels) for name, labels in documented().items()}


async def test_the_queue_measures_its_runs() -> None:
    done = asyncio.Event()

    async def handler(key: str) -> None:
        done.set()

    queue: WorkQueue[str] = WorkQueue(handler)
    queue.add("k")
    running = asyncio.create_task(queue.run())
    await done.wait()
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert queue.run_times.cumulative[-1] == 1
    assert queue.run_times.cumulative == sorted(queue.run_times.cumulative)
