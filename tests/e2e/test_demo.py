"""The demo's story on the session's rig: what ``make demo`` shows, step by step, and that nothing of it is left."""

from __future__ import annotations

import io
import time

import pytest

from tests.demo import books
from tests.demo.figures import figures
from tests.demo.model import run_steps
from tests.demo.story import Story
from tests.demo.table import PlainLines
from tests.rig.cluster import Rig
from tests.rig.podresources import holders
from tests.rig.stack import LEASE_PROVIDER, OURS, OnRig, Ports, Stack

pytestmark = pytest.mark.e2e


def test_the_whole_story_is_seen_and_leaves_nothing(rig: Rig) -> None:
    stack = Stack(OnRig(rig), name="test-demo", ports=Ports.free())
    story = Story(stack)
    out = io.StringIO()
    steps = [*story.setup(), *story.lease(), *story.close()]
    try:
        with PlainLines(out) as reporter:
            run_steps(steps, reporter, height=stack.chain.height, now_s=time.time)
        assert story.facts.uuid in rig.gpu_uuids
        assert [line.count("  ok ") for line in out.getvalue().splitlines() if "  ok " in line] == [1] * len(steps)
        rows = books.rows(stack, story.facts.before, since=story.facts.since)
        assert {row.account: row.after - row.before for row in rows if row.denom == "uact"} == {
            "tenant": -story.paid_uact(),
            "provider": story.paid_uact(),
        }
        assert story.paid_uact() > 0
        found = {one.name: one for one in figures(story, up_s=rig.warm_s)}
        # Counts and memory; times are for make bench, this machine may be doing anything else besides.
        for name in ("API writes, lease → Running", "operator memory, one lease"):
            assert found[name].good, found[name]
        assert stack.stop("operator") == 0
    finally:
        stack.down()
        stack.erase()
    assert not stack.items("namespace", selector=f"{OURS}=test-demo")
    assert not stack.items("namespace", selector=LEASE_PROVIDER)
    assert not stack.folder.exists()
    assert story.facts.uuid not in holders()


def test_a_killed_stack_is_erased_finalizers_and_all(rig: Rig) -> None:
    stack = Stack(OnRig(rig), name="test-killed", ports=Ports.free())
    story = Story(stack)
    try:
        with PlainLines(io.StringIO()) as reporter:
            steps = [*story.setup(), *story.lease()]
            up_to = next(n for n, one in enumerate(steps) if one.title == "pod Running with a GPU")
            run_steps(steps[: up_to + 1], reporter, height=stack.chain.height, now_s=time.time)
        for part in list(stack.processes):
            stack.kill9(part)
    finally:
        stack.down()
        stack.erase()
    assert not stack.items("namespace", selector=f"{OURS}=test-killed")
    assert stack.get("namespace", story.facts.namespace) is None
    assert story.facts.uuid not in holders()
