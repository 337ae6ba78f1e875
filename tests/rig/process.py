"""Processes that end when they are told to: own group, log file, and a pid file that outlives us.

The pid file also holds the process's start time, so that a stale file never ends a stranger with the same number.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.rig.errors import RigError

_TAIL_LINES = 15
MARK = "GPULEASE_RIG_RUN"
"""In the environment of all we start: the run folder. Finds what was killed before its pid file was written."""


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def tail(path: Path, lines: int = _TAIL_LINES) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def wait_for(what: str, check: Callable[[], bool], *, timeout_s: float, interval_s: float = 0.1) -> None:
    """Poll until ``check`` is true; a RigError naming ``what`` otherwise."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            raise RigError(f"{what} did not happen within {timeout_s:.0f} s")
        time.sleep(interval_s)


def _start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None where there is none or only a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def alive(pid: int, ticks: int | None = None) -> bool:
    found = _start_ticks(pid)
    return found is not None and (ticks is None or ticks == found)


def read_pid_file(path: Path) -> tuple[int, int] | None:
    """Pid and start time of a process that still runs."""
    try:
        pid, ticks = map(int, path.read_text().split())
    except (OSError, ValueError):
        return None
    return (pid, ticks) if alive(pid, ticks) else None


def write_pid_file(path: Path, pid: int) -> None:
    path.write_text(f"{pid} {_start_ticks(pid) or 0}\n")


def marked(run_dir: Path) -> list[tuple[int, int]]:
    """Pid and start time of every process, other than this one, with ``run_dir`` as its mark."""
    wanted = f"{MARK}={run_dir}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        pid = int(path.parent.name)
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        ticks = _start_ticks(pid)
        if wanted in words and ticks is not None and pid != os.getpid():
            found.append((pid, ticks))
    return found


def end_group(pid: int, ticks: int, *, grace_s: float) -> None:
    """SIGTERM to the group, SIGKILL after the grace. The group's leader is ``pid``."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        if not alive(pid, ticks):
            return
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience_s
        while alive(pid, ticks) and time.monotonic() < deadline:
            time.sleep(0.02)


class Process:
    """A component or one of ours (operator, agent …). Output goes to ``log``."""

    def __init__(self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None, run_dir: Path, log_dir: Path):
        self.name = name
        self.log = log_dir / f"{name}.log"
        self.pid_file = run_dir / f"{name}.pid"
        self._argv = [str(part) for part in argv]
        with self.log.open("ab") as out:
            try:
                self._popen = subprocess.Popen(
                    self._argv,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **(env or {}), MARK: str(run_dir)},
                    start_new_session=True,
                )
            except OSError as error:
                raise RigError(f"{name} could not be started: {error}") from error
        self.pid = self._popen.pid
        write_pid_file(self.pid_file, self.pid)

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        return self._popen.poll()

    def check(self) -> None:
        """A RigError with the log's end if the process ended by itself."""
        code = self._popen.poll()
        if code is not None:
            raise RigError(f"{self.name} ended with {code}; the end of {self.log}:\n{tail(self.log)}")

    def wait_until(self, what: str, check: Callable[[], bool], *, timeout_s: float) -> None:
        def both() -> bool:
            self.check()
            return check()

        try:
            wait_for(what, both, timeout_s=timeout_s)
        except RigError as error:
            if "did not happen" not in str(error):
                raise
            raise RigError(f"{error}; the end of {self.log}:\n{tail(self.log)}") from None

    def kill9(self) -> None:
        """The whole group at once, as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait(10)
        self.pid_file.unlink(missing_ok=True)

    def terminate(self, *, grace_s: float = 10.0) -> int:
        """SIGTERM, SIGKILL after the grace; gives the exit status (negative: the signal)."""
        if self._popen.poll() is None:
            os.killpg(self.pid, signal.SIGTERM)
        try:
            code = self._popen.wait(grace_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            code = self._popen.wait(10)
        self.pid_file.unlink(missing_ok=True)
        return code
