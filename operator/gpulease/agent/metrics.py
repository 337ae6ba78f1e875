"""The agent's metrics: one series per device, per running allocation and per source; nothing grows with history."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gpulease.agent.loop import Agent
from gpulease.agent.store import RecordStore

_HELD = ("namespace", "pod", "container", "device")


class AgentCollector(Collector):
    """Built from the agent's last view at each scrape."""

    def __init__(self, agent: Agent, store: RecordStore) -> None:
        self._agent, self._store = agent, store

    def collect(self) -> Iterator[Metric]:
        view = self._agent.view
        yield from self._devices()
        held = CounterMetricFamily(
            "gpulease_agent_gpu_seconds", "Recorded time of a running interval since the agent started.", labels=_HELD
        )
        for allocation, ms in sorted(self._agent.recorded_ms.items()):
            device = _device(allocation.device_uuid, allocation.share)
            held.add_metric([allocation.namespace, allocation.pod, allocation.container, device], ms / 1000)
        yield held
        up = GaugeMetricFamily(
            "gpulease_agent_source_up", "1 while the source answered at the last look.", labels=("source",)
        )
        failures = GaugeMetricFamily(
            "gpulease_agent_source_failures_in_a_row", "Looks in a row the source did not answer.", labels=("source",)
        )
        for name, source in sorted(view.sources.items()):
            up.add_metric([name], 0.0 if source.problem else 1.0)
            failures.add_metric([name], float(source.failures))
        yield up
        yield failures
        head = self._store.head
        yield CounterMetricFamily("gpulease_agent_records", "Usage records written.", value=head.seq)
        yield GaugeMetricFamily("gpulease_agent_records_waiting", "Records not yet taken.", value=head.seq - head.taken)
        yield GaugeMetricFamily(
            "gpulease_agent_clock_offset_seconds", "Wall clock minus record time.", value=view.offset_ms / 1000
        )
        yield GaugeMetricFamily(
            "gpulease_agent_contested_claims", "Claims on a device another container holds.", value=len(view.contested)
        )

    def _devices(self) -> Iterator[Metric]:
        view = self._agent.view
        label = ("device", "index", "product")
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {
            "up": GaugeMetricFamily("gpulease_agent_device_up", "1 while the GPU answers NVML.", labels=label),
            "util": GaugeMetricFamily("gpulease_agent_device_utilisation_ratio", "Share of busy time.", labels=label),
            "mem": GaugeMetricFamily("gpulease_agent_device_memory_used_bytes", "Memory in use.", labels=label),
            "temp": GaugeMetricFamily("gpulease_agent_device_temperature_celsius", "Temperature.", labels=label),
            "energy": CounterMetricFamily(
                "gpulease_agent_device_energy_joules", "Energy since the driver was loaded.", labels=label
            ),
        }
        for device in view.devices or ():
            names = [device.uuid, str(device.index), device.product]
            values = {
                "up": 0.0 if device.problem else 1.0,
                "util": _scaled(device.util_permille, 1000),
                "mem": _scaled(device.mem_used_bytes, 1),
                "temp": _scaled(device.temperature_c, 1),
                "energy": _scaled(device.energy_mj, 1000),
            }
            for key, value in values.items():
                if value is not None:
                    families[key].add_metric(names, value)
        yield from families.values()
        xids = GaugeMetricFamily(
            "gpulease_agent_device_last_xid", "Code of the newest XID since the agent started.", labels=("device",)
        )
        for uuid, found in sorted(view.recent_xids.items()):
            xids.add_metric([uuid], float(found[-1][1]))
        yield xids


def _scaled(value: int | None, divisor: int) -> float | None:
    return None if value is None else value / divisor


def _device(uuid: str, share: str) -> str:
    return f"{uuid}::{share}" if share else uuid
