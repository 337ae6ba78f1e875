"""What a seed decides: who is there, what goes wrong and when. Then calm, and everything has to come to rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.sim.actors import MISCHIEF, ChainTenant, KubectlTenant, Rival, random_habit
from tests.sim.checks import Broken, Checks
from tests.sim.process import Process
from tests.sim.world import Shape, World, simulate

DICE = {
    "kube-lost-request": 0.01,
    "kube-lost-answer": 0.01,
    "kube-429": 0.01,
    "kube-500": 0.01,
    "kube-409": 0.02,
    "kube-denied": 0.01,
    "watch-broken": 0.01,
    "watch-twice": 0.05,
    "chain-lost-request": 0.01,
    "chain-lost-answer": 0.02,
    "chain-5xx": 0.02,
    "gateway-lost-answer": 0.1,
}
SWITCHES = ("kube-down", "watch-silent", "node-a-down", "node-b-down", "chain-down", "gateway-down", "hints-silent")
SCENES = (
    *("crash",) * 4, *SWITCHES, "crash-in-recovery", "node-lags", "chain-halts", "disk-full", "clock-jumps",
    "node-lost",
    "device-sick", "pods-refused", "watch-compacted", "pod-deleted", "workload-edited", "foreign-node", "mempool-full",
)  # fmt: skip


@dataclass(slots=True)
class Result:
    """What a run counted; ``broken`` is what did not hold, None when all did."""

    seed: int
    days: float
    lease_days: float = 0.0
    blocks: int = 0
    leases: int = 0
    checks: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    rested: bool = False
    broken: str | None = None


def shape_of(seed: int, *, block_s: float | None = None) -> Shape:
    """Slow worlds live long, fast ones have every block at the real pace."""
    rng = Random(seed ^ 0x5EED)
    block = block_s or rng.choice((6.0, 60.0, 300.0))
    pace_s = {6.0: 30.0, 60.0: 1800.0}.get(block, 6 * 3600.0)
    return Shape(
        block_s=block,
        pace_s=pace_s,
        soonest_s={6.0: 0.2, 60.0: 120.0}.get(block, 4 * block),
        resync_s=max(pace_s, 60.0),
        gpus=tuple(rng.choice(((2,), (4, 2), (1, 1, 1), (8,)))),
        withdraw_period_s=int(block * rng.choice((50, 200, 1000))),
        retention_s=block * rng.choice((1, 30, 200)),
    )


class Story:
    """One seed, played."""

    def __init__(self, seed: int, days: float, shape: Shape) -> None:
        self.seed, self.days, self.shape = seed, days, shape
        self.result = Result(seed, days)

    async def __call__(self, world: World) -> None:
        rng = Random(self.seed ^ 0xAC7)
        checks = Checks(world)
        blocks = max(int(self.days * 86400 / world.block_s), 60)
        for number in range(rng.randint(0, 2)):
            world.rivals.append(
                Rival(world, f"rival-{number}", factor=rng.choice((0.3, 0.7, 0.95)), likes=rng.choice((0.2, 0.6)))
            )
        world.start_operator()
        try:
            await world.blocks(12)
            if rng.random() < 0.8:
                world.faults.chance.update({k: v * rng.choice((0, 0, 1, 1, 3)) for k, v in DICE.items()})
            await self._stormy(world, rng, blocks)
            await self._calm(world, checks)
        except Broken as error:
            self.result.broken = str(error)
        finally:
            self._count(world, checks)

    def _count(self, world: World, checks: Checks) -> None:
        result = self.result
        result.lease_days = world.lease_blocks * world.block_s / 86400
        result.blocks, result.leases, result.checks = world.height, len(world.fates), checks.done
        crashes = {f"crash: {where}": count for where, count in world.crashes.items()}
        result.faults = {**world.faults.struck, **crashes}

    async def _stormy(self, world: World, rng: Random, blocks: int) -> None:
        until = world.height + blocks
        next_tenant = next_person = 0
        tenants, people = rng.randint(2, 8), rng.randint(0, 4)
        while world.height < until:
            left = until - world.height
            alive = [t for t in world.tenants if not t.done]
            if len(alive) < tenants and next_tenant < 400 and rng.random() < 0.5:
                world.tenants = alive
                world.tenants.append(ChainTenant(world, f"tenant-{next_tenant}", random_habit(rng, blocks)))
                next_tenant += 1
            if sum(not p.deleted for p in world.people) < people and next_person < 60 and rng.random() < 0.5:
                world.people.append(_person(world, rng, next_person, blocks))
                next_person += 1
            if rng.random() < 0.7:
                await self._scene(world, rng)
            await world.blocks(min(rng.randint(1, max(blocks // 25, 3)), max(left, 1)))

    async def _scene(self, world: World, rng: Random) -> None:
        """One thing that goes wrong, and its end."""
        scene = rng.choice(SCENES)
        world.faults.struck[f"scene: {scene}"] += 1
        length = rng.randint(1, 30)
        world.faults.last_s = world.loop.time() + length * world.block_s
        if scene in SWITCHES:
            world.faults.switches.add(scene)
            await world.blocks(length)
            world.faults.switches.discard(scene)
        else:
            await getattr(self, "_" + scene.replace("-", "_"))(world, rng, length)
        world.faults.last_s = world.loop.time() + 2 * world.block_s

    async def _crash(self, world: World, rng: Random, length: int) -> None:
        world.restart_s = rng.choice((1.0, 2.0, world.block_s * 3))
        _arm(world.process, rng.randint(1, 300))
        await world.blocks(length)
        if world.process is not None:
            world.process.fuse = None

    async def _crash_in_recovery(self, world: World, rng: Random, length: int) -> None:
        for _ in range(3):
            _arm(world.process, rng.randint(1, 60))
            await world.blocks(2)
        if world.process is not None:
            world.process.fuse = None

    async def _node_lags(self, world: World, rng: Random, length: int) -> None:
        world.lagging = True
        await world.blocks(length)
        world.lagging = False
        world.catch_up()

    async def _chain_halts(self, world: World, rng: Random, length: int) -> None:
        world.halted = True
        await world.blocks(length * 4)
        world.halted = False

    async def _disk_full(self, world: World, rng: Random, length: int) -> None:
        world.disk.full = True
        await world.blocks(length)
        world.disk.full = False

    async def _clock_jumps(self, world: World, rng: Random, length: int) -> None:
        if world.process is not None:
            world.process.skew_ns = rng.choice((-3600, 3600)) * 10**9
        await world.blocks(length)
        if world.process is not None:
            world.process.skew_ns = 0

    async def _node_lost(self, world: World, rng: Random, length: int) -> None:
        name = rng.choice(sorted(world.controllers.nodes))
        world.controllers.nodes[name].up = False
        world.controllers.refresh_node(name)
        await world.blocks(length)
        world.controllers.nodes[name].up = True
        world.controllers.refresh_node(name)

    async def _device_sick(self, world: World, rng: Random, length: int) -> None:
        node = world.controllers.nodes[rng.choice(sorted(world.controllers.nodes))]
        device = rng.choice(node.devices)
        node.sick.add(device)
        world.controllers.refresh_node(node.name)
        await world.blocks(length)
        node.sick.discard(device)
        world.controllers.refresh_node(node.name)

    async def _pods_refused(self, world: World, rng: Random, length: int) -> None:
        world.habits.refuses_pods = True
        await world.blocks(length)
        world.habits.refuses_pods = False

    async def _watch_compacted(self, world: World, rng: Random, length: int) -> None:
        world.api.compact()

    async def _pod_deleted(self, world: World, rng: Random, length: int) -> None:
        pods = sorted((p["metadata"]["namespace"], p["metadata"]["name"]) for p in world.api.all(("v1", "Pod")))
        if pods:
            namespace, name = rng.choice(pods)
            world.api.remove(("v1", "Pod"), name, namespace, actor="eviction")

    async def _workload_edited(self, world: World, rng: Random, length: int) -> None:
        """Somebody with rights in the cluster changes what is ours."""
        kind = rng.choice((("apps/v1", "Deployment"), ("networking.k8s.io/v1", "NetworkPolicy"), ("v1", "LimitRange")))
        found = sorted((b["metadata"]["namespace"], b["metadata"]["name"]) for b in world.api.all(kind))
        if not found:
            return
        namespace, name = rng.choice(found)
        if rng.random() < 0.5:
            world.api.remove(kind, name, namespace, actor="admin")
        elif kind[1] == "Deployment":
            world.api.change(kind, name, namespace, lambda b: b["spec"].update(replicas=0), actor="admin")
        else:
            world.api.change(kind, name, namespace, lambda b: b.update(spec={}), actor="admin")

    async def _foreign_node(self, world: World, rng: Random, length: int) -> None:
        world.nodes["node-b"].foreign = True
        await world.blocks(length)
        world.nodes["node-b"].foreign = False

    async def _mempool_full(self, world: World, rng: Random, length: int) -> None:
        world.mempool_full = True
        await world.blocks(min(length, 5))
        world.mempool_full = False

    async def _calm(self, world: World, checks: Checks) -> None:
        """No more faults: with time, everything has to be as it should."""
        world.faults.calm()
        if world.process is not None:
            world.process.fuse = None
        world.faults.last_s = world.loop.time()
        for tenant in world.tenants:
            tenant.settle()
        world.people_rest = True
        resync_blocks = int(world.shape.resync_s / world.block_s) + 1
        await world.blocks(60 + 3 * resync_blocks)
        try:
            checks.at_rest()
        except Broken:
            # Some of it may still be on its way: once more, later.
            await world.blocks(600 + 3 * resync_blocks)
            checks.at_rest()
        stretch = max(2 * resync_blocks, 60)
        world.quiet_status_writes = int(stretch * world.block_s / 600) + 2
        for _ in range(6):
            began_s, known = world.loop.time(), checks.changes()
            await world.blocks(stretch)
            if checks.changes() == known:
                # Nothing happened meanwhile: then nothing was written either.
                checks.quiet([w for w in world.api.writes if w.at_s > began_s])
                self.result.rested = True
                return


def _arm(process: Process | None, steps: int) -> None:
    if process is not None and not process.dead:
        process.fuse = steps


def _person(world: World, rng: Random, number: int, blocks: int) -> KubectlTenant:
    life = rng.randint(max(blocks // 15, 20), max(blocks // 2, 40))
    mischief = rng.choice(("",) * 4 + MISCHIEF)
    return KubectlTenant(
        world,
        f"lease-{number}",
        life,
        gpus=rng.choice((1, 1, 2)),
        image=rng.choice(("localhost/app:1",) * 5 + ("localhost/missing:1",)),
        mischief=mischief,
        edit_at=rng.randint(1, life) if mischief else 0,
        budget_usd=rng.choice(("5000", "80", "40")),
    )


def play(seed: int, days: float, *, block_s: float | None = None, keep_log: bool = False) -> tuple[Result, Any]:
    """One seed to its end; a defect of the simulation itself raises."""
    shape = shape_of(seed, block_s=block_s)
    story = Story(seed, days, shape)
    world: list[World] = []

    async def run(made: World) -> None:
        world.append(made)
        made.log.keep = keep_log
        await story(made)

    simulate(seed, shape, run)
    return story.result, world[0]
