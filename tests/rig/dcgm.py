"""A double of dcgm-exporter: its line format, its labels, its way to name pods (PodResources at scrape time).

Reads the same NVML double as everything else, through pynvml in a process of its own. Like the original it keeps
answering without pod labels where the kubelet does not answer.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

from tests.rig.podresources import Holder, holders


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    kind: str
    help: str
    read: Callable[[Any, Any], str]


def _mib(value: int) -> str:
    return str(value // 2**20)


FIELDS = (
    Field(
        "DCGM_FI_DEV_SM_CLOCK",
        "gauge",
        "SM clock frequency (in MHz).",
        lambda n, h: str(n.nvmlDeviceGetClockInfo(h, 1)),
    ),
    Field(
        "DCGM_FI_DEV_GPU_TEMP", "gauge", "GPU temperature (in C).", lambda n, h: str(n.nvmlDeviceGetTemperature(h, 0))
    ),
    Field(
        "DCGM_FI_DEV_POWER_USAGE",
        "gauge",
        "Power draw (in W).",
        lambda n, h: f"{n.nvmlDeviceGetPowerUsage(h) / 1000:f}",
    ),
    Field(
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        "counter",
        "Total energy consumption since boot (in mJ).",
        lambda n, h: str(n.nvmlDeviceGetTotalEnergyConsumption(h)),
    ),
    Field(
        "DCGM_FI_DEV_GPU_UTIL",
        "gauge",
        "GPU utilization (in %).",
        lambda n, h: str(n.nvmlDeviceGetUtilizationRates(h).gpu),
    ),
    Field(
        "DCGM_FI_DEV_FB_FREE",
        "gauge",
        "Framebuffer memory free (in MiB).",
        lambda n, h: _mib(n.nvmlDeviceGetMemoryInfo(h).free),
    ),
    Field(
        "DCGM_FI_DEV_FB_USED",
        "gauge",
        "Framebuffer memory used (in MiB).",
        lambda n, h: _mib(n.nvmlDeviceGetMemoryInfo(h).used),
    ),
    Field(
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
        "gauge",
        "Ratio of time the graphics engine is active.",
        lambda n, h: f"{n.nvmlDeviceGetUtilizationRates(h).gpu / 100:f}",
    ),
)
_XID = ("DCGM_FI_DEV_XID_ERRORS", "gauge", "Value of the last XID error encountered.")


class Exporter:
    """``render`` is one scrape. XIDs are drained from an event set of this process; the gauge keeps the last one."""

    def __init__(self, hostname: str) -> None:
        self._nvml: Any = importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        self._hostname = hostname
        self._driver = self._nvml.nvmlSystemGetDriverVersion()
        self._lock = Lock()
        self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(self._nvml.nvmlDeviceGetCount())]
        self._labels = [self._static(index, handle) for index, handle in enumerate(self._handles)]
        self._uuids = [self._nvml.nvmlDeviceGetUUID(handle) for handle in self._handles]
        self._last_xid = dict.fromkeys(self._uuids, 0)
        self._events = self._nvml.nvmlEventSetCreate()
        for handle in self._handles:
            self._nvml.nvmlDeviceRegisterEvents(handle, self._nvml.nvmlEventTypeXidCriticalError, self._events)

    def _static(self, index: int, handle: Any) -> list[tuple[str, str]]:
        return [
            ("gpu", str(index)),
            ("UUID", self._nvml.nvmlDeviceGetUUID(handle)),
            ("pci_bus_id", self._nvml.nvmlDeviceGetPciInfo(handle).busId),
            ("device", f"nvidia{index}"),
            ("modelName", self._nvml.nvmlDeviceGetName(handle)),
            ("Hostname", self._hostname),
            ("DCGM_FI_DRIVER_VERSION", self._driver),
        ]

    def _drain_xids(self) -> None:
        while True:
            try:
                event = self._nvml.nvmlEventSetWait_v2(self._events, 0)
            except self._nvml.NVMLError:
                return
            self._last_xid[self._nvml.nvmlDeviceGetUUID(event.device)] = int(event.eventData)

    def render(self) -> str:
        held = holders()
        with self._lock:
            self._drain_xids()
            labels = [_text(static, held.get(uuid)) for static, uuid in zip(self._labels, self._uuids, strict=True)]
            lines: list[str] = []
            for field in FIELDS:
                lines += _header(field.name, field.kind, field.help)
                lines += self._series(field, labels)
            lines += _header(*_XID)
            lines += [f"{_XID[0]}{{{text}}} {self._last_xid[u]}" for text, u in zip(labels, self._uuids, strict=True)]
        return "\n".join(lines) + "\n"

    def _series(self, field: Field, labels: list[str]) -> list[str]:
        """A device that is lost has no series, as with the original."""
        found = []
        for handle, text in zip(self._handles, labels, strict=True):
            try:
                found.append(f"{field.name}{{{text}}} {field.read(self._nvml, handle)}")
            except self._nvml.NVMLError:
                continue
        return found


def _header(name: str, kind: str, words: str) -> list[str]:
    return [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]


def _text(static: list[tuple[str, str]], holder: Holder | None) -> str:
    pairs = list(static)
    if holder:
        pairs += [("container", holder.container), ("namespace", holder.namespace), ("pod", holder.pod)]
    return ",".join(f'{key}="{value}"' for key, value in pairs)


def serve(exporter: Exporter, address: str, port: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.split("?")[0] in ("/metrics", "/health")
            body = exporter.render().encode() if self.path.startswith("/metrics") else b"OK\n"
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """A line per scrape would bury what matters."""

    ThreadingHTTPServer((address, port), Handler).serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9400)
    parser.add_argument("--hostname", default="rig-node")
    given = parser.parse_args()
    serve(Exporter(given.hostname), given.address, given.port)
