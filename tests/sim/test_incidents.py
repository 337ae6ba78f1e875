"""What happened to real providers, and what happens here instead. Each test names the report it comes from.

One operator, one chain, a few leases; the incident is made by hand, and what must hold is looked at after every block.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from gpulease.market.model import BidState, LeaseState
from gpulease.workload.names import lease_namespace
from tests.sim.actors import ChainTenant, Habit, KubectlTenant, Rival, drive
from tests.sim.checks import Checks
from tests.sim.world import EPOCH_NS, NAMESPACE, LeaseFate, Shape, World, simulate

pytestmark = pytest.mark.sim
FAST = Shape(block_s=6.0, pace_s=30.0, resync_s=60.0, soonest_s=0.2, withdraw_period_s=600, retention_s=600.0)
SLOW = Shape(block_s=60.0, pace_s=1800.0, resync_s=1800.0, soonest_s=20.0, withdraw_period_s=36_000)
LASTING = Habit(life=100_000, deposit_blocks=50_000)


def play(story: Callable[[World, Checks], Awaitable[None]], *, shape: Shape = FAST, seed: int = 7) -> World:
    async def run(world: World) -> None:
        world.log.keep = True
        checks = Checks(world)
        world.start_operator()
        await world.blocks(8)
        await story(world, checks)

    return simulate(seed, shape, run)


def tenants(world: World, count: int, habit: Habit = LASTING) -> list[ChainTenant]:
    made = [ChainTenant(world, f"tenant-{number}", habit) for number in range(count)]
    world.tenants += made
    return made


def ours(world: World, *, alive: bool = True) -> list[LeaseFate]:
    return [f for f in world.fates.values() if f.id.provider == world.provider and (f.closed is None) is alive]


def running(world: World) -> list[LeaseFate]:
    """Leases with a pod that runs."""

    def up(fate: LeaseFate) -> bool:
        return any((p.get("status") or {}).get("phase") == "Running" for p in world.pods_of(fate.id))

    return [fate for fate in world.fates.values() if up(fate)]


async def host(world: World, count: int, habit: Habit = LASTING) -> list[ChainTenant]:
    """So many leases, running."""
    made = tenants(world, count, habit)
    assert await world.until(lambda: len(running(world)) == count, blocks=40), world.log.lines[-20:]
    return made


def test_event_feed_silent_for_seven_hours() -> None:
    """akash-network/support#488: the feed of chain events died without a word and the provider was blind for 7 h.

    Here the feed is only a wake-up: blocks are read by height, so orders are bid on and closes acted on all the same.
    """

    async def story(world: World, _: Checks) -> None:
        world.faults.switches.add("hints-silent")
        for node in world.nodes.values():
            node.wakes.clear()
        first = await host(world, 1)
        await world.blocks(440)
        assert world.height * world.block_s > 7 * 3600
        closed_at = world.height
        assert first[0].lease is not None
        first[0].habit = Habit(life=1)
        assert await world.until(lambda: not running(world), blocks=20)
        assert world.height - closed_at < 20
        world.tenants.append(ChainTenant(world, "tenant-50", LASTING))
        assert await world.until(lambda: len(running(world)) == 1, blocks=30)

    play(story, shape=SLOW)


def test_rpc_trouble_closes_no_lease() -> None:
    """akash-network/support#17: after trouble with an RPC node a provider closed 44 leases that were paid for."""

    async def story(world: World, _: Checks) -> None:
        await host(world, 6)
        before = {fate.id for fate in ours(world)}
        for trouble in ("chain-down", "node-a-down", "node-b-down"):
            world.faults.switches.add(trouble)
            await world.blocks(50)
            world.faults.switches.clear()
            await world.blocks(5)
        world.faults.chance.update({"chain-5xx": 0.3, "chain-lost-answer": 0.1})
        await world.blocks(30)
        world.faults.calm()
        world.lagging = True
        await world.blocks(40)
        world.lagging = False
        world.catch_up()
        await world.blocks(20)
        assert {fate.id for fate in ours(world)} == before
        assert len(running(world)) == 6

    play(story)


def test_control_plane_outage_closes_no_lease() -> None:
    """akash-network/support#245: a control plane that was away for 15 minutes cost a provider all its leases."""

    async def story(world: World, _: Checks) -> None:
        await host(world, 6)
        before = {fate.id for fate in ours(world)}
        world.faults.switches.add("kube-down")
        await world.blocks(150)
        world.faults.switches.clear()
        await world.blocks(30)
        assert {fate.id for fate in ours(world)} == before
        assert len(running(world)) == 6

    play(story)


