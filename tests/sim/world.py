"""The whole of it: one chain, one cluster, the operator and everyone around it, in one loop and from one seed."""

from __future__ import annotations

import asyncio
import copy
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Any

import structlog

from gpulease.chain.events import (
    Block,
    DeploymentCreated,
    LeaseClosed,
    LeaseCreated,
    OrderClosed,
    OrderCreated,
    RawEvent,
    TxOutcome,
)
from gpulease.devnet import ante, errors, genesis, router
from gpulease.devnet import chain as chain_module
from gpulease.devnet.chain import BlockResult, Devnet, tx_hash
from gpulease.errors import GatewayRefused, GatewayUnreachable, GpuleaseError, Unreachable
from gpulease.gateway import manifests, report
from gpulease.gateway.manifests import ManifestStore, NotTaken
from gpulease.ids import DeploymentId, LeaseId, OrderId
from gpulease.runtime.app import Operator
from gpulease.runtime.outside import Pace
from gpulease.settings import OperatorSettings
from gpulease.units import NS_PER_S, UACT, UAKT, Coin, Dec
from gpulease.workload.names import lease_namespace
from tests.fakes.kube_api import Json, KubeApi
from tests.fakes.kube_nodes import Controllers, Habits, SimNode
from tests.sim.actors import API, Account, ChainTenant, KubectlTenant, Rival, drive, key_of, secret_of, wallet_secret
from tests.sim.chain import ChainNode, Omniscient, SimChainClient, Wire
from tests.sim.faults import Faults
from tests.sim.kube import SimWatcher, sim_cluster
from tests.sim.loop import SimLoop
from tests.sim.process import Disk, Process, SimJournal, adopting

EPOCH_NS = 1_790_000_000 * NS_PER_S
NAMESPACE = "gpulease-system"
FUNDS = 10**14


@dataclass(frozen=True, slots=True)
class Shape:
    """How large and how fast a world is. ``pace_s`` is how often loops look that nothing wakes."""

    block_s: float = 60.0
    pace_s: float = 3600.0
    soonest_s: float = 30.0
    resync_s: float = 3600.0
    gpus: tuple[int, ...] = (4, 2)
    withdraw_period_s: int = 6 * 3600
    retention_s: float = 3600.0
    nodes: tuple[str, ...] = ("node-a", "node-b")


@dataclass(slots=True)
class LeaseFate:
    """What the chain has said of a lease. ``calm_from`` is when an overdue clean-up starts to count."""

    id: LeaseId
    created: int
    closed: int | None = None
    closed_s: float = 0.0
    reason: str = ""


