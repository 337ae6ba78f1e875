"""The node's clocks."""

from __future__ import annotations

import time
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SystemClock:
    """The monotonic clock is slewed with the wall clock but never set, and shared by all processes of one boot."""

    def __init__(self) -> None:
        self.boot_id = BOOT_ID.read_text().strip()

    def wall_ns(self) -> int:
        return time.time_ns()

    def mono_ns(self) -> int:
        return time.monotonic_ns()
