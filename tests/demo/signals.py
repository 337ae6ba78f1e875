"""Ctrl-C, SIGTERM and a closed terminal end the story once, and never the clean-up after it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Not an ``Exception``: nothing that retries may swallow it. ``exit_code`` is the shell's for the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """The first signal raises :class:`Interrupted` in the main thread; later ones, and all at the end, are ignored."""
    before = {number: signal.getsignal(number) for number in _NUMBERS}

    def once(number: int, frame: FrameType | None) -> None:
        shield()
        raise Interrupted(number)

    for number in _NUMBERS:
        if before[number] is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, once)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def shield() -> None:
    """From here on a signal changes nothing: what has begun to be cleaned up is cleaned up."""
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)