class LogCapture:
    """Keeps the operator's log lines, and what of them nobody may see."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.secrets: list[str] = []
        self.leaks: list[str] = []
        self.errors: list[str] = []
        self.keep = False

    def __call__(self, _: Any, method: str, event: dict[str, Any]) -> str:
        text = " ".join(f"{key}={value}" for key, value in event.items() if key != "exc_info")
        if event.get("exc_info"):
            self.errors.append(text + "\n" + _traceback(event["exc_info"]))
        elif method == "error":
            self.errors.append(text)
        self.leaks += [text for secret in self.secrets if secret in text]
        if self.keep:
            self.lines.append(text)
        raise structlog.DropEvent


def _traceback(info: Any) -> str:
    import sys
    import traceback

    found = info if isinstance(info, BaseException) else sys.exc_info()[1]
    return "".join(traceback.format_exception(found)) if found is not None else ""


class World:
    """Built inside a :class:`SimLoop`; :meth:`run` moves it block by block."""

    def __init__(self, seed: int, shape: Shape, loop: SimLoop) -> None:
        self.skipped_ns = 0
        self.seed, self.shape, self.loop = seed, shape, loop
        self.rng = Random(seed)
        self.faults = Faults(Random(self.rng.random()))
        self.faults.slow = shape.block_s > 60
        self.block_s = shape.block_s
        self.ceiling = Dec.of(int(2_000_000 * shape.block_s / 3600))
        self.log = LogCapture()
        structlog.configure(
            processors=[structlog.processors.add_log_level, self.log],
            wrapper_class=structlog.make_filtering_bound_logger(20),
            logger_factory=structlog.ReturnLoggerFactory(),
            cache_logger_on_first_use=False,
        )
        self.names = ["provider", *(f"tenant-{n}" for n in range(400)), *(f"rival-{n}" for n in range(4))]
        self.names += [f"kubectl-lease-{n}" for n in range(60)]
        self._make_chain()
        self.api = KubeApi(loop.time, self._stamp)
        self.habits = Habits(start_s=shape.block_s / 10, controller_s=shape.block_s / 60, retry_s=shape.block_s * 5)
        self.habits.pull_fails.add("localhost/missing:1")
        self.controllers = Controllers(self.api, loop.call_later, Random(self.rng.random()), self.habits)
        for number, gpus in enumerate(shape.gpus):
            self.controllers.add_node(SimNode(f"gpu-{number}", tuple(f"GPU-{number}-{index}" for index in range(gpus))))
        self.disk = Disk()
        self.operator: Operator | None = None
        self.process: Process | None = None
        self.starts = 0
        self.crashes: Counter[str] = Counter()
        self.ended: list[str] = []
        self.gateway = SimGateway(self)
        self.rivals: list[Rival] = []
        self.tenants: list[ChainTenant] = []
        self.people: list[KubectlTenant] = []
        self.fresh_orders: list[OrderId] = []
        self.created: dict[str, set[DeploymentId]] = {}
        self.open_orders: set[OrderId] = set()
        self.fates: dict[LeaseId, LeaseFate] = {}
        self.halted = False
        self.lagging = False
        self._behind: list[BlockResult] = []
        self.before_block: list[Callable[[], None]] = []
        self.on_block: list[Callable[[BlockResult], None]] = []
        self.restart_s = 2.0
        self.lease_blocks = 0
        self.people_rest = False
        self.lose_txs = 0
        self.fail_withdrawals = False
        self.failed_txs = 0
        self.settled: Counter[str] = Counter()
        """Our provider's messages in blocks, by kind, those that succeeded."""
        self.quiet_status_writes = 0
        self._provider_setup()

    # --- the chain ---------------------------------------------------------------------------------------------------

    def _make_chain(self) -> None:
        accounts = {key_of(name).address: [Coin(UACT, FUNDS), Coin(UAKT, FUNDS)] for name in self.names}
        raw = genesis.default(chain_id="sim-1", accounts=accounts, now_ns=EPOCH_NS)
        self.chain = Devnet.from_genesis(raw, keep_blocks=20_000)
        self.replica = Devnet.from_genesis(copy.deepcopy(raw), keep_blocks=20_000)
        self.nodes = {
            "node-a": ChainNode("node-a", self.chain, self.chain),
            "node-b": ChainNode("node-b", self.chain, self.replica),
        }
        self.omni = Omniscient(self.chain)
        self.chain_spec = {
            "chainID": self.chain.chain_id,
            "endpoints": [{"rpc": f"http://{n}:26657", "grpc": f"{n}:9090"} for n in self.shape.nodes],
        }

    @property
    def height(self) -> int:
        return self.chain.height

    def account(self, name: str) -> Account:
        assert name in self.names, name
        return Account(self, name)

    def _stamp(self) -> str:
        seconds = (EPOCH_NS + self.skipped_ns) // NS_PER_S + int(self.loop.time())
        return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def make_block(self) -> None:
        block_ns = max(EPOCH_NS + self.skipped_ns + int(self.loop.time() * NS_PER_S), self.chain.time_ns + 1)
        self._meddle()
        with self._failing():
            block = self.chain.apply_block(list(self.chain.mempool.values()), time_ns=block_ns)
        self._behind.append(block)
        if not self.lagging:
            self.catch_up()
        self._note(block)
        for node in self.nodes.values():
            if node.view is self.chain or not self.lagging:
                node.ring()

    def _meddle(self) -> None:
        """Transactions of our provider's that get lost on their way into a block, or fail there."""
        for key, raw in list(self.chain.mempool.items()):
            if self.lose_txs and ante.signers(ante.decode(raw)) == [self.provider]:
                self.lose_txs -= 1
                del self.chain.mempool[key]

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Withdrawals that the chain takes and then refuses, as long as ``fail_withdrawals`` is set."""
        if not self.fail_withdrawals:
            yield
            return
        real = router.run

        def run(ctx: Any, message: Any) -> Any:
            if message.DESCRIPTOR.name == "MsgWithdrawLease":
                raise errors.ModuleError("market", 99, "withdrawals fail")
            return real(ctx, message)

        router.run = run
        try:
            yield
        finally:
            router.run = real

    def catch_up(self) -> None:
        """The second node takes over what it lacks."""
        with self._failing():
            for block in self._behind:
                self.replica.apply_block([raw for raw, _ in block.txs], time_ns=block.time_ns)
        self._behind.clear()

    def _note(self, block: BlockResult) -> None:
        self.fresh_orders = []
        for raw, result in block.txs:
            tx = ante.decode(raw)
            if ante.signers(tx) == [self.provider]:
                self.failed_txs += result.code != 0
                self.settled.update(m.DESCRIPTOR.name for m in tx.messages if result.code == 0)
        decoded = Block(block.height, block.time_ns, tuple(_outcome(*tx) for tx in block.txs), ())
        for event in decoded.events:
            match event:
                case DeploymentCreated(made):
                    self.created.setdefault(made.owner, set()).add(made)
                case OrderCreated(id_):
                    self.fresh_orders.append(id_)
                    self.open_orders.add(id_)
                case OrderClosed(id_):
                    self.open_orders.discard(id_)
                case LeaseCreated(id_):
                    self.open_orders.discard(id_.order)
                    self.fates[id_] = LeaseFate(id_, block.height)
                case LeaseClosed(id_, reason):
                    fate = self.fates[id_]
                    fate.closed, fate.closed_s, fate.reason = block.height, self.loop.time(), reason
        self.lease_blocks += sum(f.closed is None for f in self.fates.values())

    # --- the provider ------------------------------------------------------------------------------------------------

    def _provider_setup(self) -> None:
        for name in (NAMESPACE, "team-a"):
            self.api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self.api.put(wallet_secret("provider-wallet", NAMESPACE, "provider"))
        self.log.secrets += [secret_of(name) for name in ("provider", *(f"kubectl-lease-{n}" for n in range(60)))]
        self.log.secrets.append("tenant-secret")
        self.api.put(
            {
                "apiVersion": API,
                "kind": "GPUProvider",
                "metadata": {"name": "main", "namespace": NAMESPACE},
                "spec": {
                    "chain": self.chain_spec,
                    "wallet": {"secretName": "provider-wallet", "key": "key"},
                    "hostURI": "https://ours.example:8443",
                    "pricing": {
                        "gpuUsdPerHour": [{"model": "a100", "usdPerHour": "1.2"}],
                        "cpuUsdPerCoreHour": "0.01",
                    },
                    "settlement": {"withdrawPeriodSeconds": self.shape.withdraw_period_s},
                },
            }
        )
        self.provider = key_of("provider").address

    def settings(self) -> OperatorSettings:
        return OperatorSettings(
            namespace=NAMESPACE,
            metrics_listen="",
            resync_interval_s=self.shape.resync_s,
            tx_lifetime_s=min(self.block_s * 8, 590.0),
            closed_lease_retention_s=self.shape.retention_s,
            fee_budget_uakt_per_day=10**9,
        )

    def start_operator(self) -> None:
        self.starts += 1
        process = Process("operator", self.loop, EPOCH_NS)
        process.on_death = self._operator_died
        self.process = process
        try:
            journal = SimJournal(self.disk, process)
        except GpuleaseError as error:
            self.ended.append(str(error))
            process.kill("store")
            return
        rng = Random(self.rng.random())
        cluster = sim_cluster(self.api, process, self.faults, rng)
        outside = SimOutside(self, process, rng)
        self.operator = Operator(self.settings(), cluster, journal, process, outside=outside)
        task = process.start(self.operator.run)
        task.add_done_callback(partial(self._operator_ended, process))

    def _operator_ended(self, process: Process, task: asyncio.Task[Any]) -> None:
        """A part failed for good: what supervises the process starts it anew."""
        if process.dead:
            return
        error = None if task.cancelled() else task.exception()
        self.ended.append(repr(error))
        process.kill("ended")

    def _operator_died(self, process: Process) -> None:
        self.crashes[process.died_at.split(" ")[0]] += 1
        self.later(self.restart_s, self.start_operator)

    def later(self, delay_s: float, do: Callable[[], Any]) -> None:
        self.loop.call_later(delay_s, do)

    # --- tenants' talk -----------------------------------------------------------------------------------------------

    def tell_gateway(self, tenant: ChainTenant) -> None:
        assert tenant.lease is not None
        if tenant.lease.provider != self.provider:
            tenant.sent_version, tenant.sending = tenant.version, False
            return
        self.loop.create_task(self._send(tenant, tenant.lease, tenant.version))

    async def _send(self, tenant: ChainTenant, lease: LeaseId, version: int) -> None:
        try:
            if tenant.habit.wrong_first and tenant.sent_version < 0:
                tenant.sent_version = -2
                _, wrong, _ = tenant.manifest(version + 7)
                await self.gateway.take(wrong, lease.deployment)
            _, raw, _ = tenant.manifest(version)
            await self.gateway.take(raw, lease.deployment)
            tenant.sent_version = version
        except (GatewayRefused, GatewayUnreachable):
            pass
        finally:
            tenant.sending = False

    def withdrawals(self) -> int:
        return self.settled["MsgWithdrawLease"]

    def bids_of(self, tenant: str) -> int:
        """Bids of ours on this tenant's orders, whatever became of them."""
        found = drive(self.omni.bids(owner=key_of(tenant).address, provider=self.provider))
        return len(found)

    def deployments_of(self, owner: str) -> list[Any]:
        """By everything that this owner ever had a lease or an order for."""
        ids = {i.deployment for i in (*self.fates, *self.open_orders) if i.owner == owner} | self.created.get(
            owner, set()
        )
        found = [drive(self.omni.deployment(i)) for i in sorted(ids)]
        return [d for d in found if d is not None]

    @property
    def mempool_full(self) -> bool:
        return chain_module.MAX_MEMPOOL_TXS == 0

    @mempool_full.setter
    def mempool_full(self, full: bool) -> None:
        chain_module.MAX_MEMPOOL_TXS = 0 if full else 5000

    # --- running -----------------------------------------------------------------------------------------------------

    async def blocks(self, count: int) -> None:
        """Let ``count`` block times pass."""
        for _ in range(count):
            await asyncio.sleep(self.block_s)
            if not self.halted:
                for before in self.before_block:
                    before()
                self.make_block()
                for actor in (*self.rivals, *self.tenants, *(() if self.people_rest else self.people)):
                    actor.act()
                for check in self.on_block:
                    check(self.chain.block(self.height))  # type: ignore[arg-type]

    def skip(self, seconds: float) -> None:
        """So much time has passed for every clock there is, and nothing has happened in it."""
        self.skipped_ns += int(seconds * NS_PER_S)
        for process in (self.process, self.gateway.process):
            if process is not None:
                process.skew_ns += int(seconds * NS_PER_S)

    async def until(self, what: Callable[[], bool], *, blocks: int) -> bool:
        """Whether it comes true within so many blocks."""
        for _ in range(blocks):
            if what():
                return True
            await self.blocks(1)
        return what()

    def status_of(self, kind: str, name: str, namespace: str) -> Mapping[str, Any]:
        body = self.api.get((API, kind), name, namespace)
        return (body or {}).get("status") or {}

    def pods_of(self, lease: LeaseId) -> list[Json]:
        return self.api.all(("v1", "Pod"), lease_namespace(lease))


