"""What a pod takes and a node has: CPU, memory, ephemeral disk, whole GPUs and any other device by resource name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gpulease.inventory.quantity import milli, whole

GPU_RESOURCE = "nvidia.com/gpu"
VENDOR_PREFIX = "nvidia.com/"
Counts = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Amounts:
    """``gpus`` are ``nvidia.com/gpu``; ``others`` count further devices (MIG profiles, DRA pools) in name order."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    ephemeral_bytes: int = 0
    gpus: int = 0
    others: Counts = ()

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.cpu_milli + other.cpu_milli,
            self.memory_bytes + other.memory_bytes,
            self.ephemeral_bytes + other.ephemeral_bytes,
            self.gpus + other.gpus,
            _each(self.others, other.others, lambda a, b: a + b),
        )

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.cpu_milli - other.cpu_milli,
            self.memory_bytes - other.memory_bytes,
            self.ephemeral_bytes - other.ephemeral_bytes,
            self.gpus - other.gpus,
            _each(self.others, other.others, lambda a, b: a - b),
        )

    def __mul__(self, times: int) -> Amounts:
        return Amounts(
            self.cpu_milli * times,
            self.memory_bytes * times,
            self.ephemeral_bytes * times,
            self.gpus * times,
            tuple((name, count * times) for name, count in self.others if times),
        )

    def most(self, other: Amounts) -> Amounts:
        return Amounts(
            max(self.cpu_milli, other.cpu_milli),
            max(self.memory_bytes, other.memory_bytes),
            max(self.ephemeral_bytes, other.ephemeral_bytes),
            max(self.gpus, other.gpus),
            _each(self.others, other.others, max),
        )

    def floor(self) -> Amounts:
        """Nothing below zero: an over-full node has nothing free, not a huge amount."""
        return self.most(Amounts())

    def covers(self, need: Amounts) -> bool:
        return (
            self.cpu_milli >= need.cpu_milli
            and self.memory_bytes >= need.memory_bytes
            and self.ephemeral_bytes >= need.ephemeral_bytes
            and self.gpus >= need.gpus
            and all(self.of(name) >= count for name, count in need.others)
        )

    def of(self, resource: str) -> int:
        """How many devices of one resource name."""
        if resource == GPU_RESOURCE:
            return self.gpus
        return next((count for name, count in self.others if name == resource), 0)

    def with_devices(self, resource: str, count: int) -> Amounts:
        """The same with ``count`` devices of one resource name and no other devices."""
        plain = Amounts(self.cpu_milli, self.memory_bytes, self.ephemeral_bytes)
        if not count:
            return plain
        if resource == GPU_RESOURCE:
            return plain + Amounts(gpus=count)
        return plain + Amounts(others=((resource, count),))

    @property
    def devices(self) -> int:
        """Devices of every kind."""
        return self.gpus + sum(count for _, count in self.others)

    @property
    def negative(self) -> bool:
        counts = (count for _, count in self.others)
        return min(self.cpu_milli, self.memory_bytes, self.ephemeral_bytes, self.gpus, *counts) < 0

    def to_json(self) -> list[Any]:
        plain: list[Any] = [self.cpu_milli, self.memory_bytes, self.ephemeral_bytes, self.gpus]
        return [*plain, dict(self.others)] if self.others else plain

    @classmethod
    def from_json(cls, raw: Iterable[Any]) -> Amounts:
        """What :meth:`to_json` made."""
        cpu, memory, ephemeral, gpus, *rest = raw
        others = rest[0].items() if rest else ()
        return cls(int(cpu), int(memory), int(ephemeral), int(gpus), tuple(sorted((str(n), int(c)) for n, c in others)))


def _each(ours: Counts, theirs: Counts, combine: Callable[[int, int], int]) -> Counts:
    if not ours and not theirs:
        return ()
    mine, other = dict(ours), dict(theirs)
    found = ((name, combine(mine.get(name, 0), other.get(name, 0))) for name in sorted(mine.keys() | other.keys()))
    return tuple((name, count) for name, count in found if count)


def amounts_of(raw: Mapping[str, Any]) -> Amounts:
    """Of a resource list (``allocatable``, ``requests``); other vendors' devices are left out."""
    others = tuple(
        sorted(
            (str(name), count)
            for name, value in raw.items()
            if str(name).startswith(VENDOR_PREFIX) and name != GPU_RESOURCE and (count := whole(value))
        )
    )
    return Amounts(
        milli(raw.get("cpu", 0)),
        whole(raw.get("memory", 0)),
        whole(raw.get("ephemeral-storage", 0)),
        whole(raw.get(GPU_RESOURCE, 0)),
        others,
    )


def sum_amounts(parts: Iterable[Amounts]) -> Amounts:
    total = Amounts()
    for part in parts:
        total = total + part
    return total
