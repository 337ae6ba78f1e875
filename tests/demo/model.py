"""What a story is made of: steps that look until they have seen something, and who is told of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tests.rig.errors import RigError


@dataclass(frozen=True, slots=True)
class Seen:
    """What a step saw, in a line. ``height`` and ``at_s`` (Unix time) are those of the thing itself where it has
    them, for example of the block a bid is in; else the story fills in those of the look."""

    words: str
    height: int | None = None
    at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """``look`` returns once it has seen what ``title`` says, or raises a RigError. ``part`` is whose log tells why not.

    ``act`` groups steps: setup, lease, close.
    """

    act: str
    title: str
    part: str
    look: Callable[[], Seen]


class Reporter(Protocol):
    """The presentation. Calls come in the order of the steps; ``detail`` may come from within a running one."""

    def begin(self, step: Step) -> None: ...
    def detail(self, words: str) -> None: ...
    def waiting(self, words: str) -> None:
        """Why the running step has not seen it yet; may come several times a second."""
        ...

    def seen(self, step: Step, seen: Seen, *, took_s: float) -> None: ...
    def failed(self, step: Step, words: str, *, took_s: float) -> None: ...


class StepFailed(Exception):
    """``step`` did not happen; ``str()`` says why."""

    def __init__(self, step: Step, words: str) -> None:
        super().__init__(words)
        self.step = step


def run_steps(
    steps: Sequence[Step], reporter: Reporter, *, height: Callable[[], int | None], now_s: Callable[[], float]
) -> None:
    """All steps in turn; :class:`StepFailed` at the first that does not happen."""
    for step in steps:
        began = now_s()
        reporter.begin(step)
        try:
            seen = step.look()
        except RigError as error:
            reporter.failed(step, str(error), took_s=now_s() - began)
            raise StepFailed(step, str(error)) from error
        ended = now_s()
        full = Seen(seen.words, seen.height if seen.height is not None else height(), seen.at_s or ended)
        reporter.seen(step, full, took_s=ended - began)
