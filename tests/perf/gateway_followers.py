"""A gateway with many followers of one chatty pod, half of which never read; prints what it cost as JSON.

The gateway runs alone in this process; the followers and the pod's writer are in a child, so that the growth measured
is the gateway's. Everything is bounded: lines written, statuses asked, time.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "operator"), str(ROOT)]

from gpulease.gateway import certs  # noqa: E402
from gpulease.gateway.app import Gateway, Identity, Limits  # noqa: E402
from gpulease.gateway.guard import Guard  # noqa: E402
from gpulease.gateway.jwt import Claims  # noqa: E402
from gpulease.gateway.logs import FollowTiming  # noqa: E402
from gpulease.gateway.sockets import SocketTiming  # noqa: E402
from gpulease.gateway.streams import StreamLimits  # noqa: E402
from gpulease.gateway.tls import server_context, small_buffers  # noqa: E402
from gpulease.ids import LeaseId  # noqa: E402
from gpulease.workload.names import lease_namespace  # noqa: E402
from tests.fakes.cluster import FakeCluster  # noqa: E402

OWNER, PROVIDER = "akash12vfxp232rx0z9rzn0hay9jptagk8c86d70xnrp", "akash1axf5x98seuklamgdcfz6srvt2x847kd5sfzqh0"
LEASE = LeaseId(OWNER, 1, 1, 1, PROVIDER)
LINES, LINE_BYTES = 150, 4_000
KERNEL_BYTES = 1 << 14
"""Small socket buffers, so that a reader that does not read is felt at once."""
STATUSES = 30


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Chatty(FakeCluster):
    """Its pod writes as fast as each reader reads, as a kubelet does from a file."""

    async def log_lines(self, *_: Any, **__: Any) -> AsyncGenerator[bytes, None]:
        words = b"x" * LINE_BYTES
        for number in range(LINES):
            yield f"2026-01-01T00:00:{number // 1000:02d}.{number:09d}Z ".encode() + words + b"\n"
        await asyncio.sleep(3600)
        yield b""


def cluster() -> FakeCluster:
    found = Chatty()
    meta = {"namespace": lease_namespace(LEASE), "labels": {"gpulease.dev/service": "web"}}
    found.put({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", **meta}})
    status = {"phase": "Running"}
    found.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-1", **meta}, "status": status})
    return found


async def serve() -> tuple[Gateway, asyncio.Server]:
    small_buffers()
    timing = SocketTiming(send_s=120, silent_s=600)
    limits = Limits(streams=StreamLimits(socket=timing, follow=FollowTiming(poll_s=1.0)))
    nowhere: Any = None
    gateway = Gateway(Identity(PROVIDER, "ns"), chain=nowhere, cluster=cluster(), now_s=time.time, limits=limits)

    async def known(*_: object) -> Claims:
        return Claims(OWNER)

    async def anybody(_: bytes) -> bool:
        return True

    gateway.auth.identify = known  # type: ignore[method-assign,assignment]
    made = certs.make(PROVIDER, hosts=("localhost",), now_ns=time.time_ns())
    runner = web.AppRunner(gateway.app(), access_log=None)
    await runner.setup()
    assert runner.server is not None
    guard = Guard(1000, 30.0, anybody, seen=gateway.seen)
    context = server_context(made.cert_pem, made.key_pem)
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
    server = await asyncio.get_running_loop().create_server(
        guard.protocols(runner.server), sock=listening, ssl=context, backlog=256
    )
    return gateway, server


async def follow(session: aiohttp.ClientSession, url: str, reads: bool, done: asyncio.Event) -> int:
    async with session.ws_connect(f"{url}/lease/1/1/1/logs?follow=true", max_msg_size=1 << 20) as opened:
        if not reads:
            connection = opened._response.connection
            assert connection is not None
            assert connection.transport is not None
            connection.transport.pause_reading()
            await done.wait()
            return 0
        for _ in range(LINES):
            await opened.receive(timeout=100)
        await done.wait()
        return LINES


async def children(url: str, followers: int) -> None:
    """The followers: half read everything, half nothing. Says what they saw; leaves when told to."""
    context = ssl._create_unverified_context()
    done = asyncio.Event()
    asked = answered = 0

    def small(address: Any) -> socket.socket:
        made = socket.socket(address[0], address[1])
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
        return made

    connector = aiohttp.TCPConnector(ssl=context, limit=0, socket_factory=small)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=1 << 14) as session:
        tasks = [asyncio.create_task(follow(session, url, n % 2 == 0, done)) for n in range(followers)]
        for _ in range(STATUSES):
            asked += 1
            async with session.get(f"{url}/address") as answer:
                answered += answer.status == 200
            await asyncio.sleep(0.1)
        print(json.dumps({"asked": asked, "answered": answered}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        done.set()
        counts = await asyncio.wait_for(asyncio.gather(*tasks), 100)
        print(json.dumps({"least_lines": min(counts[::2])}), flush=True)


async def main(followers: int) -> None:
    gateway, server = await serve()
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    before = resident_bytes()
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "child", url, str(followers), stdin=-1, stdout=-1
    )
    assert child.stdout is not None
    assert child.stdin is not None
    most = before

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, resident_bytes())
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    first = json.loads(await asyncio.wait_for(child.stdout.readline(), 100))
    async with asyncio.timeout(100):
        while sum(s.sent_total == LINES for s in gateway.streams.open) < followers // 2:
            await asyncio.sleep(0.05)
    open_now = gateway.streams.open_by_lease.total()
    stalled = sum(s.sent_total < LINES for s in gateway.streams.open)
    child.stdin.write(b"\n")
    last = json.loads(await asyncio.wait_for(child.stdout.readline(), 100))
    watching.cancel()
    child.kill()
    await child.wait()
    print(
        json.dumps(
            {
                "followers": open_now,
                "stalled": stalled,
                "growth_bytes": most - before,
                "statuses_asked": first["asked"],
                "statuses_answered": first["answered"],
                "lines_written": LINES,
                **last,
            }
        )
    )


if __name__ == "__main__":
    if sys.argv[1] == "child":
        asyncio.run(children(sys.argv[2], int(sys.argv[3])))
    else:
        asyncio.run(main(int(sys.argv[1])))