@pytest.mark.parametrize("blind", ["crashed", "feed", "chain-down", "kube-down"])
def test_missed_close_leaves_no_workload(blind: str) -> None:
    """akash-network/support#627 and #515: a close that was missed left tenants with GPUs they did not pay for."""

    async def story(world: World, _: Checks) -> None:
        made = await host(world, 2)
        if blind == "crashed":
            world.restart_s = 600.0
            assert world.process is not None
            world.process.kill()
        elif blind == "feed":
            world.faults.switches.update({"hints-silent", "watch-silent"})
            for node in world.nodes.values():
                node.wakes.clear()
        else:
            world.faults.switches.add(blind)
        for tenant in made:
            tenant.habit = Habit(life=1)
        await world.blocks(110)
        assert len(ours(world, alive=False)) == 2
        world.faults.switches.clear()
        # Two blocks and one resync after we can see again.
        limit = 2 + int(world.shape.resync_s / world.block_s) + 4
        assert await world.until(lambda: not running(world), blocks=limit)
        assert await world.until(lambda: not _spaces(world), blocks=10)

    play(story)


def _spaces(world: World) -> list[str]:
    return [n for f in world.fates.values() if world.api.get(("v1", "Namespace"), n := lease_namespace(f.id))]


def test_many_withdrawals_do_not_delay_a_bid() -> None:
    """akash-network/support#476: 50 withdrawals in the queue and no bid got through for minutes."""

    async def story(world: World, _: Checks) -> None:
        await host(world, 50, Habit(gpus=0, life=100_000, deposit_blocks=50_000))
        # The period comes round for all of them at once.
        while world.withdrawals() < 25:
            await world.blocks(1)
        began = world.height
        world.tenants.append(ChainTenant(world, "tenant-90", LASTING))
        assert await world.until(lambda: world.bids_of("tenant-90") > 0, blocks=6), world.log.lines[-20:]
        assert world.height - began <= 4

    play(story, shape=replace(FAST, withdraw_period_s=240))


def test_a_bid_that_never_landed_is_made_again() -> None:
    """akash-network/support#390: "bid complete" was logged for a bid that no block ever had."""

    async def story(world: World, _: Checks) -> None:
        world.lose_txs = 2
        world.tenants.append(ChainTenant(world, "tenant-0", Habit(life=1000, window=30, deposit_blocks=5000)))
        assert await world.until(lambda: world.bids_of("tenant-0") == 1, blocks=60)
        assert world.lose_txs == 0

    play(story)


def test_nothing_waits_for_a_lost_transaction() -> None:
    """akash-network/support#13: after one lost transaction every later one was refused until a restart."""

    async def story(world: World, _: Checks) -> None:
        world.lose_txs = 1
        world.tenants.append(ChainTenant(world, "tenant-0", Habit(life=1000, window=30, deposit_blocks=5000)))
        await world.blocks(3)
        world.tenants.append(ChainTenant(world, "tenant-1", LASTING))
        assert await world.until(lambda: world.bids_of("tenant-1") == 1, blocks=6)
        assert world.starts == 1

    play(story)


def test_the_deposit_of_a_lost_bid_comes_home() -> None:
    """akash-network/support#441: deposits of losing bids stayed locked on chain."""

    async def story(world: World, _: Checks) -> None:
        # With several losers the chain leaves some of them open, deposit and all.
        world.rivals += [Rival(world, f"rival-{n}", factor=0.1 * (n + 1), likes=1.0) for n in range(3)]
        await world.blocks(3)
        tenants(world, 4)
        assert await world.until(lambda: len(world.fates) == 4, blocks=30)
        assert not ours(world)

        def locked() -> int:
            found = drive(world.omni.bids(provider=world.provider, state="open"))
            return sum(b.state is BidState.OPEN for b in found)

        assert await world.until(lambda: locked() == 0, blocks=15)
        assert world.operator is not None
        site = world.operator.providers.by_address(world.provider)
        assert site is not None
        assert await world.until(lambda: not site.stock.reservations.all(), blocks=15)

    play(story)


