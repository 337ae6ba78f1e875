"""What a lease has used: usage records added up by namespace, which is the lease's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from gpulease.meter.records import UsageRecord

T = TypeVar("T")

MAX_NAMED = 64
"""Devices and XIDs kept per lease by name: a tenant's history must not grow without end."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Time of one device that is not billed, on its agent's timeline; ``to_ms`` None while it lasts."""

    device: str
    from_ms: int
    to_ms: int | None = None

    def overlap_ms(self, record: UsageRecord) -> int:
        """Of a record's held time; its unseen time was never counted."""
        if record.device_uuid != self.device:
            return 0
        end_ms = record.to_ms if self.to_ms is None else min(record.to_ms, self.to_ms)
        return min(max(end_ms - max(record.from_ms, self.from_ms), 0), record.gpu_ms)


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over the records of one namespace. ``energy_mj`` leaves out what was not measured.

    ``devices`` are all that were ever held, ``running`` those held now, as far as records tell. ``credit_ms`` is the
    part of ``gpu_ms`` that was spent on a faulty device, and is not billed.
    """

    gpu_ms: int = 0
    gap_ms: int = 0
    evidence_gap_ms: int = 0
    energy_mj: int = 0
    util_ms_permille: int = 0
    util_ms: int = 0
    mem_used_bytes_max: int = 0
    devices: tuple[str, ...] = ()
    running: frozenset[tuple[str, str, str]] = field(default_factory=frozenset)
    """(pod, container, device)."""
    xids: tuple[int, ...] = ()
    records: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    credit_ms: int = 0
    faults: tuple[Fault, ...] = ()

    @property
    def gpu_seconds(self) -> int:
        """Billed time: the meter stands still while a device is faulty."""
        return (self.gpu_ms - self.credit_ms) // 1000

    @property
    def credited_seconds(self) -> int:
        return self.credit_ms // 1000

    @property
    def util_permille_avg(self) -> int | None:
        """Over the time that was both held and measured."""
        return self.util_ms_permille // self.util_ms if self.util_ms else None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "running": sorted(list(holder) for holder in self.running)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Usage:
        """What :meth:`to_json` made, also by an older version."""
        running = frozenset((str(p), str(c), str(d)) for p, c, d in raw["running"])
        faults = tuple(Fault(**one) for one in raw.get("faults", ()))
        lists = {"devices": tuple(raw["devices"]), "xids": tuple(raw["xids"]), "running": running, "faults": faults}
        return cls(**{**raw, **lists})

    def plus(self, record: UsageRecord) -> Usage:
        """With one more record; the caller adds each record once."""
        evidence = record.evidence
        device = f"{record.device_uuid}::{record.share}" if record.share else record.device_uuid
        holder = (record.pod, record.container, device)
        util = evidence.get("util_permille_avg")
        unmeasured_ms = int(evidence.get("gap_ms") or 0)
        measured_ms = max(record.gpu_ms - unmeasured_ms, 0) if util is not None else 0
        return replace(
            self,
            gpu_ms=self.gpu_ms + record.gpu_ms,
            gap_ms=self.gap_ms + record.gap_ms,
            evidence_gap_ms=self.evidence_gap_ms + unmeasured_ms,
            energy_mj=self.energy_mj + int(evidence.get("energy_mj") or 0),
            util_ms_permille=self.util_ms_permille + int(util or 0) * measured_ms,
            util_ms=self.util_ms + measured_ms,
            mem_used_bytes_max=max(self.mem_used_bytes_max, int(evidence.get("mem_used_bytes_max") or 0)),
            devices=_with(self.devices, [device]),
            running=self.running | {holder} if record.open else self.running - {holder},
            xids=_with(self.xids, [int(code) for code in evidence.get("xids") or ()]),
            credit_ms=self.credit_ms + sum(fault.overlap_ms(record) for fault in self.faults),
            records=self.records + 1,
            first_ms=record.from_ms if self.first_ms is None else min(self.first_ms, record.from_ms),
            last_ms=record.to_ms if self.last_ms is None else max(self.last_ms, record.to_ms),
        )

    def with_fault(self, device: str, *, at_ms: int, taken: Iterable[UsageRecord] = ()) -> Usage:
        """The device is faulty since ``at_ms``; ``taken`` are records already added, newest enough to reach it."""
        if any(f.device == device and f.to_ms is None for f in self.faults) or len(self.faults) >= MAX_NAMED:
            return self
        # A fault before the end of the last one is the same time again.
        ends = [f.to_ms for f in self.faults if f.device == device and f.to_ms is not None]
        fault = Fault(device, max([at_ms, *ends]))
        more_ms = sum(fault.overlap_ms(record) for record in taken)
        return replace(self, faults=(*self.faults, fault), credit_ms=self.credit_ms + more_ms)

    def without_fault(self, device: str, *, at_ms: int) -> Usage:
        """The device is well again; time from ``at_ms`` on counts. What was credited before stays credited."""
        ended = tuple(
            replace(f, to_ms=max(at_ms, f.from_ms)) if f.device == device and f.to_ms is None else f
            for f in self.faults
        )
        return replace(self, faults=ended)


def _with(known: tuple[T, ...], new: Iterable[T]) -> tuple[T, ...]:
    added = [one for one in dict.fromkeys(new) if one not in known]
    return (*known, *added)[:MAX_NAMED]


def by_namespace(records: Iterable[UsageRecord], before: Mapping[str, Usage] | None = None) -> dict[str, Usage]:
    """``before`` with the records added."""
    found = dict(before or {})
    for record in records:
        found[record.namespace] = found.get(record.namespace, Usage()).plus(record)
    return found
