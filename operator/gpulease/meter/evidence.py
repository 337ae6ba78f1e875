"""What the device did while it was held: shown to tenants and kept for disputes, never billed by.

Counters are taken by segments: a reading below the last one, or of another driver epoch, is a reset, and nothing is
added for it. Time without a reading is reported as a gap; an average covers the rest only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_XIDS = 32
"""Distinct XIDs kept per record; a storm repeats few."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading. None is unknown. ``epoch`` changes whenever counters may have restarted (boot, driver)."""

    at_ms: int
    energy_mj: int | None = None
    util_permille: int | None = None
    mem_used_bytes: int | None = None
    epoch: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of one span: energy in mJ, mean utilisation in ‰, peak memory; None where nothing was read.

    ``gap_ms`` is the part of the span no reading covers.
    """

    energy_mj: int | None
    energy_resets: int
    util_permille_avg: int | None
    mem_used_bytes_max: int | None
    xids: tuple[int, ...]
    samples: int
    gap_ms: int

    def to_json(self) -> dict[str, Any]:
        return {
            "energy_mj": self.energy_mj,
            "energy_resets": self.energy_resets,
            "gap_ms": self.gap_ms,
            "mem_used_bytes_max": self.mem_used_bytes_max,
            "samples": self.samples,
            "util_permille_avg": self.util_permille_avg,
            "xids": list(self.xids),
        }


class Window:
    """Collects the readings of one interval from one source, between two cuts."""

    def __init__(self, *, from_ms: int, max_gap_ms: int) -> None:
        self._max_gap_ms = max_gap_ms
        self._energy_base: tuple[int, str] | None = None
        self._begin(from_ms)

    @property
    def from_ms(self) -> int:
        return self._from_ms

    def _begin(self, from_ms: int) -> None:
        self._covered_to_ms = from_ms
        self._from_ms = from_ms
        self._energy_mj: int | None = None
        self._resets = 0
        self._util_weighted = 0
        self._util_ms = 0
        self._util_last: int | None = None
        self._memory: int | None = None
        self._xids: set[int] = set()
        self._samples = 0
        self._covered_ms = 0

    def add(self, sample: Sample) -> None:
        """Readings come in order of time; one from before the window is only a base for counters."""
        self._take_energy(sample)
        if sample.at_ms < self._from_ms:
            return
        self._samples += 1
        self._cover(sample.at_ms, sample.util_permille)
        self._util_last = sample.util_permille
        if sample.mem_used_bytes is not None:
            self._memory = max(self._memory or 0, sample.mem_used_bytes)

    def xid(self, code: int) -> None:
        if len(self._xids) < MAX_XIDS:
            self._xids.add(code)

    def close(self, to_ms: int, *, next_from_ms: int | None = None) -> Evidence:
        """The evidence up to ``to_ms``; the window begins again there, or at ``next_from_ms`` after a gap.

        After a gap the counters' base is dropped: what was used meanwhile belongs to no span.
        """
        if self._samples:
            self._cover(to_ms, self._util_last)
        length_ms = max(to_ms - self._from_ms, 0)
        evidence = Evidence(
            energy_mj=self._energy_mj,
            energy_resets=self._resets,
            util_permille_avg=self._util_weighted // self._util_ms if self._util_ms else self._util_last,
            mem_used_bytes_max=self._memory,
            xids=tuple(sorted(self._xids)),
            samples=self._samples,
            gap_ms=max(length_ms - self._covered_ms, 0),
        )
        if next_from_ms is not None and next_from_ms != to_ms:
            self._energy_base = None
        self._begin(to_ms if next_from_ms is None else next_from_ms)
        return evidence

    def _cover(self, until_ms: int, util_permille: int | None) -> None:
        elapsed_ms = until_ms - self._covered_to_ms
        if elapsed_ms <= 0:
            return
        if elapsed_ms <= self._max_gap_ms:
            self._covered_ms += elapsed_ms
            if util_permille is not None:
                self._util_weighted += util_permille * elapsed_ms
                self._util_ms += elapsed_ms
        self._covered_to_ms = until_ms

    def _take_energy(self, sample: Sample) -> None:
        if sample.energy_mj is None:
            return
        base = self._energy_base
        self._energy_base = (sample.energy_mj, sample.epoch)
        if base is None:
            return
        if base[1] != sample.epoch or sample.energy_mj < base[0]:
            self._resets += 1
            return
        self._energy_mj = (self._energy_mj or 0) + sample.energy_mj - base[0]
