"""Writing a status: one apply, and only when something a reader would notice has changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from gpulease.kube.client import Cluster
from gpulease.planning import Condition, merge_conditions


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
