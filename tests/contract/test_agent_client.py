"""The operator's client against the agent's real HTTP face."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gpulease.agent.client import AgentClient, Cursor
from gpulease.agent.collector import UsageCollector
from gpulease.agent.loop import Agent, AgentPolicy
from gpulease.agent.serve import build_app
from gpulease.agent.store import RecordStore
from gpulease.errors import AgentUnreachable, BadInput
from gpulease.meter.records import GENESIS, verify_chain
from gpulease.meter.usage import by_namespace
from gpulease.store.journal import Journal
from tests.unit.test_agent import A, Clock, Node

pytestmark = pytest.mark.contract


class Bench:
    """An agent behind a real socket."""

    def __init__(self, directory: Path) -> None:
        self.clock, self.node = Clock(), Node(held=frozenset([A]))
        self.store = RecordStore(directory, keep_taken=3)
        policy = AgentPolicy(node="n1", sample_s=1.0, record_s=1.0)
        self.agent = Agent(policy, clock=self.clock, store=self.store, nvml=self.node, kubelet=self.node)
        self.app = build_app(self.agent, self.store, self.clock, token="secret")

    async def looks(self, count: int) -> None:
        for _ in range(count):
            self.clock.tick()
            await self.agent.look()


async def serve(app: web.Application) -> tuple[web.AppRunner, str]:
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def test_records_are_pulled_once_each_and_checked(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    bench = Bench(tmp_path)
    await bench.looks(6)
    runner, url = await serve(bench.app)
    client = AgentClient(url, session, token="secret")
    page = await client.records(Cursor(), limit=4)
    assert (page.node, page.more, page.lost, page.cursor.seq, len(page.records)) == ("n1", True, 0, 4, 4)
    rest = await client.records(page.cursor)
    assert (rest.more, rest.cursor.seq) == (False, 6)
    assert by_namespace([*page.records, *rest.records])["ns-a"].gpu_ms == 5000
    assert (await client.records(rest.cursor)).records == ()
    assert (await client.allocations())[0]["device_uuid"] == "GPU-0"
    assert len(await client.devices()) == 2
    bench.node.held = None
    await bench.looks(1)
    with pytest.raises(AgentUnreachable, match="does not know"):
        await client.allocations()
    await runner.cleanup()
    with pytest.raises(AgentUnreachable, match="did not answer"):
        await client.records(rest.cursor)
    bench.store.close()


async def test_a_late_reader_learns_what_was_dropped(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    bench = Bench(tmp_path)
    await bench.looks(10)
    bench.store.take(10)
    runner, url = await serve(bench.app)
    page = await AgentClient(url, session, token="secret").records(Cursor())
    assert (page.lost, [r.seq for r in page.records]) == (7, [8, 9, 10])
    await runner.cleanup()
    bench.store.close()


async def test_a_wrong_token_is_told(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    bench = Bench(tmp_path)
    runner, url = await serve(bench.app)
    with pytest.raises(AgentUnreachable, match="token"):
        await AgentClient(url, session, token="wrong").records(Cursor())
    await runner.cleanup()
    bench.store.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"public_key": "00" * 32}, "do not hold"),
        ({"head": 0}, "older copy"),
        ({"records": "tamper"}, "do not hold"),
        ({"records": "skip"}, "do not hold"),
        ({"node": "other"}, "another node"),
        ({"records": 5}, "no page"),
    ],
)
async def test_a_page_that_does_not_hold_is_refused_whole(
    tmp_path: Path, session: aiohttp.ClientSession, change: dict[str, Any], words: str
) -> None:
    bench = Bench(tmp_path)
    await bench.looks(5)
    honest_runner, honest = await serve(bench.app)
    client = AgentClient(honest, session, token="secret")
    first = await client.records(Cursor(), limit=2)
    async with session.get(f"{honest}/v1/records?after=2", headers={"Authorization": "Bearer secret"}) as answer:
        page = await answer.json()
    records = page["records"]
    if change.get("records") == "tamper":
        change = {"records": [{**records[0], "gpu_ms": 1}, *records[1:]]}
    elif change.get("records") == "skip":
        change = {"records": records[1:]}

    async def lie(request: web.Request) -> web.Response:
        return web.Response(text=json.dumps({**page, **change}), content_type="application/json")

    app = web.Application()
    app.router.add_get("/v1/records", lie)
    runner, url = await serve(app)
    cursor = Cursor(first.cursor.seq, first.cursor.hash)
    with pytest.raises(BadInput, match=words):
        await AgentClient(url, session).records(cursor)
    if "public_key" in change:
        with pytest.raises(BadInput, match="another key"):
            await AgentClient(url, session).records(first.cursor)
    await runner.cleanup()
    await honest_runner.cleanup()
    bench.store.close()


async def test_the_collector_takes_each_record_once_and_survives_a_crash(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    bench = Bench(tmp_path / "agent")
    await bench.looks(6)
    runner, url = await serve(bench.app)
    client = AgentClient(url, session, token="secret")
    journal = Journal(tmp_path / "operator.db")
    collector = UsageCollector(journal)
    assert collector.usage("ns-a") is None
    taken = await collector.collect("n1", client)
    assert (taken.new, taken.lost, taken.behind, taken.namespaces) == (6, 0, False, {"ns-a"})
    assert (await collector.collect("n1", client)).new == 0
    await bench.looks(2)

    class Crash(Exception):
        pass

    put = journal.put

    def crash(kind: str, *args: Any, **kwargs: Any) -> None:
        if kind == "usage-cursor":
            raise Crash
        put(kind, *args, **kwargs)

    journal.put = crash  # type: ignore[method-assign]
    with pytest.raises(Crash):
        await collector.collect("n1", client)
    journal.close()
    journal = Journal(tmp_path / "operator.db")
    collector = UsageCollector(journal)
    assert (await collector.collect("n1", client)).new == 2
    usage = collector.usage("ns-a")
    assert usage is not None
    assert (usage.gpu_ms, usage.devices, usage.records) == (7000, ("GPU-0",), 8)
    raw = [row.body for row in journal.read_all("usage:n1")]
    assert verify_chain(raw, bench.store.public_key, prev=GENESIS).count == 8
    with pytest.raises(BadInput, match="correct its endpoint"):
        await collector.collect("n2", client)
    await runner.cleanup()
    with pytest.raises(AgentUnreachable):
        await collector.collect("n1", client)
    journal.close()
    bench.store.close()


async def test_an_agent_that_lost_its_store_is_refused_until_it_is_forgotten(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    journal = Journal(tmp_path / "operator.db")
    collector = UsageCollector(journal)
    for folder in ("first", "second"):
        bench = Bench(tmp_path / folder)
        await bench.looks(3)
        runner, url = await serve(bench.app)
        client = AgentClient(url, session, token="secret")
        if folder == "second":
            with pytest.raises(BadInput, match="another key"):
                await collector.collect("n1", client)
            collector.forget_node("n1")
        await collector.collect("n1", client)
        await runner.cleanup()
        bench.store.close()
    usage = collector.usage("ns-a")
    assert usage is not None
    assert usage.gpu_ms == 4000
    journal.close()
