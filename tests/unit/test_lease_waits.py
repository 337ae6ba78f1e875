"""A tenant's time to send a manifest: counted while there was a provider to send it to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gpulease.lease.plan import decide
from gpulease.lease.states import CloseBid, ObservedLease, Policy
from gpulease.runtime.plan_cli import load
from gpulease.runtime.plan_codec import decode

pytestmark = pytest.mark.unit
PLANS = Path(__file__).parent.parent / "data" / "plans"
SECOND = 10**9


def waiting() -> ObservedLease:
    """A lease of long ago that has no manifest yet, its record and namespace known."""
    for path in sorted(PLANS.glob("hosted-*.yaml")):
        if path.name.endswith(".plan.yaml"):
            continue
        seen = decode(ObservedLease, load(path.read_text())["observed"], "observed")
        if any(isinstance(a, CloseBid) for a in decide(seen, Policy()).actions):
            return seen
    raise AssertionError("no recorded plan gives a lease up for want of a manifest")


@pytest.mark.parametrize(
    ("noticed_s_ago", "up_s_ago", "given_up"), [(600, 600, True), (10, 600, False), (600, 10, False), (301, 301, True)]
)
def test_our_own_outage_is_not_the_tenants_delay(noticed_s_ago: int, up_s_ago: int, given_up: bool) -> None:
    seen = waiting()
    assert seen.hosted is not None
    now_ns = max(seen.now_ns, 10**6 * SECOND)
    seen = replace(
        seen,
        now_ns=now_ns,
        hosted=replace(seen.hosted, noticed_at_ns=now_ns - noticed_s_ago * SECOND),
        up_since_ns=now_ns - up_s_ago * SECOND,
    )
    plan = decide(seen, Policy(manifest_timeout_s=300.0))
    assert any(isinstance(a, CloseBid) for a in plan.actions) is given_up
    assert plan.requeue_after_s is not None
    assert 0 < plan.requeue_after_s <= 300