def test_never_two_withdrawals_of_a_deployment_in_one_block() -> None:
    """akash-network/support#414: a withdrawal in the block of another settlement panics and its fee is lost."""

    async def story(world: World, _: Checks) -> None:
        await host(world, 4)
        await world.blocks(250)
        panics = [
            result
            for height in range(1, world.height + 1)
            for _, result in world.chain.block(height).txs  # type: ignore[union-attr]
            if result.code == 111222
        ]
        assert not panics
        assert world.withdrawals() >= 8

    play(story)


def test_a_withdrawal_that_fails_does_not_empty_the_wallet() -> None:
    """akash-network/node#1306: a withdrawal that could not succeed was sent again until the fees were gone."""

    async def story(world: World, _: Checks) -> None:
        await host(world, 1)
        world.fail_withdrawals = True
        before = world.chain.balance(world.provider, "uakt")
        failed = world.failed_txs
        await world.blocks(600)
        assert world.failed_txs > failed
        assert world.failed_txs - failed <= 24, world.failed_txs - failed
        assert before - world.chain.balance(world.provider, "uakt") < 1_000_000

    play(story, shape=Shape(block_s=60.0, pace_s=1800.0, resync_s=1800.0, soonest_s=20.0, withdraw_period_s=600))


def test_a_sick_gpu_is_not_sold() -> None:
    """akash-network/support#249: a GPU that had fallen off the bus was offered and billed."""

    async def story(world: World, _: Checks) -> None:
        node = world.controllers.nodes["gpu-0"]
        node.sick.update(node.devices)
        other = world.controllers.nodes["gpu-1"]
        other.sick.update(other.devices)
        for name in ("gpu-0", "gpu-1"):
            world.controllers.refresh_node(name)
        await world.blocks(5)
        tenants(world, 2)
        await world.blocks(30)
        assert world.bids_of("tenant-0") == world.bids_of("tenant-1") == 0
        node.sick.clear()
        world.controllers.refresh_node("gpu-0")
        assert await world.until(lambda: len(running(world)) == 2, blocks=60)

    play(story)


def test_a_sick_gpu_does_not_breed_pods() -> None:
    """akash-network/support#209: thousands of pods were made for a GPU that could take none."""

    async def story(world: World, _: Checks) -> None:
        await host(world, 1, Habit(gpus=2, life=100_000, deposit_blocks=50_000))
        writes = sum(w.actor == "operator" for w in world.api.writes)
        name = next(n.name for n in world.controllers.nodes.values() if n.held)
        node = world.controllers.nodes[name]
        node.sick.update(node.devices)
        world.controllers.refresh_node(name)
        space, pod = running(world)[0], world.api.all(("v1", "Pod"))[0]
        world.api.remove(("v1", "Pod"), pod["metadata"]["name"], pod["metadata"]["namespace"], actor="eviction")
        await world.blocks(150)
        assert len(world.pods_of(space.id)) <= 1
        assert sum(w.actor == "operator" for w in world.api.writes) - writes < 20
        node.sick.clear()
        world.controllers.refresh_node(name)
        assert await world.until(lambda: len(running(world)) == 1, blocks=30)

    play(story)


def test_an_overfull_node_is_not_a_huge_one() -> None:
    """akash-network/support#192 and #244: an inventory that went below zero was read as a huge one."""

    async def story(world: World, _: Checks) -> None:
        made = await host(world, 6, Habit(gpus=1, life=100_000, deposit_blocks=50_000))
        for name in ("gpu-0", "gpu-1"):
            # Less than is in use: free would be negative.
            world.controllers.nodes[name].sick.update(world.controllers.nodes[name].devices)
            world.controllers.refresh_node(name)
        await world.blocks(3)
        world.tenants.append(ChainTenant(world, "tenant-70", Habit(gpus=0, life=1000, deposit_blocks=2000)))
        world.tenants.append(ChainTenant(world, "tenant-71", LASTING))
        await world.blocks(20)
        assert world.bids_of("tenant-71") == 0
        status = world.status_of("GPUProvider", "main", NAMESPACE)
        assert await world.until(
            lambda: world.status_of("GPUProvider", "main", NAMESPACE)["gpus"]["free"] == 0, blocks=10
        ), status
        assert len(made) == 6

    play(story)


