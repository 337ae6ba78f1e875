"""What is said after the steps: money, figures, or which step failed and what the logs say about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.demo.books import Row
from tests.demo.figures import Figure
from tests.demo.model import StepFailed
from tests.rig.process import tail

_LOUD = re.compile(r"\b(warning|error|critical|fatal|traceback|exception)\b|^[EW]\d{4} |Error:", re.IGNORECASE)
_MOST_LINES = 12


def money(console: Console, rows: Sequence[Row]) -> None:
    table = Table(title="Balances, in micro-units", title_justify="left", box=None, padding=(0, 1), header_style="dim")
    for name in ("account", "unit", "before", "after", "change", "of it fees", "ledger − bank"):
        table.add_column(name, justify="left" if name in ("account", "unit") else "right", no_wrap=True)
    for row in rows:
        numbers = (row.before, row.after, row.after - row.before, -row.fees, row.ledger - row.after)
        table.add_row(row.account, row.denom, *(f"{number:,}".replace(",", " ") for number in numbers))
    console.print()
    console.print(table)


def numbers(console: Console, found: Sequence[Figure]) -> None:
    table = Table(title="Figures of this run", title_justify="left", box=None, padding=(0, 2), header_style="dim")
    for name in ("figure", "seen", "bar", ""):
        table.add_column(name)
    for one in found:
        verdict = Text("") if one.good is None else Text("met", "green") if one.good else Text("missed", "yellow")
        table.add_row(one.name, one.value, one.bar, verdict)
    console.print()
    console.print(table)


def failure(console: Console, failed: StepFailed, *, log: Path | None, logs: Path) -> None:
    """``log`` is that of the part to look at, read now; ``logs`` is where all of them will be."""
    console.print()
    console.print(Text(f"Failed at step: {failed.step.title}", "bold red"))
    console.print(Text(str(failed)))
    lines = loud_lines(log) if log is not None and "the end of" not in str(failed) else []
    if lines and log is not None:
        console.print(Text(f"\nfrom {log.name}:", "bold"))
        for line in lines:
            console.print(Text(f"  {line}"), overflow="ellipsis", no_wrap=True)
    console.print(f"\nAll logs: {logs}")


def loud_lines(log: Path) -> list[str]:
    """Warnings and errors at the log's end; its last lines where there are none."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return []
    loud = [line for line in lines if _LOUD.search(line)]
    return loud[-_MOST_LINES:] if loud else tail(log, _MOST_LINES).splitlines()
