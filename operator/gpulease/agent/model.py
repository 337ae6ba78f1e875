"""What the agent knows of its node, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from gpulease.meter.intervals import Allocation


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU as NVML tells it. None is unknown or unsupported; ``problem`` is set when the device did not answer."""

    uuid: str
    index: int
    product: str = ""
    memory_bytes: int | None = None
    pci_bus_id: str = ""
    energy_mj: int | None = None
    util_permille: int | None = None
    mem_used_bytes: int | None = None
    temperature_c: int | None = None
    ecc_uncorrected: int | None = None
    recovery_action: int | None = None
    """NVML field 230: 0 none, 1 reset, 2 reboot, 3 drain, 4 drain and reset, …"""
    row_remap_failed: bool | None = None
    mig_enabled: bool = False
    mig: tuple[str, ...] = ()
    """UUIDs of its MIG instances."""
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class NvmlReading:
    driver_version: str
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class Xid:
    """One XID event; ``uuid`` is empty when the driver did not say whose."""

    uuid: str
    code: int


@dataclass(frozen=True, slots=True)
class DcgmDevice:
    """The exporter's view of one GPU."""

    energy_mj: int | None = None
    util_permille: int | None = None
    mem_used_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """How one of the agent's sources is doing; ``last_ok_ms`` on the agent's timeline, None for never."""

    last_ok_ms: int | None = None
    problem: str | None = None
    failures: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """The agent's knowledge after its last look; ``allocations`` None is unknown, never "nothing allocated"."""

    at_ms: int = 0
    offset_ms: int = 0
    driver_version: str = ""
    devices: tuple[Device, ...] | None = None
    allocations: frozenset[Allocation] | None = None
    contested: tuple[Allocation, ...] = ()
    started_ms: dict[Allocation, int] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    recent_xids: dict[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    """By device UUID: (timeline ms, code), oldest first."""


class NvmlPort(Protocol):
    async def read(self) -> NvmlReading:
        """``NodeUnreachable`` when NVML is missing, broken or too slow."""
        ...

    def drain_xids(self) -> Sequence[Xid]:
        """XIDs since the last call."""
        ...


class KubeletPort(Protocol):
    async def allocations(self) -> frozenset[Allocation]:
        """``NodeUnreachable`` when the kubelet did not answer."""
        ...


class DcgmPort(Protocol):
    async def read(self) -> dict[str, DcgmDevice]:
        """By device UUID; ``NodeUnreachable`` when the exporter did not answer."""
        ...


class ClockPort(Protocol):
    @property
    def boot_id(self) -> str: ...

    def wall_ns(self) -> int: ...

    def mono_ns(self) -> int: ...
