"""A stand-in for the module ``pynvml``: the calls the agent makes, with faults by switch."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    pass


class NVMLError_LibraryNotFound(NVMLError):
    pass


class NVMLError_DriverNotLoaded(NVMLError):
    pass


class NVMLError_GpuIsLost(NVMLError):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


class NVMLError_Timeout(NVMLError):
    pass


@dataclass
class FakeGpu:
    uuid: str
    energy_mj: int = 0
    util_pct: int = 0
    used_bytes: int = 0
    lost: bool = False
    recovery_action: int = 0
    remap_failed: bool = False
    instances: list[str] | None = None
    """UUIDs of MIG instances; None: MIG is off."""


@dataclass
class FakeNvml:
    """Pass it to ``Nvml(library)``. ``hang`` holds every call until it is set."""

    gpus: list[FakeGpu] = field(default_factory=lambda: [FakeGpu("GPU-0"), FakeGpu("GPU-1")])
    init_error: type[NVMLError] | None = None
    xids: queue.SimpleQueue[tuple[int, int]] = field(default_factory=queue.SimpleQueue)
    event_error: bool = False
    hang: threading.Event | None = None
    inits: int = 0

    NVMLError = NVMLError
    NVMLError_LibraryNotFound = NVMLError_LibraryNotFound
    NVMLError_DriverNotLoaded = NVMLError_DriverNotLoaded
    NVMLError_GpuIsLost = NVMLError_GpuIsLost
    NVMLError_NotSupported = NVMLError_NotSupported
    NVMLError_Timeout = NVMLError_Timeout
    NVML_SUCCESS = 0
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    nvmlEventTypeXidCriticalError = 8

    def nvmlInit(self) -> None:
        self.inits += 1
        if self.init_error is not None:
            raise self.init_error("init")

    def nvmlShutdown(self) -> None:
        pass

    def nvmlSystemGetDriverVersion(self) -> str:
        if self.hang is not None:
            self.hang.wait(10)
        return "570.86.15"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self._alive(self.gpus[index])

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return self._alive(gpu).uuid

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str:
        return "NVIDIA A100-SXM4-80GB"

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> Any:
        return SimpleNamespace(total=80 << 30, used=gpu.used_bytes)

    def nvmlDeviceGetPciInfo(self, gpu: FakeGpu) -> Any:
        return SimpleNamespace(busId=b"00000000:17:00.0")

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: FakeGpu) -> int:
        return gpu.energy_mj

    def nvmlDeviceGetUtilizationRates(self, gpu: FakeGpu) -> Any:
        return SimpleNamespace(gpu=gpu.util_pct, memory=0)

    def nvmlDeviceGetTemperature(self, gpu: FakeGpu, sensor: int) -> int:
        return 40

    def nvmlDeviceGetTotalEccErrors(self, gpu: FakeGpu, kind: int, counter: int) -> int:
        raise NVMLError_NotSupported("ecc")

    def nvmlDeviceGetFieldValues(self, gpu: FakeGpu, fields: list[int]) -> Any:
        return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=gpu.recovery_action))]

    def nvmlDeviceGetRemappedRows(self, gpu: FakeGpu) -> list[int]:
        return [0, 0, 0, int(gpu.remap_failed)]

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> list[int]:
        return [int(gpu.instances is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: FakeGpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: FakeGpu, index: int) -> FakeGpu:
        if index >= len(gpu.instances or ()):
            raise NVMLError_NotSupported("no instance here")
        return FakeGpu((gpu.instances or [])[index])

    def nvmlEventSetCreate(self) -> object:
        if self.event_error:
            raise NVMLError("events")
        return object()

    def nvmlEventSetFree(self, events: object) -> None:
        pass

    def nvmlDeviceGetSupportedEventTypes(self, gpu: FakeGpu) -> int:
        return 8

    def nvmlDeviceRegisterEvents(self, gpu: FakeGpu, kinds: int, events: object) -> None:
        pass

    def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> Any:
        try:
            index, code = self.xids.get(timeout=timeout_ms / 1000)
        except queue.Empty:
            raise NVMLError_Timeout("no event") from None
        return SimpleNamespace(device=self.gpus[index], eventType=8, eventData=code)

    @staticmethod
    def _alive(gpu: FakeGpu) -> FakeGpu:
        if gpu.lost:
            raise NVMLError_GpuIsLost("fallen off the bus")
        return gpu