def test_an_update_needs_no_spare_gpu() -> None:
    """akash-network/support#82: an update waited for ever for a second GPU beside the one it already had."""

    async def story(world: World, _: Checks) -> None:
        habit = Habit(gpus=6, life=60, deposit_blocks=5000, updates=True)
        shape_total = sum(len(n.devices) for n in world.controllers.nodes.values())
        assert shape_total == 6
        made = await host(world, 1, habit)

        def version() -> str:
            return next(
                e["value"]
                for p in world.api.all(("v1", "Pod"))
                for e in p["spec"]["containers"][0]["env"]
                if e["name"] == "VERSION"
            )

        assert version() == "0"
        assert await world.until(lambda: len(running(world)) == 1 and version() == "1", blocks=58)
        assert made[0].version == 1

    play(story, shape=Shape(block_s=6.0, pace_s=30.0, resync_s=60.0, soonest_s=0.2, gpus=(6,)))


def test_the_gateway_certificate_is_renewed_before_it_ends() -> None:
    """akash-network/helm-charts#219: certificates ended unnoticed, and no tenant could reach the provider any more."""

    async def story(world: World, _: Checks) -> None:
        from gpulease.gateway import certs
        from tests.sim.checks import decode_secret

        def ends_s() -> float:
            secret = world.api.get(("v1", "Secret"), "main-gateway-cert", NAMESPACE)
            assert secret is not None
            return certs.expires_s(decode_secret(secret, "tls.crt").encode())

        for _ in range(14):
            world.skip(30 * 86400)
            await world.blocks(40)
            now_s = world.chain.time_ns / 1e9
            assert ends_s() - now_s > 20 * 86400
            live = drive(world.omni.certificates(world.provider, state="valid"))
            assert any(certs.expires_s(c.cert_pem) == ends_s() for c in live)
        assert now_s > EPOCH_NS / 1e9 + 400 * 86400

    play(story)


def test_a_tenant_that_never_sends_a_manifest_is_given_up() -> None:
    """A lease without a manifest holds a GPU for nothing: it is closed with the chain's own reason for that."""

    async def story(world: World, _: Checks) -> None:
        tenants(world, 1, Habit(sends_manifest=False, life=1000, deposit_blocks=2000))
        assert await world.until(lambda: len(ours(world, alive=False)) == 1, blocks=80)
        assert "manifest_timeout" in ours(world, alive=False)[0].reason
        assert world.operator is not None
        site = world.operator.providers.by_address(world.provider)
        assert site is not None
        assert await world.until(lambda: not site.stock.reservations.all(), blocks=20)

    play(story)


def test_a_tenant_that_vanishes_does_not_run_on_for_free() -> None:
    """The escrow runs out and nobody closes: the lease ends one block after its money, by our settlement."""

    async def story(world: World, _: Checks) -> None:
        await host(world, 1, Habit(life=10_000, deposit_blocks=60, tops_up=False, closes=False))
        lease = drive(world.omni.lease(ours(world)[0].id))
        assert lease is not None
        rate, paid = lease.price.amount.truncate(), lease.created_at
        assert await world.until(lambda: not ours(world), blocks=300)
        closed = ours(world, alive=False)[0]
        ended = drive(world.omni.lease(closed.id))
        assert ended is not None
        assert ended.state is not LeaseState.ACTIVE
        assert ended.payment is not None
        assert closed.closed is not None
        blocks = closed.closed - paid
        assert ended.payment.withdrawn.amount >= rate * (blocks - 1) - blocks
        assert await world.until(lambda: not running(world), blocks=20)

    play(story)


def test_a_deleted_lease_object_brings_its_deposit_home() -> None:
    """A GPULease deleted while the operator is down: its deployment is closed at the next start, then it goes."""

    async def story(world: World, _: Checks) -> None:
        person = KubectlTenant(world, "lease-0", 100_000)
        world.people.append(person)
        assert await world.until(lambda: len(running(world)) == 1, blocks=40)
        owner = world.account("kubectl-lease-0").address
        before = world.chain.balance(owner, "uact")
        world.restart_s = 120.0
        assert world.process is not None
        world.process.kill()
        await world.blocks(2)
        person.life = 1
        await world.blocks(5)
        assert world.api.get(("gpulease.dev/v1alpha1", "GPULease"), "lease-0", "team-a") is not None
        gone = await world.until(
            lambda: world.api.get(("gpulease.dev/v1alpha1", "GPULease"), "lease-0", "team-a") is None, blocks=60
        )
        assert gone
        assert world.chain.balance(owner, "uact") > before
        assert not ours(world)

    play(story)