def _outcome(raw: bytes, result: Any) -> TxOutcome:
    events = tuple(RawEvent(e.type, e.attributes) for e in result.events)
    return TxOutcome(tx_hash(raw).hex().upper(), result.code, result.codespace, result.log, result.gas_used, events)


class SimOutside:
    """The operator's :class:`gpulease.runtime.outside.Outside` in this world."""

    def __init__(self, world: World, process: Process, rng: Random) -> None:
        self._world, self._process, self._rng = world, process, rng
        shape = world.shape
        self.pace = Pace(
            soonest_s=shape.soonest_s,
            chain_poll_s=shape.block_s * 2,
            send_s=max(shape.block_s / 2, 1.0),
            books_s=shape.block_s,
            provider_s=shape.pace_s,
            gateway_s=shape.pace_s,
        )
        self.gateways = self

    def chain(self, spec: Any) -> SimChainClient:
        names = [rpc.removeprefix("http://").rpartition(":")[0] for rpc, _ in spec.endpoints]
        wire = Wire(self._process, self._world.faults, self._rng)
        return SimChainClient(self._world.nodes, names, spec.chain_id, wire)

    def watcher(self, **kwargs: Any) -> SimWatcher:
        return SimWatcher(self._world.api, self._process, self._world.faults, self._rng, **kwargs)

    def agent(self, url: str, *, token: str | None) -> Any:
        raise AssertionError(f"no agent at {url}")

    async def close(self) -> None:
        return None

    async def send_manifest(self, *, host_uri: str, dseq: int, manifest: bytes, key: Any, **_: Any) -> None:
        self._process.step("before a manifest")
        await asyncio.sleep(0.05)
        rival = self._rival(host_uri)
        if rival is None:
            await self._world.gateway.take(manifest, DeploymentId(key.address, dseq))
        self._process.step("after a manifest")

    async def lease_status(self, *, host_uri: str, lease: LeaseId, **_: Any) -> Mapping[str, Any]:
        self._process.step("before a lease status")
        await asyncio.sleep(0.05)
        rival = self._rival(host_uri)
        if rival is not None:
            return {"services": {"web": {"name": "web", "ready_replicas": 1, "available": 1, "total": 1, "uris": []}}}
        return await self._world.gateway.status(lease)

    async def lease_events(self, **_: Any) -> AsyncIterator[Mapping[str, Any]]:
        """Nothing is told of the provider's events here."""
        self._process.step("before events")
        for none in ():
            yield none

    def _rival(self, host_uri: str) -> Rival | None:
        return next((r for r in self._world.rivals if f"//{r.host}:" in host_uri), None)


