"""Fixtures for every tier, and what the tests counted at the end of a run."""

from __future__ import annotations

import re

import pytest

from tests.rig.fixtures import deselect_without_rig, envtest, rig

__all__ = ["envtest", "rig"]
_LOGGED = re.compile(r"^\d{4}-\d\d-\d\d|[│╭╰]")
"""Lines of the log, which goes to standard output where nothing has set it up."""
_MOST_LINES = 12
_MOST_CHARS = 600


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    deselect_without_rig(config, items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests print is what they counted or measured: shown also where they passed, so that a run can be judged."""
    told: list[tuple[str, list[str]]] = []
    for report in terminalreporter.stats.get("passed", ()):
        lines = [line for line in report.capstdout.splitlines() if line.strip() and not _LOGGED.search(line)]
        if lines and report.when == "call":
            told.append((report.nodeid, lines))
    if not told:
        return
    terminalreporter.section("counted and measured")
    for name, lines in told:
        terminalreporter.write_line(name)
        for line in lines[:_MOST_LINES]:
            terminalreporter.write_line(f"    {line[:_MOST_CHARS]}")
