"""Logs and events over time: restarts, pods made later, breaks, slow and silent readers, the end of the lease."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from gpulease.errors import GatewayRefused, GatewayUnreachable
from gpulease.gateway import tenant
from gpulease.gateway.app import Limits
from gpulease.gateway.client import Caller
from gpulease.gateway.logs import FollowTiming
from gpulease.gateway.sockets import SocketTiming
from gpulease.gateway.streams import StreamLimits
from gpulease.ids import LeaseId
from gpulease.kube.refs import Ref
from gpulease.workload.names import lease_namespace
from tests.contract.test_chain_client import PROVIDER, TENANT
from tests.contract.test_gateway import DSEQ, LEASE, Stand, stand
from tests.contract.test_gateway_limits import bearer

pytestmark = pytest.mark.contract
NAMESPACE = lease_namespace(LEASE)
LOGS = f"/lease/{DSEQ}/1/1/logs"
FOLLOW = FollowTiming(poll_s=0.05, first_wait_s=0.02, longest_wait_s=0.05)


def limits(*, at_once: int = 512, per_lease: int = 256, **socket: float) -> Limits:
    timing = SocketTiming(**{"ping_s": 0.1, "silent_s": 5.0, **socket})
    return Limits(pods_age_s=0.01, streams=StreamLimits(at_once, per_lease, timing, FOLLOW))


def caller(here: Stand, key: Any = TENANT) -> Caller:
    return Caller(here.uri, PROVIDER.address, key, here.published, now_s=time.time(), timeout_s=10)


@asynccontextmanager
async def hosted(limits_: Limits | None = None) -> AsyncIterator[Stand]:
    async with stand(limits=limits_ or limits()) as here:
        await here.send()
        here.deployed()
        yield here


async def taken(lines: AsyncGenerator[Any, None], count: int) -> list[Any]:
    async with asyncio.timeout(10):
        return [await anext(lines) for _ in range(count)]


async def wait_for(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_followed_log_goes_on_over_restarts_and_with_pods_made_later() -> None:
    async with hosted() as here:
        first = here.pod("web-1")
        first.write("before")
        first.write("start")
        async with aclosing(tenant.logs(caller(here), LEASE, follow=True, tail_lines=1)) as lines:
            assert [line.message for line in await taken(lines, 1)] == ["start"]
            first.restart()
            first.write("again")
            assert await taken(lines, 1) == [tenant.LogLine("web-1", "again")]
            here.pod("web-2").write("new pod")
            assert await taken(lines, 1) == [tenant.LogLine("web-2", "new pod")]
            here.cluster.remove(Ref("v1", "Pod", "web-1", NAMESPACE))
            first.end()
            here.cluster.remove(Ref("apps/v1", "Deployment", "web", NAMESPACE))
            async with asyncio.timeout(10):
                assert [line async for line in lines] == []
        await wait_for(lambda: here.server.gateway.streams.open_by_lease.total() == 0)


async def test_a_broken_reading_goes_on_where_it_was() -> None:
    async with hosted() as here:
        log = here.pod("web-1")
        async with aclosing(tenant.logs(caller(here), LEASE, follow=True)) as lines:
            for number in range(3):
                log.write(f"{number}")
            assert [line.message for line in await taken(lines, 3)] == ["0", "1", "2"]
            await wait_for(lambda: log.readers == 1)
            log.cut()
            log.write("3")
            assert [line.message for line in await taken(lines, 1)] == ["3"]
        assert [since is not None for _, since in log.opened] == [False, True]


async def test_an_unreachable_cluster_is_waited_for_while_following() -> None:
    async with hosted() as here:
        log = here.pod("web-1")
        log.write("one")
        async with aclosing(tenant.logs(caller(here), LEASE, follow=True)) as lines:
            assert len(await taken(lines, 1)) == 1
            here.cluster.down = True
            log.cut()
            await asyncio.sleep(0.3)
            here.cluster.down = False
            log.write("two")
            assert [line.message for line in await taken(lines, 1)] == ["two"]


async def test_ends_and_what_is_wrong_have_their_codes() -> None:
    async with hosted() as here:
        with pytest.raises(GatewayRefused, match="no running pods") as none:
            await taken(tenant.logs(caller(here), LEASE), 1)
        assert none.value.status == 4000
        here.pod("web-1").write("x")
        other = LeaseId(TENANT.address, DSEQ + 1, 1, 1, PROVIDER.address)
        for stream in (tenant.logs(caller(here), other), tenant.events(caller(here), other, follow=True)):
            with pytest.raises(GatewayRefused) as unknown:
                await taken(stream, 1)
            assert unknown.value.status == 4001
        here.cluster.down = True
        await asyncio.sleep(0.05)
        for stream in (tenant.logs(caller(here), LEASE), tenant.events(caller(here), LEASE)):
            with pytest.raises(GatewayRefused) as silent:
                await taken(stream, 1)
            assert silent.value.status == 4002


def event(name: str, about: str, note: str) -> dict[str, Any]:
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "type": "Normal",
        "reason": "Pulled",
        "note": note,
        "regarding": {"kind": "Pod", "namespace": NAMESPACE, "name": about},
    }


async def test_events_come_present_ones_first_then_each_once_over_ended_watches() -> None:
    async with hosted() as here:
        here.cluster.put(event("a", "web-1", "one"))
        async with aclosing(tenant.events(caller(here), LEASE, follow=True)) as events:
            assert [e["note"] for e in await taken(events, 1)] == ["one"]
            here.cluster.put(event("b", "web-1", "two"))
            assert [e["note"] for e in await taken(events, 1)] == ["two"]
            here.cluster.end_watches()
            here.cluster.put(event("c", "db-1", "three"))
            assert [e["note"] for e in await taken(events, 1)] == ["three"]
        assert [e["note"] async for e in tenant.events(caller(here), LEASE)] == ["one", "two", "three"]
        only = [e["note"] async for e in tenant.events(caller(here), LEASE, services=["web"])]
        assert only == ["one", "two"]
        assert "reportingController" not in (await taken(tenant.events(caller(here), LEASE), 1))[0]


async def test_a_reader_that_does_not_read_is_cut_and_the_others_are_not() -> None:
    async with hosted(limits(send_s=0.3)) as here:
        log = here.pod("web-1")
        line = "x" * 60_000
        async with here.socket(f"{LOGS}?follow=true", token=bearer()) as slow:
            slow._autoping = False
            reading = slow._response.connection.transport
            assert reading is not None
            reading.pause_reading()
            async with aclosing(tenant.logs(caller(here), LEASE, follow=True)) as lines:

                async def write() -> None:
                    for _ in range(240):
                        log.write(line)
                        await asyncio.sleep(0)

                writing = asyncio.create_task(write())
                seen = len(await taken(lines, 240))
                await writing
                assert seen == 240
                await wait_for(lambda: here.server.gateway.streams.cut_total["logs/reader too slow"] == 1)
                reading.resume_reading()
                async with asyncio.timeout(10):
                    while (message := await slow.receive()).type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.PING):
                        pass
                assert (message.data, message.extra) == (4000, "reader too slow")


async def test_a_client_that_answers_no_pings_is_dropped() -> None:
    async with hosted(limits(silent_s=0.3)) as here:
        here.pod("web-1")
        async with here.socket(f"{LOGS}?follow=true", token=bearer()) as socket:
            socket._autoping = False
            began = time.monotonic()
            async with asyncio.timeout(5):
                while (message := await socket.receive()).type is aiohttp.WSMsgType.PING:
                    pass
            assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
            assert time.monotonic() - began >= 0.25
        async with here.socket(f"{LOGS}?follow=true", token=bearer()) as socket:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.8):
                    await socket.receive()


async def test_what_is_no_upgrade_is_plain_http() -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    cases: list[tuple[dict[str, str], int]] = [
        ({}, 400),
        ({"Connection": "keep-alive, Upgrade"}, 426),
        ({**upgrade, "Sec-WebSocket-Version": "8"}, 400),
        ({**upgrade, "Sec-WebSocket-Key": ""}, 400),
        ({**upgrade, "Sec-WebSocket-Key": "short"}, 400),
        ({**upgrade, "Origin": "https://elsewhere.example"}, 403),
        ({**upgrade, "Origin": "https://[broken"}, 403),
    ]
    async with hosted() as here:
        here.pod("web-1")
        context = caller(here)._pinned(await here.published(PROVIDER.address))
        async with aiohttp.ClientSession() as session:
            for headers, wanted in cases:
                given = headers | {"Authorization": bearer()}
                async with session.get(here.uri + LOGS, headers=given, ssl=context) as answer:
                    assert answer.status == wanted, headers
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
        async with here.socket(f"{LOGS}?follow=true", token=bearer(), Origin=here.uri) as socket:
            assert not socket.closed


async def test_there_is_a_limit_on_streams_and_requests_go_on_beside_them() -> None:
    async with hosted(limits(per_lease=2)) as here:
        here.pod("web-1").write("x")
        async with (
            here.socket(f"{LOGS}?follow=true", token=bearer()) as one,
            here.socket(f"{LOGS}?follow=true", token=bearer()) as two,
        ):
            await asyncio.gather(one.receive(), two.receive())
            with pytest.raises(GatewayRefused, match="too many streams") as refused:
                await taken(tenant.logs(caller(here), LEASE, follow=True), 1)
            assert refused.value.status == 503
            assert here.server.gateway.in_flight == 0
            assert (await here.ask("GET", f"/lease/{DSEQ}/1/1/status", token=bearer()))[0] == 200
        await wait_for(lambda: here.server.gateway.streams.open_by_lease.total() == 0)


async def test_a_stopping_gateway_says_so() -> None:
    async with hosted() as here:
        here.pod("web-1")
        stream = tenant.logs(caller(here), LEASE, follow=True)
        reading = asyncio.create_task(taken(stream, 1))
        await wait_for(lambda: here.server.gateway.streams.open_by_lease.total() == 1)
        await here.server.stop()
        with pytest.raises((GatewayRefused, GatewayUnreachable)) as ended:
            await reading
        assert getattr(ended.value, "status", 1001) == 1001


async def test_a_token_for_some_services_sees_those_alone() -> None:
    deployments = [{"dseq": DSEQ, "scope": ["logs", "events", "shell"], "services": ["db"]}]
    permission = {"provider": PROVIDER.address, "access": "granular", "deployments": deployments}
    held = bearer({"access": "granular", "permissions": [permission]})
    async with hosted() as here:
        here.pod("web-1").write("not for you")
        here.pod("db-1", service="db").write("for you")
        here.cluster.log_of(NAMESPACE, "db-1").end()
        here.cluster.put(event("a", "web-1", "not for you"))
        here.cluster.put(event("b", "db-1", "for you"))
        for route, field in (("logs", "message"), ("kubeevents", "note")):
            got = []
            async with here.socket(f"/lease/{DSEQ}/1/1/{route}", token=held) as socket:
                while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                    got.append(json.loads(message.data)[field])
            assert (got, socket.close_code) == (["for you"], 1000)
            status, _, _ = await here.ask("GET", f"/lease/{DSEQ}/1/1/{route}?service=web", token=held)
            assert status == 401
        shell = f"/lease/{DSEQ}/1/1/shell?cmd0=ls&service=web&podIndex=0&tty=0&stdin=0"
        assert (await here.ask("GET", shell, token=held))[0] == 401
