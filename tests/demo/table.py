"""How the story looks: a live table on a terminal, a line per step elsewhere. Nothing is decided here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tests.demo.model import Seen, Step

_ACTS = {
    "machine": "This machine",
    "setup": "The parts",
    "lease": "kubectl apply -f lease.yaml",
    "close": "kubectl delete gpulease demo",
}
_HEARTBEAT_S = 15.0
_MARGIN_LINES = 4


def span(seconds: float) -> str:
    """``7.3 s`` or ``2:05``."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def stamp(seconds: float) -> str:
    """Since the start, ``0:07.3``."""
    return f"{int(seconds) // 60}:{seconds % 60:04.1f}"


@dataclass(slots=True)
class _Row:
    step: Step
    state: str = "waiting"
    began_s: float = 0.0
    took_s: float = 0.0
    words: str = ""
    height: int | None = None
    at_s: float | None = None


class LiveTable:
    """Redraws itself four times a second in a thread of rich's own. Use as a context manager."""

    def __init__(self, console: Console, steps: Sequence[Step], *, height: Callable[[], int | None]) -> None:
        self._console = console
        self._rows = [_Row(step) for step in steps]
        self._height = height
        self._started_s = time.time()
        self._block: int | None = None
        self._ended = threading.Event()
        self._final = False
        self._spinner = Spinner("dots")
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
            transient=True,
        )

    def __enter__(self) -> LiveTable:
        threading.Thread(target=self._follow, daemon=True).start()
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._live.stop()
        # What was cut to the terminal's size is said once more in full, and stays.
        self._final = True
        self._console.print(self._render())

    def _follow(self) -> None:
        while not self._ended.wait(0.5):
            self._block = self._height() or self._block

    # -- Reporter ----------------------------------------------------------------------------------------------

    def begin(self, step: Step) -> None:
        row = self._row(step)
        row.state, row.began_s = "running", time.time()

    def detail(self, words: str) -> None:
        for row in self._rows:
            if row.state == "running":
                row.words = words

    waiting = detail

    def seen(self, step: Step, seen: Seen, *, took_s: float) -> None:
        row = self._row(step)
        row.words, row.height, row.at_s, row.took_s = seen.words, seen.height, seen.at_s, took_s
        row.state = "seen"

    def failed(self, step: Step, words: str, *, took_s: float) -> None:
        row = self._row(step)
        row.state, row.words, row.took_s, row.at_s = "failed", words.splitlines()[0], took_s, time.time()

    def _row(self, step: Step) -> _Row:
        return next(row for row in self._rows if row.step is step)

    # -- drawing -----------------------------------------------------------------------------------------------

    def _render(self) -> Group:
        rows, folded = (self._rows, 0) if self._final else self._visible()
        table = Table(box=None, padding=(0, 1), expand=True, show_header=True, header_style="dim")
        table.add_column("", width=1)
        table.add_column("step", width=32, no_wrap=True)
        table.add_column("block", justify="right", width=6)
        table.add_column("time", justify="right", width=7)
        table.add_column("seen", ratio=1, no_wrap=not self._final, overflow="fold" if self._final else "ellipsis")
        if folded:
            table.add_row(Text("✓", "green"), Text(f"{folded} steps done", "dim"), "", "", "")
        act = ""
        for row in rows:
            if row.step.act != act:
                act = row.step.act
                table.add_row("", Text(_ACTS.get(act, act), "bold cyan"))
            table.add_row(*self._cells(row))
        return Group(self._title(), table)

    def _title(self) -> Text:
        block = f"block {self._block}" if self._block else "no chain yet"
        return Text.assemble(("gpulease demo", "bold"), f"   {block}   {span(time.time() - self._started_s)}\n")

    def _visible(self) -> tuple[list[_Row], int]:
        """What fits the terminal: finished steps at the top are folded into one line first."""
        rows = list(self._rows)
        folded = 0
        while len(rows) > 1 and rows[0].state == "seen" and self._lines(rows, folded) > self._console.size.height:
            rows.pop(0)
            folded += 1
        while len(rows) > 1 and rows[-1].state == "waiting" and self._lines(rows, folded) > self._console.size.height:
            rows.pop()
        return rows, folded

    def _lines(self, rows: Sequence[_Row], folded: int) -> int:
        return len(rows) + len({row.step.act for row in rows}) + bool(folded) + _MARGIN_LINES

    def _cells(self, row: _Row) -> tuple[Text | Spinner | str, ...]:
        if row.state == "waiting":
            return "", Text(row.step.title, "dim"), "", "", ""
        if row.state == "running":
            took = Text(span(time.time() - row.began_s), "yellow")
            return self._spinner, Text(row.step.title, "bold"), "", took, Text(row.words, "dim")
        height = str(row.height) if row.height is not None else ""
        at = stamp(max((row.at_s or 0) - self._started_s, 0))
        if row.state == "failed":
            return Text("✗", "bold red"), Text(row.step.title, "bold red"), height, at, Text(row.words, "red")
        return Text("✓", "green"), row.step.title, height, at, Text(row.words)


class PlainLines:
    """One line per step as it is seen; while one takes long, a line now and then that says so."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._started_s = time.time()
        self._step: Step | None = None
        self._began_s = 0.0
        self._words = ""
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._act = ""

    def __enter__(self) -> PlainLines:
        threading.Thread(target=self._heartbeat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def begin(self, step: Step) -> None:
        if step.act != self._act:
            self._act = step.act
            self._say(f"\n{_ACTS.get(step.act, step.act)}")
        with self._lock:
            self._step, self._began_s, self._words = step, time.time(), ""

    def detail(self, words: str) -> None:
        with self._lock:
            repeated, self._words = words.partition(" (")[0] == self._words.partition(" (")[0], words
        if not repeated:
            self._say(f"          … {words}")

    def waiting(self, words: str) -> None:
        with self._lock:
            self._words = words

    def seen(self, step: Step, seen: Seen, *, took_s: float) -> None:
        with self._lock:
            self._step = None
        block = f"block {seen.height}" if seen.height is not None else ""
        at = stamp(max((seen.at_s or 0) - self._started_s, 0))
        self._say(f"  ok   {at:>7}  {block:<10} {step.title}: {seen.words}")

    def failed(self, step: Step, words: str, *, took_s: float) -> None:
        with self._lock:
            self._step = None
        self._say(f"  FAIL {stamp(time.time() - self._started_s):>7}  {'':<10} {step.title}: {words.splitlines()[0]}")

    def _heartbeat(self) -> None:
        while not self._ended.wait(_HEARTBEAT_S):
            with self._lock:
                step, began_s, words = self._step, self._began_s, self._words
            if step is not None and time.time() - began_s >= _HEARTBEAT_S:
                self._say(
                    f"          … {step.title}: {span(time.time() - began_s)} so far{f', {words}' if words else ''}"
                )

    def _say(self, line: str) -> None:
        print(line, file=self._out, flush=True)
