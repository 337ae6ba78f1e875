"""How often one party may ask: a bucket per address before the proof is looked at, one per owner after it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from gpulease.errors import GpuleaseError

_MOST_KEYS = 10_000


class TooOften(GpuleaseError):
    """Above the rate; a moment later it may be asked again."""


@dataclass(frozen=True, slots=True)
class Rate:
    """``per_s`` on average, ``burst`` at once."""

    per_s: float
    burst: int


class Buckets:
    """One bucket per key, the longest unused forgotten first: a forgotten bucket is a full one."""

    def __init__(self, rate: Rate, *, now_s: Callable[[], float]) -> None:
        self._rate = rate
        self._now_s = now_s
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.refused_total = 0

    def take(self, key: str) -> None:
        """``TooOften`` when the bucket is empty."""
        now_s = self._now_s()
        left, seen_s = self._left.get(key, (float(self._rate.burst), now_s))
        left = min(float(self._rate.burst), left + max(0.0, now_s - seen_s) * self._rate.per_s)
        enough = left >= 1
        self._left[key] = (left - 1 if enough else left, now_s)
        self._left.move_to_end(key)
        if len(self._left) > _MOST_KEYS:
            self._left.popitem(last=False)
        if not enough:
            self.refused_total += 1
            raise TooOften(f"more than {self._rate.per_s:g} requests per second; wait a moment and try again")
