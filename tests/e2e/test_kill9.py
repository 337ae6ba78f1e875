"""kill -9 of the operator at any point of the story: restarted, it finishes, bids once, leases once and pays once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpulease.workload.names import manifest_secret
from tests.demo import books
from tests.demo.story import LEASE, Story
from tests.e2e.told import condition, wait_ready
from tests.rig.cluster import Rig
from tests.rig.stack import OPERATOR_NAMESPACE, TENANT_NAMESPACE, Json, OnRig, Ports, Stack, until

pytestmark = pytest.mark.e2e
BLOCK_MS = 500
RANDOM_KILLS = 8
SEED = 20261124


@pytest.fixture
def story(rig: Rig) -> Iterator[Story]:
    stack = Stack(OnRig(rig), name="kill9", ports=Ports.free(), block_time_ms=BLOCK_MS)

    def quick(body: Json) -> None:
        body["spec"]["bidWindowSeconds"] = 2

    made = Story(stack, change_lease=quick)
    try:
        for step in made.setup():
            if step.part != "prometheus":
                step.look()
        yield made
    finally:
        stack.down()
        stack.erase()


class Killer:
    """Kills the operator at named points and starts it again; counts what it did."""

    def __init__(self, story: Story) -> None:
        self.story, self.stack = story, story.stack
        self.points: list[str] = []

    def at(self, point: str, happened: Callable[[], object]) -> None:
        """Right after something was seen to happen."""
        until(point, happened, timeout_s=60, interval_s=0.02)
        self.now(point)

    def now(self, point: str) -> None:
        self.stack.kill9("operator")
        self.points.append(point)
        self.stack.start_operator(wait=False)

    def logged(self, words: str) -> Callable[[], object]:
        """The operator has said so since now."""
        log = self.stack.log("operator")
        begin = log.stat().st_size
        return lambda: words in _since(log, begin)


def _since(log: Path, begin: int) -> str:
    with log.open("rb") as stream:
        stream.seek(begin)
        return stream.read().decode(errors="replace")


def test_killed_at_every_point_of_the_story_it_finishes_and_pays_once(story: Story) -> None:
    stack, killer = story.stack, Killer(story)
    owner, provider = stack.address("tenant"), stack.address("provider")
    deploys = killer.logged("key=deploy/")
    story.facts.applied_at_s = time.time()
    stack.apply_example("lease.yaml", lambda body: body["spec"].update(bidWindowSeconds=2))

    def claimed() -> bool:
        body = stack.get("gpulease", LEASE, TENANT_NAMESPACE) or {}
        return "gpulease.dev/escrow" in body["metadata"].get("finalizers", ())

    killer.at("claimed", claimed)
    killer.at("deployment in a block", lambda: stack.chain.deployments(owner))
    killer.at("deployment known to be in a block, or order bid on", lambda: deploys() or stack.chain.bids(owner))
    killer.at("bid in a block", lambda: stack.chain.bids(owner))
    killer.at("lease in a block", lambda: stack.chain.leases(owner))
    story.facts.order = stack.chain.orders(owner)[0]
    story.facts.bid = stack.chain.bids(owner)[0]
    story.leased()
    space = story.facts.namespace
    killer.at("manifest kept", lambda: stack.get("secret", manifest_secret(space), OPERATOR_NAMESPACE))
    killer.at("namespace made", lambda: stack.get("namespace", space))
    killer.at("deployment object made", lambda: stack.items("deployment", space))
    killer.at("pod running", lambda: [p for p in stack.items("pod", space) if p["status"].get("phase") == "Running"])
    (pod,) = stack.items("pod", space)
    killer.at(
        "GPULease ready", lambda: condition(stack.get("gpulease", LEASE, TENANT_NAMESPACE)).get("status") == "True"
    )
    killer.at("a withdraw in a block", lambda: list(stack.chain.withdrawals(since=story.facts.since)))
    dice = random.Random(SEED)
    for turn in range(RANDOM_KILLS):
        time.sleep(dice.uniform(0.5, 2.5))
        killer.now(f"random moment {turn + 1} (seed {SEED})")
    wait_ready(stack, LEASE)
    (still,) = stack.items("pod", space)
    assert still["metadata"]["uid"] == pod["metadata"]["uid"]
    assert still["status"]["containerStatuses"][0]["restartCount"] == 0
    story.objects_made()
    story.running()

    stack.cluster.kubectl("delete", "gpulease", LEASE, "-n", TENANT_NAMESPACE, "--wait=false")
    killer.now("delete asked for")
    killer.at("lease closed on chain", lambda: stack.chain.leases(owner)[0].state == "closed")
    killer.at("namespace going", lambda: _going(stack, space))
    story.settled()
    for step in story.close()[1:]:
        step.look()
    until("the object gone", lambda: stack.get("gpulease", LEASE, TENANT_NAMESPACE) is None, timeout_s=60)

    assert [len(found) for found in (stack.chain.deployments(owner), stack.chain.orders(owner))] == [1, 1]
    assert [bid.id["provider"] for bid in stack.chain.bids(owner)] == [provider]
    assert len(stack.chain.leases(owner)) == 1
    certificates = stack.chain.certificates(provider)
    assert len(certificates) == 1
    books.closing(stack, story.on_chain(), story.facts.before, since=story.facts.since)
    print(f"\nkill -9: {len(killer.points)} points, 1 deployment, 1 bid, 1 lease: {', '.join(killer.points)}")
    assert len(killer.points) >= 10


def _ready(stack: Stack) -> bool:
    return bool(condition(stack.get("gpulease", LEASE, TENANT_NAMESPACE)).get("status") == "True")


def _going(stack: Stack, namespace: str) -> bool:
    space = stack.get("namespace", namespace)
    return space is None or "deletionTimestamp" in space["metadata"]


def test_killed_gateway_and_agent_cost_no_lease(story: Story) -> None:
    """Both restarted while a lease runs: the pod stays, records go on, and a new lease can be had."""
    stack = story.stack
    for step in story.lease():
        if step.part != "prometheus":
            step.look()
    (pod,) = stack.items("pod", story.facts.namespace)
    stack.kill9("gateway")
    stack.kill9("agent")
    stack.start_gateway()
    stack.start_agent()
    until("the gateway listening", stack.gateway_listens, timeout_s=30)
    story.metered()
    (still,) = stack.items("pod", story.facts.namespace)
    assert still["metadata"]["uid"] == pod["metadata"]["uid"]
    for step in story.close():
        step.look()
