"""The person's terminal at one end of a shell: raw while a remote terminal is used, and put back whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty as tty_module
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Protocol

from gpulease.errors import GatewayUnreachable

_CHUNK_BYTES = 4096
_DEFAULT_SIZE = (80, 24)


class Session(Protocol):
    """What is needed of :class:`gpulease.gateway.tenant.Shell`."""

    async def write(self, data: bytes) -> None: ...

    async def resize(self, columns: int, rows: int) -> None: ...


class Terminal:
    """Copies standard input to the session while entered; ``show`` writes what comes back."""

    def __init__(self, session: Session, *, stdin: bool, tty: bool) -> None:
        self._session = session
        self._stdin = stdin
        self._tty = tty
        self._saved: list[Any] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = False
        self._fd = sys.stdin.fileno() if stdin else -1

    def __enter__(self) -> Terminal:
        loop = asyncio.get_running_loop()
        if self._tty and os.isatty(self._fd):
            self._saved = termios.tcgetattr(self._fd)
            tty_module.setraw(self._fd)
            loop.add_signal_handler(signal.SIGWINCH, self._resized)
        if self._tty:
            self._resized()
        if self._stdin:
            self._spawn(self._copy())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        loop = asyncio.get_running_loop()
        if self._reading:
            loop.remove_reader(self._fd)
        for task in self._tasks:
            task.cancel()
        if self._saved is not None:
            loop.remove_signal_handler(signal.SIGWINCH)
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)

    def show(self, is_error: bool, data: bytes) -> None:
        stream = sys.stderr.buffer if is_error else sys.stdout.buffer
        stream.write(data)
        stream.flush()

    def _resized(self) -> None:
        try:
            columns, rows = os.get_terminal_size(self._fd)
        except OSError:
            columns, rows = _DEFAULT_SIZE
        self._spawn(self._session.resize(columns, rows))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        async def quietly() -> None:
            with contextlib.suppress(GatewayUnreachable):
                await work

        task = asyncio.create_task(quietly())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _copy(self) -> None:
        """Until end of file. A chunk is read when the one before has been sent: whoever types too fast waits."""
        while data := await self._chunk():
            await self._session.write(data)

    async def _chunk(self) -> bytes:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()

        def readable() -> None:
            loop.remove_reader(self._fd)
            self._reading = False
            if not ready.done():
                ready.set_result(None)

        try:
            loop.add_reader(self._fd, readable)
            self._reading = True
        except (OSError, NotImplementedError):
            return await asyncio.to_thread(os.read, self._fd, _CHUNK_BYTES)  # a plain file cannot be waited for
        await ready
        return os.read(self._fd, _CHUNK_BYTES)
