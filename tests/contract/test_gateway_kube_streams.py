"""Logs, watches and exec over HTTP, against a double of the API server's side of these protocols."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio import client as kube_client

from gpulease.errors import KubeError, KubeNotFound, KubeUnreachable
from gpulease.kube.client import Cluster
from gpulease.kube.exec import STDERR, STDOUT, ExecEnd, exit_code
from gpulease.kube.transport import CallPolicy

pytestmark = pytest.mark.contract
Handler = Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]


@asynccontextmanager
async def cluster(handler: Handler) -> AsyncIterator[tuple[Cluster, list[web.Request]]]:
    """A cluster of which ``handler`` answers every call."""
    asked: list[web.Request] = []

    async def noted(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", noted)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    tokens = iter(["old", "new", "newer"])

    async def connect() -> Any:
        configuration = kube_client.Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
        configuration.api_key = {"BearerToken": f"Bearer {next(tokens)}"}
        configuration.retries = None
        return kube_client.ApiClient(configuration)

    found = Cluster.connect(how=connect, policy=CallPolicy(deadline_s=3, attempt_s=3))
    try:
        yield found, asked
    finally:
        await found.close()
        await runner.cleanup()


async def test_log_lines_are_whole_and_long_ones_come_in_pieces() -> None:
    lines = [b"t1 one\n", b"t2 " + b"x" * 70_000 + b"\n", "t3 größer\n".encode(), b"t4 no end"]

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        raw = b"".join(lines)
        for begin in range(0, len(raw), 1000):
            await response.write(raw[begin : begin + 1000])
        return response

    async with cluster(handler) as (found, asked):
        reading = found.log_lines("n", "p", container="c", follow=True, tail_lines=5, since="2026-01-01T00:00:00Z")
        got = [line async for line in reading]
        assert b"".join(got) == b"".join(lines)
        assert max(len(line) for line in got) <= 1 << 16
        assert asked[0].path == "/api/v1/namespaces/n/pods/p/log"
        assert dict(asked[0].query) == {
            "container": "c",
            "follow": "true",
            "tailLines": "5",
            "sinceTime": "2026-01-01T00:00:00Z",
            "timestamps": "true",
        }


async def test_a_stream_asks_again_with_new_credentials_once() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.headers["authorization"] == "Bearer old":
            return web.Response(status=401)
        return web.Response(text="t line\n")

    async with cluster(handler) as (found, asked):
        assert [line async for line in found.log_lines("n", "p", container="c", follow=False)] == [b"t line\n"]
        assert [r.headers["authorization"] for r in asked] == ["Bearer old", "Bearer new"]


async def test_a_refused_stream_has_its_kind() -> None:
    body = {"kind": "Status", "reason": "NotFound", "message": 'pods "p" not found', "details": {"name": "p"}}

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=int(request.query.get("tailLines", "404")))

    async with cluster(handler) as (found, _):
        with pytest.raises(KubeNotFound):
            await anext(found.log_lines("n", "p", container="c", follow=True))
        with pytest.raises(KubeError) as bad:
            await anext(found.log_lines("n", "p", container="c", follow=True, tail_lines=400))
        assert bad.value.status == 400
        with pytest.raises(KubeNotFound):
            await found.exec("n", "p", container="c", command=["x"], stdin=False, tty=False)


async def test_a_watch_gives_changes_and_says_when_its_version_is_gone() -> None:
    def change(type_: str, **body: Any) -> bytes:
        return json.dumps({"type": type_, "object": body}).encode() + b"\n"

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.query["resourceVersion"] == "broken":
            return web.Response(text="what\n")
        gone = change("ERROR", code=410, reason="Expired") if request.query["resourceVersion"] == "1" else b""
        return web.Response(body=change("ADDED", metadata={"name": "a" * 100_000}) + gone)

    async with cluster(handler) as (found, asked):
        async with aclosing(found.watch("v1", "Event", namespace="n", resource_version="1")) as changes:
            assert len((await anext(changes))[1]["metadata"]["name"]) == 100_000
            with pytest.raises(KubeError) as gone:
                await anext(changes)
        assert gone.value.status == 410
        assert [t async for t, _ in found.watch("v1", "Event", namespace="n", resource_version="5")] == ["ADDED"]
        with pytest.raises(KubeUnreachable):
            await anext(found.watch("v1", "Event", namespace="n", resource_version="broken"))
        assert asked[0].query["watch"] == "true"


def failure(code: str) -> dict[str, Any]:
    causes = [{"reason": "ExitCode", "message": code}]
    return {"status": "Failure", "reason": "NonZeroExitCode", "message": "it failed", "details": {"causes": causes}}


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io"])
async def test_a_command_is_told_and_heard_over_the_channels(protocol: str) -> None:
    heard: list[bytes] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=[protocol])
        await socket.prepare(request)
        await socket.send_bytes(b"\x01")
        await socket.send_bytes(b"\x01out")
        await socket.send_bytes(b"\x02err")
        for _ in range(3 if protocol.startswith("v5") else 2):
            heard.append((await socket.receive()).data)
        status = json.dumps(failure("3")).encode()
        await socket.send_bytes(b"\x03" + status[:20])
        await socket.send_bytes(b"\x03" + status[20:])
        await socket.close()
        return socket

    async with cluster(handler) as (found, asked):
        command = await found.exec("n", "p", container="c", command=["sh", "-c", "a&b"], stdin=True, tty=False)
        assert [await command.read(), await command.read()] == [(STDOUT, b"out"), (STDERR, b"err")]
        await command.write(b"in")
        await command.resize(80, 24)
        assert await command.end_stdin() is protocol.startswith("v5")
        assert await command.read() == ExecEnd(3, "it failed")
        await command.close()
        assert heard[:2] == [b"\x00in", b'\x04{"Width": 80, "Height": 24}']
        assert heard[2:] == ([b"\xff\x00"] if protocol.startswith("v5") else [])
        assert asked[0].query.getall("command") == ["sh", "-c", "a&b"]
        assert {k: asked[0].query[k] for k in ("stdin", "stdout", "stderr", "tty", "container")} == {
            "stdin": "true",
            "stdout": "true",
            "stderr": "true",
            "tty": "false",
            "container": "c",
        }


async def test_a_connection_that_ends_early_is_unknown_and_not_success() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=["v5.channel.k8s.io"])
        await socket.prepare(request)
        await socket.send_bytes(b'\x03{"status":')
        await socket.close()
        return socket

    async with cluster(handler) as (found, _):
        command = await found.exec("n", "p", container="c", command=["x"], stdin=False, tty=True)
        with pytest.raises(KubeUnreachable, match="ended before"):
            await command.read()
        await command.close()


async def test_an_api_server_without_the_protocol_is_refused() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close()
        return socket

    async with cluster(handler) as (found, _):
        with pytest.raises(KubeError, match="speaks none of"):
            await found.exec("n", "p", container="c", command=["x"], stdin=False, tty=False)


async def test_many_streams_leave_room_for_calls() -> None:
    release = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/version":
            return web.json_response({"gitVersion": "v1"})
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"t first\n")
        await release.wait()
        return response

    async with cluster(handler) as (found, _):
        readings = [found.log_lines("n", f"p{n}", container="c", follow=True) for n in range(150)]
        await asyncio.gather(*(anext(reading) for reading in readings))
        assert await found.version() == {"gitVersion": "v1"}
        release.set()
        for reading in readings:
            await reading.aclose()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (failure("3"), 3),
        (failure("-1"), -1),
        (failure("--1"), None),
        (failure(""), None),
        (failure("9" * 30), None),
        ({"details": {"causes": ["x", {"reason": "Other", "message": "1"}]}}, None),
        ({"details": 5}, None),
        ({}, None),
    ],
)
def test_an_exit_code_is_read_or_unknown(status: dict[str, Any], code: int | None) -> None:
    assert exit_code(status) == code
