"""What metering and monitoring hold of a lease: the agent's signed records, the operator's counters, Prometheus."""

from __future__ import annotations

from typing import Any

from gpulease.meter.records import GENESIS, UsageRecord, verify_chain
from tests.rig.errors import RigError
from tests.rig.prometheus import query
from tests.rig.stack import Stack, until
from tests.rig.web import get_json, get_text, metric_sum


def records(stack: Stack, namespace: str, uuid: str) -> list[UsageRecord]:
    """The agents' records of a namespace's hold on a device, each chain's hashes and signatures checked."""
    found: list[UsageRecord] = []
    for node, url in stack.agents.items():
        raw, key = _all(stack, url)
        if not raw:
            continue
        prev = GENESIS if int(raw[0]["seq"]) == 1 else None
        report = verify_chain(raw, bytes.fromhex(key), prev=prev, every_signature=True)
        if report.problem is not None:
            raise RigError(f"the records of node {node} do not hold: {report.problem}")
        typed = (UsageRecord.from_json(one) for one in raw)
        found += [one for one in typed if (one.namespace, one.device_uuid) == (namespace, uuid)]
    return found


def _all(stack: Stack, url: str) -> tuple[list[dict[str, Any]], str]:
    """Every page from the oldest record kept; ``after=0`` is no receipt, so it takes nothing from the operator."""
    headers = {"Authorization": f"Bearer {stack.token_file.read_text().strip()}"}
    first = get_json(f"{url}/v1/records?after=0&limit=1000", headers=headers)
    rows = list(first["records"])
    while rows and int(rows[-1]["seq"]) < int(first["head"]):
        more = get_json(f"{url}/v1/records?after={rows[-1]['seq']}&limit=1000", headers=headers)["records"]
        if not more:
            break
        rows += more
    return rows, str(first["public_key"])


def growing(stack: Stack, namespace: str, uuid: str, *, patience_s: float) -> str:
    """Two looks at the agent's records and at the operator's counters, the later ones higher."""

    def both() -> tuple[int, int, float] | None:
        held = records(stack, namespace, uuid)
        metrics = get_text(f"{stack.operator_url}/metrics")
        counted = metric_sum(metrics, "gpulease_lease_usage_records_total")
        if not held or not counted:
            raise RigError(f"{len(held)} records at the agent, {counted or 0:.0f} counted by the operator")
        return len(held), sum(one.gpu_ms for one in held), counted

    alive = stack.processes.values()
    first = until("usage records of the lease", both, timeout_s=patience_s, alive=alive)

    def more() -> tuple[int, int, float] | None:
        now = both()
        return now if now is not None and all(new > old for new, old in zip(now, first, strict=True)) else None

    count, gpu_ms, counted = until("more usage records of the lease", more, timeout_s=patience_s, alive=alive)
    return f"{first[0]} → {count} signed records, {gpu_ms / 1000:.1f} GPU-s; the operator has {counted:.0f}"


def declined(stack: Stack) -> str:
    """Why the operator has not bid, as its metrics say."""
    lines = get_text(f"{stack.operator_url}/metrics").splitlines()
    found = [line for line in lines if line.startswith("gpulease_orders_declined_total{")]
    return f"the operator declined: {', '.join(found)}" if found else "the operator has declined no order"


def dcgm(stack: Stack, namespace: str, pod: str, uuid: str, *, patience_s: float) -> str:
    """Prometheus has the exporter's series of the device with this pod's labels, and energy rises."""
    labels = f'UUID="{uuid}",namespace="{namespace}",pod="{pod}"'
    energy = f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{labels}}}"

    def value(expression: str) -> float | None:
        found = query(stack.prometheus_url, expression)
        return float(found[0]["value"][1]) if found else None

    first = until("DCGM's series of the GPU", lambda: value(energy), timeout_s=patience_s)
    last = until("DCGM's energy counter rising", lambda: _above(value(energy), first), timeout_s=patience_s)
    busy = until("DCGM's utilisation", lambda: value(f"DCGM_FI_DEV_GPU_UTIL{{{labels}}}"), timeout_s=patience_s)
    series = query(stack.prometheus_url, f'count({{__name__=~"DCGM_FI_.*",{labels}}})')
    return f"{series[0]['value'][1]} series with pod labels; {busy:.0f} % busy, +{(last - first) / 1000:.0f} J"


def _above(value: float | None, floor: float) -> float | None:
    return value if value is not None and value > floor else None
