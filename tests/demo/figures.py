"""What one run can say about the figures to reach: from the chain, the audit log and the process table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.demo.story import Facts, Story
from tests.rig.audit import Write, writes

WRITES_BAR = 12
POD_BAR_S = 1.0
RSS_BAR_MB = 130
UP_BAR_S = 30


@dataclass(frozen=True, slots=True)
class Figure:
    """``good`` is None where one run cannot judge."""

    name: str
    value: str
    bar: str
    good: bool | None


def figures(story: Story, *, up_s: float | None) -> list[Figure]:
    """``up_s``: how long control plane and node took, where we started them."""
    facts, log = story.facts, story.stack.cluster.audit_log
    found = []
    if facts.order is not None and facts.bid is not None:
        blocks = facts.bid.height - facts.order.height
        found.append(Figure("order seen → bid included", f"{blocks} block(s) later", "next block", blocks <= 1))
    if facts.lease is not None and log is not None and facts.running_at_s:
        found += _from_audit(facts, log, story.stack.chain.block_time_s(facts.lease.height))
    if facts.operator_rss_mb:
        mb = facts.operator_rss_mb
        found.append(Figure("operator memory, one lease", f"{mb:.0f} MB RSS", f"≤ {RSS_BAR_MB} MB", mb <= RSS_BAR_MB))
    if up_s is not None:
        found.append(Figure("control plane + node up", f"{up_s:.1f} s", f"≤ {UP_BAR_S} s (warm)", up_s <= UP_BAR_S))
    return found


def _from_audit(facts: Facts, log: Path, leased_at_s: float) -> list[Figure]:
    all_writes = writes(log, since_s=leased_at_s - 0.5, until_s=facts.deleted_at_s or float("inf"))
    found = []
    made = [
        w.at_s for w in all_writes if w.verb == "create" and w.resource == "pods" and w.namespace == facts.namespace
    ]
    if made:
        took_s = made[0] - leased_at_s
        found.append(Figure("lease's block → pod object", f"{took_s:.2f} s", f"≤ {POD_BAR_S:g} s", took_s <= POD_BAR_S))
    begun = [w for w in all_writes if w.at_s <= facts.running_at_s]
    ours = _by(begun, "gpulease-operator")
    others = len(_by(begun, "gpulease-gateway"))
    words = f"{len(ours)} by the operator, {others} by the gateway"
    found.append(Figure("API writes, lease → Running", words, f"≤ {WRITES_BAR}", len(ours) <= WRITES_BAR))
    if facts.quiet_from_s and facts.deleted_at_s:
        quiet = [w for w in _by(all_writes, "gpulease-operator") if w.at_s >= facts.quiet_from_s]
        seconds = facts.deleted_at_s - facts.quiet_from_s
        what = Counter(f"{one.verb} {one.resource}" for one in quiet)
        of_it = f" ({', '.join(f'{n} × {words}' for words, n in what.items())})" if what else ""
        value = f"{len(quiet)} in {seconds:.0f} s with a withdrawal{of_it}"
        found.append(Figure("API writes, lease running", value, "0 in a quiet minute", None))
    return found


def _by(found: Sequence[Write], user: str) -> list[Write]:
    return [one for one in found if one.user == user]
