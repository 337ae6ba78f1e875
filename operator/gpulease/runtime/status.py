"""Writing a status: one apply, and only when something a reader would notice has changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from gpulease.kube.client import Cluster
from gpulease.planning import Condition, merge_conditions
from gpulease.units import NS_PER_S

FIGURES_AGE_S = 600


class Figures:
    """Moving figures (money, usage) go along with other news, and by themselves only now and then.

    Written at every settlement they would cost the API server a write a minute per lease; metrics have them anyway.
    """

    def __init__(self) -> None:
        self._written_ns: dict[str, int] = {}

    def due(self, uid: str, *, now_ns: int) -> bool:
        """Old enough to be written without other news. What was never written by this process is not old yet."""
        return now_ns - self._written_ns.setdefault(uid, now_ns) > FIGURES_AGE_S * NS_PER_S

    def written(self, uid: str, *, now_ns: int) -> None:
        self._written_ns[uid] = now_ns

    def forget(self, uid: str) -> None:
        self._written_ns.pop(uid, None)


async def publish(
    cluster: Cluster,
    live: Mapping[str, Any],
    figures: Figures,
    *,
    state: str | None,
    conditions: Sequence[Condition],
    facts: Mapping[str, Any],
    along: Mapping[str, Any],
    now_ns: int,
) -> dict[str, Any] | None:
    """Write the status when there is news, ``along`` with it; the status written, None when there was no need."""
    uid = str(live["metadata"]["uid"])
    status = compose(live, state=state, conditions=conditions, facts=facts, now_ns=now_ns)
    if status == (live.get("status") or {}) and not figures.due(uid, now_ns=now_ns):
        return None
    status = compose(live, state=state, conditions=conditions, facts={**facts, **along}, now_ns=now_ns)
    wrote = await write(cluster, live, status)
    figures.written(uid, now_ns=now_ns)
    return status if wrote else None


def compose(
    live: Mapping[str, Any],
    *,
    state: str | None,
    conditions: Sequence[Condition],
    facts: Mapping[str, Any],
    now_ns: int,
) -> dict[str, Any]:
    """The status that ``live`` should have; equal to what it has when nothing changed."""
    generation = int(live["metadata"].get("generation", 1))
    old = live.get("status") or {}
    status: dict[str, Any] = copy.deepcopy(dict(old))
    status.update({key: value for key, value in facts.items() if value is not None})
    if state is not None:
        status["state"] = state
    if conditions:
        status["conditions"] = merge_conditions(
            old.get("conditions") or (), conditions, generation=generation, now_ns=now_ns
        )
        status["observedGeneration"] = generation
    return status


async def write(cluster: Cluster, live: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """True when the API server was written to."""
    if dict(status) == (live.get("status") or {}):
        return False
    meta = live["metadata"]
    body = {
        "apiVersion": live["apiVersion"],
        "kind": live["kind"],
        "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
        "status": dict(status),
    }
    await cluster.apply_status(body)
    return True
