"""An event loop without waiting: when nothing is ready, its clock jumps to the next timer.

Everything of a simulation runs in one such loop, so that the order of all steps follows from the seed alone.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class Deadlock(Exception):
    """Nothing is ready and no timer is set: the simulation can never go on."""


class _NoWaiting(selectors.SelectSelector):
    loop: SimLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Deadlock("nothing is ready and no timer is set")
        if timeout > 0:
            self.loop.jump(timeout)
        return []


class SimLoop(asyncio.SelectorEventLoop):
    """``time()`` is simulated seconds since the start."""

    def __init__(self) -> None:
        self._sim_s = 0.0
        waiting = _NoWaiting()
        super().__init__(waiting)
        waiting.loop = self

    def time(self) -> float:
        return self._sim_s

    def jump(self, timeout: float) -> None:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        # To the timer itself: adding the timeout to the clock may miss it by a rounding.
        self._sim_s = max(timers[0].when(), self._sim_s) if timers else self._sim_s + timeout
