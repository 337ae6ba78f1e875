"""A TCP proxy in front of a node that does what networks and bad nodes do, switched while connections are open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from enum import Enum
from typing import Any

Rewrite = Callable[[str, dict[str, Any], dict[str, Any]], dict[str, Any]]
"""(method, params, answer) to the answer that is sent instead."""
_HEAD_END = b"\r\n\r\n"


class Fault(Enum):
    NONE = "none"
    DROP = "drop"
    """Connections are reset."""
    HALF_OPEN = "half open"
    """Nothing passes in either direction any more, and nobody is told: no FIN, no RST."""
    TRUNCATE = "truncate"
    """Half of the answer, then the end of the connection."""
    SERVER_ERROR = "5xx"


class ChainProxy:
    """Forwards one port. ``http`` takes JSON-RPC apart, which faults on answers need; websockets pass as they are."""

    def __init__(self, address: str, *, http: bool) -> None:
        host, _, port = address.rpartition("://")[2].rpartition(":")
        self._upstream = (host, int(port))
        self._http = http
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._fault = Fault.NONE
        self.delay_s = 0.0
        self.rewrite: Rewrite | None = None
        self.requests = 0

    async def __aenter__(self) -> ChainProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}" if self._http else f"127.0.0.1:{port}"

    @property
    def fault(self) -> Fault:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._fault = fault
        if fault is Fault.HALF_OPEN:
            self._flows.clear()
        else:
            self._flows.set()
        if fault is Fault.DROP:
            for task in list(self._tasks):
                task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        out: asyncio.StreamWriter | None = None
        try:
            if self.fault is Fault.DROP:
                return
            await self._flows.wait()
            back, out = await asyncio.open_connection(*self._upstream)
            if self._http:
                await self._requests(reader, writer, back, out)
            else:
                await self._both_ways(reader, writer, back, out)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for stream in filter(None, (writer, out)):
                stream.transport.abort()

    async def _both_ways(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        out: asyncio.StreamWriter,
    ) -> None:
        pumps = [asyncio.create_task(self._pump(reader, out)), asyncio.create_task(self._pump(back, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self._flows.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.fault is Fault.TRUNCATE:
                data = data[: len(data) // 2]
            writer.write(data)
            await writer.drain()
            if self.fault is Fault.TRUNCATE:
                return

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        out: asyncio.StreamWriter,
    ) -> None:
        while True:
            head = await reader.readuntil(_HEAD_END)
            body = await reader.readexactly(_length(head))
            self.requests += 1
            out.write(head + body)
            if b"upgrade: websocket" in head.lower():
                await self._both_ways(reader, writer, back, out)
                return
            answer_head = await back.readuntil(_HEAD_END)
            answer = await back.readexactly(_length(answer_head))
            await asyncio.sleep(self.delay_s)
            await self._flows.wait()
            if self.fault is Fault.SERVER_ERROR:
                page = b"<html>Bad Gateway</html>"
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page))
                await writer.drain()
                continue
            if self.rewrite is not None:
                answer_head, answer = _rewritten(self.rewrite, body, answer)
            if self.fault is Fault.TRUNCATE:
                writer.write(answer_head + answer[: len(answer) // 2])
                await writer.drain()
                return
            writer.write(answer_head + answer)
            await writer.drain()


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _rewritten(rewrite: Rewrite, request: bytes, answer: bytes) -> tuple[bytes, bytes]:
    asked = json.loads(request)
    body = json.dumps(rewrite(asked["method"], asked.get("params") or {}, json.loads(answer))).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head, body


def _error(words: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": "Internal error", "data": words}}


def another_chain(chain_id: str) -> Rewrite:
    def rewrite(method: str, _: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if method == "status":
            answer["result"]["node_info"]["network"] = chain_id
        return answer

    return rewrite


def higher(blocks: int) -> Rewrite:
    """A lie: it has none of these blocks."""

    def rewrite(method: str, _: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if method == "status":
            sync = answer["result"]["sync_info"]
            sync["latest_block_height"] = str(int(sync["latest_block_height"]) + blocks)
        return answer

    return rewrite


def stuck_at(height: int) -> Rewrite:
    """A node that went back to an earlier state, and stays there."""

    def rewrite(method: str, params: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if method == "status":
            answer["result"]["sync_info"]["latest_block_height"] = str(height)
        elif int(params.get("height") or 0) > height:
            asked = params["height"]
            return _error(f"height {asked} must be less than or equal to the current blockchain height {height}")
        return answer

    return rewrite


def pruned_below(height: int) -> Rewrite:
    def rewrite(method: str, params: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if method == "status":
            answer["result"]["sync_info"]["earliest_block_height"] = str(height)
        elif 0 < int(params.get("height") or 0) < height:
            return _error(f"height {params['height']} is not available, lowest height is {height}")
        return answer

    return rewrite


def catching_up(method: str, _: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    if method == "status":
        answer["result"]["sync_info"]["catching_up"] = True
    return answer