class SimGateway:
    """The provider's gateway as a process of its own: real intake and report, no TLS."""

    def __init__(self, world: World) -> None:
        self._world = world
        rng = Random(world.rng.random())
        self.process = Process("gateway", world.loop, EPOCH_NS)
        wire = Wire(self.process, world.faults, rng)
        self._chain = SimChainClient(world.nodes, list(world.shape.nodes), world.chain.chain_id, wire)
        drive(self._chain.open())
        self._cluster = sim_cluster(world.api, self.process, world.faults, rng)
        self._store = ManifestStore(self._cluster, namespace=NAMESPACE)

    async def take(self, raw: bytes, id_: DeploymentId) -> None:
        self._up()
        try:
            await manifests.take_in(raw, id_, provider=self._world.provider, chain=self._chain, store=self._store)
        except NotTaken as error:
            raise GatewayRefused(error.status, str(error)) from None
        except (Unreachable, GpuleaseError) as error:
            raise GatewayRefused(503, str(error)) from None
        if self._world.faults.die("gateway-lost-answer"):
            raise GatewayUnreachable("the gateway did not answer within 30 s")

    async def status(self, lease: LeaseId) -> Mapping[str, Any]:
        self._up()
        try:
            group = await self._store.group(lease)
            if group is None:
                raise GatewayRefused(404, "lease does not exist")
            space = lease_namespace(lease)
            workloads = await self._cluster.list("apps/v1", "Deployment", namespace=space)
            ports = await self._cluster.list("v1", "Service", namespace=space)
        except GpuleaseError as error:
            if isinstance(error, GatewayRefused):
                raise
            raise GatewayRefused(503, str(error)) from None
        return report.lease_status(group, workloads.items, ports.items, host="ours.example")

    def _up(self) -> None:
        if self._world.faults.on("gateway-down"):
            raise GatewayUnreachable("the gateway does not answer")


def simulate(seed: int, shape: Shape, story: Callable[[World], Any]) -> World:
    """Run ``story(world)`` to its end in a loop of its own; the world, with what it counted."""
    loop = SimLoop()
    loop.set_task_factory(adopting)  # type: ignore[arg-type]
    loop.set_exception_handler(lambda *_: None)
    asyncio.set_event_loop(loop)
    try:
        world = World(seed, shape, loop)
        loop.run_until_complete(story(world))
        if world.process is not None:
            world.process.on_death = None
            world.mempool_full = False
            world.process.kill("the end")
        world.gateway.process.kill("the end")
        loop.run_until_complete(asyncio.sleep(1.0))
        return world
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()
        asyncio.set_event_loop(None)
        structlog.reset_defaults()
        gc.collect()


__all__ = ["LeaseFate", "Shape", "World", "simulate"]
