"""What a connection must be before a byte of it is understood: one of not too many, with a certificate that holds.

A client certificate is held against the chain right after the handshake, while nothing is read; one that does not hold
ends the connection, as at the peer. When the chain is silent the connection stands, and its requests are told so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

Vet = Callable[[bytes], Awaitable[bool]]
"""Whether a client's certificate, as DER, may come in."""


@dataclass(slots=True)
class Guard:
    """``seen`` holds the transports that have sent a whole request head; others are cut after ``head_s``."""

    at_once: int
    head_s: float
    vet: Vet
    connections: int = 0
    refused_total: int = 0
    seen: WeakSet[object] = field(default_factory=WeakSet)

    def protocols(self, make: Callable[[], Any], *, head: bool = True) -> Callable[[], asyncio.BaseProtocol]:
        """A factory for ``create_server``; without ``head`` only the number is limited."""

        def build() -> asyncio.BaseProtocol:
            return _Guarded(make(), self, head) if self.connections < self.at_once else _Closed()

        return build


class _Guarded(asyncio.Protocol):
    """Passes everything on to the inner protocol once the connection may come in."""

    def __init__(self, inner: Any, guard: Guard, head: bool) -> None:
        self._inner = inner
        self._guard = guard
        self._head = head
        self._timer: asyncio.TimerHandle | None = None
        self._vetting: asyncio.Task[None] | None = None
        self._inside = False

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        if self._inside:
            self._inner.eof_received()
        return None

    def pause_writing(self) -> None:
        if self._inside:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inside:
            self._inner.resume_writing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._guard.connections += 1
        secured = transport.get_extra_info("ssl_object")
        der = secured.getpeercert(binary_form=True) if secured is not None else None
        self._timer = asyncio.get_running_loop().call_later(self._guard.head_s, self._check, transport)
        if der is None:
            self._enter(transport)
        else:
            transport.pause_reading()
            self._vetting = asyncio.get_running_loop().create_task(self._vet(transport, der))

    async def _vet(self, transport: asyncio.Transport, der: bytes) -> None:
        if not await self._guard.vet(der):
            self._guard.refused_total += 1
            transport.abort()
        elif not transport.is_closing():
            self._enter(transport)
            transport.resume_reading()

    def _enter(self, transport: asyncio.Transport) -> None:
        self._inside = True
        self._inner.connection_made(transport)

    def _check(self, transport: asyncio.Transport) -> None:
        if not self._inside or (self._head and transport not in self._guard.seen):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.connections -= 1
        for waiting in (self._timer, self._vetting):
            if waiting is not None:
                waiting.cancel()
        if self._inside:
            self._inner.connection_lost(exc)


class _Closed(asyncio.Protocol):
    """For connections above the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()
