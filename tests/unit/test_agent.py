"""The agent's loop and store over injected sources and clock."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from gpulease.agent.loop import Agent, AgentPolicy
from gpulease.agent.model import DcgmDevice, Device, NvmlReading, Xid
from gpulease.agent.serve import build_app
from gpulease.agent.store import RecordStore
from gpulease.errors import NodeUnreachable, StoreError
from gpulease.meter.intervals import Allocation, Span
from gpulease.meter.records import GENESIS, UsageRecord, verify_chain

pytestmark = pytest.mark.unit
A = Allocation("ns-a", "web-0", "web", "GPU-0")
B = Allocation("ns-b", "job-0", "job", "GPU-1")
S = 10**9


@dataclass
class Clock:
    boot_id: str = "boot-1"
    mono: int = 5 * S
    wall: int = 1_700_000_000 * S

    def wall_ns(self) -> int:
        return self.wall

    def mono_ns(self) -> int:
        return self.mono

    def tick(self, seconds: float = 1.0) -> None:
        self.mono += int(seconds * S)
        self.wall += int(seconds * S)


@dataclass
class Node:
    """All three sources; a source set to None does not answer."""

    held: frozenset[Allocation] | None = frozenset()
    devices: tuple[Device, ...] | None = (Device("GPU-0", 0, energy_mj=0), Device("GPU-1", 1, energy_mj=0))
    dcgm: dict[str, DcgmDevice] | None = field(default_factory=dict)
    xids: list[Xid] = field(default_factory=list)

    async def allocations(self) -> frozenset[Allocation]:
        if self.held is None:
            raise NodeUnreachable("the kubelet is away")
        return self.held

    async def read(self) -> NvmlReading:
        if self.devices is None:
            raise NodeUnreachable("nvml is away")
        return NvmlReading("570", self.devices)

    def drain_xids(self) -> list[Xid]:
        found, self.xids = self.xids, []
        return found

    def burn(self, energy_mj: int) -> None:
        assert self.devices is not None
        self.devices = tuple(replace(d, energy_mj=(d.energy_mj or 0) + energy_mj) for d in self.devices)


class Exporter:
    def __init__(self, node: Node) -> None:
        self._node = node

    async def read(self) -> dict[str, DcgmDevice]:
        if self._node.dcgm is None:
            raise NodeUnreachable("the exporter is away")
        return self._node.dcgm


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RecordStore]:
    opened = RecordStore(tmp_path / "agent", keep_taken=5)
    yield opened
    opened.close()


def agent_of(clock: Clock, node: Node, store: RecordStore, **policy: Any) -> Agent:
    settings = {"sample_s": 1.0, "record_s": 5.0, "dcgm_s": 1.0} | policy
    return Agent(
        AgentPolicy(node="n1", **settings), clock=clock, store=store, nvml=node, kubelet=node, dcgm=Exporter(node)
    )


async def looks(agent: Agent, clock: Clock, count: int) -> None:
    for _ in range(count):
        clock.tick()
        await agent.look()


def records(store: RecordStore) -> list[UsageRecord]:
    raw = [json.loads(body) for _, body in store.read(0, 1000)]
    assert verify_chain(raw, store.public_key, prev=GENESIS, every_signature=True).problem is None
    return [UsageRecord.from_json(one) for one in raw]


async def test_a_lease_is_metered_from_first_to_last_sighting(clock: Clock, node: Node, store: RecordStore) -> None:
    agent = agent_of(clock, node, store)
    await agent.start()
    await agent.look()
    node.held = frozenset([A])
    for _ in range(8):
        node.burn(100)
        await looks(agent, clock, 1)
    node.held = frozenset()
    await looks(agent, clock, 1)
    found = records(store)
    assert [r.open for r in found] == [True, True, False]
    assert sum(r.gpu_ms for r in found) == 7000
    assert sum(r.evidence["energy_mj"] or 0 for r in found) == 700
    assert found[0].gpu_ms == 0
    assert {r.started_ms for r in found} == {found[0].from_ms}
    assert agent.recorded_ms == {}


async def test_a_silent_kubelet_leaves_a_gap_and_ends_nothing(clock: Clock, node: Node, store: RecordStore) -> None:
    agent = agent_of(clock, node, store)
    node.held = frozenset([A])
    await looks(agent, clock, 3)
    node.held = None
    await looks(agent, clock, 20)
    assert agent.view.allocations is None
    assert agent.view.sources["kubelet"].failures == 20
    node.held = frozenset([A])
    await looks(agent, clock, 6)
    await agent.finish()
    found = records(store)
    assert all(r.open for r in found)
    assert sum(r.gpu_ms for r in found) == 2000 + 5000
    assert sum(r.gap_ms for r in found) == 21_000
    assert agent.view.sources["kubelet"].problem is None


async def test_nvml_and_dcgm_may_be_away(clock: Clock, node: Node, store: RecordStore) -> None:
    node.devices, node.dcgm, node.held = None, None, frozenset([A])
    agent = agent_of(clock, node, store)
    await looks(agent, clock, 11)
    found = records(store)
    assert sum(r.gpu_ms for r in found) == 10_000
    assert sum(r.evidence["gap_ms"] for r in found) == 10_000
    assert all(r.evidence["energy_mj"] is None for r in found)
    assert agent.view.devices is None


async def test_dcgm_evidence_is_kept_beside_nvmls(clock: Clock, node: Node, store: RecordStore) -> None:
    node.held = frozenset([A])
    agent = agent_of(clock, node, store)
    for energy in range(0, 1200, 100):
        node.dcgm = {"GPU-0": DcgmDevice(energy_mj=energy, util_permille=500, mem_used_bytes=7)}
        await looks(agent, clock, 1)
    told = [r.dcgm for r in records(store) if r.dcgm is not None]
    assert sum(one["energy_mj"] or 0 for one in told) == 1000
    assert told[-1]["util_permille_avg"] == 500


async def test_xids_land_in_the_record_of_their_device(clock: Clock, node: Node, store: RecordStore) -> None:
    node.held = frozenset([A, B])
    agent = agent_of(clock, node, store)
    await looks(agent, clock, 2)
    node.xids = [Xid("GPU-1", 79)]
    await looks(agent, clock, 4)
    seen = {r.device_uuid: r.evidence["xids"] for r in records(store) if r.gpu_ms}
    assert seen == {"GPU-0": [], "GPU-1": [79]}
    assert agent.view.recent_xids["GPU-1"][0][1] == 79


async def test_a_restarted_agent_continues_with_the_gap_marked(clock: Clock, node: Node, tmp_path: Path) -> None:
    node.held = frozenset([A])
    first = RecordStore(tmp_path)
    agent = agent_of(clock, node, first)
    await looks(agent, clock, 4)
    await agent.finish()
    first.close()
    clock.tick(60)
    second = RecordStore(tmp_path)
    agent = agent_of(clock, node, second)
    await agent.start()
    await looks(agent, clock, 3)
    await agent.finish()
    found = records(second)
    assert len({r.started_ms for r in found}) == 1
    assert sum(r.gpu_ms for r in found) == 5000
    assert sum(r.gap_ms for r in found) == 61_000
    second.close()


async def test_a_reboot_ends_every_interval(clock: Clock, node: Node, tmp_path: Path) -> None:
    node.held = frozenset([A])
    first = RecordStore(tmp_path)
    agent = agent_of(clock, node, first)
    await looks(agent, clock, 4)
    first.close()
    clock = Clock(boot_id="boot-2", mono=0, wall=clock.wall - 3600 * S)
    second = RecordStore(tmp_path)
    agent = agent_of(clock, node, second)
    await agent.start()
    await looks(agent, clock, 2)
    found = records(second)
    assert [(r.boot_id, r.open) for r in found][-2:] == [("boot-2", False), ("boot-2", True)]
    assert found[-1].started_ms >= found[-2].to_ms
    assert found[-1].clock_offset_ms < -3_000_000
    second.close()


async def test_a_full_disk_delays_records_and_loses_none(
    clock: Clock, node: Node, store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.held = frozenset([A])
    agent = agent_of(clock, node, store)
    append = store.append

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(store, "append", refuse)
    await looks(agent, clock, 12)
    assert agent.view.sources["store"].problem == "disk full"
    monkeypatch.setattr(store, "append", append)
    await looks(agent, clock, 1)
    await agent.finish()
    assert sum(r.gpu_ms for r in records(store)) == 12_000
    assert agent.view.sources["store"].problem is None


async def test_a_broken_source_does_not_end_the_loop(clock: Clock, node: Node, store: RecordStore) -> None:
    agent = agent_of(clock, node, store)

    async def broken() -> NvmlReading:
        raise ZeroDivisionError

    node.read = broken  # type: ignore[method-assign]
    await looks(agent, clock, 1)
    assert "ZeroDivisionError" in (agent.view.sources["nvml"].problem or "")


def test_two_agents_cannot_share_a_directory(tmp_path: Path) -> None:
    first = RecordStore(tmp_path)
    with pytest.raises(StoreError, match="another agent"):
        RecordStore(tmp_path)
    first.close()
    again = RecordStore(tmp_path)
    assert again.public_key == first.public_key
    again.close()


def test_a_broken_store_says_so(tmp_path: Path) -> None:
    (tmp_path / "node.key").write_bytes(b"short")
    with pytest.raises(StoreError, match="32 bytes"):
        RecordStore(tmp_path)


async def test_taken_records_go_after_the_retention_and_others_stay(
    clock: Clock, node: Node, store: RecordStore
) -> None:
    node.held = frozenset([A])
    agent = agent_of(clock, node, store, record_s=1.0)
    await looks(agent, clock, 21)
    last = store.head.seq
    store.take(10)
    assert store.first_seq() == 6
    store.take(10_000)
    assert store.head.taken == last
    assert store.first_seq() == last - 4
    assert [seq for seq, _ in store.read(0, 100)] == list(range(last - 4, last + 1))


async def test_http_face(clock: Clock, node: Node, store: RecordStore) -> None:
    node.held = frozenset([A])
    agent = agent_of(clock, node, store)
    await looks(agent, clock, 12)
    async with TestClient(TestServer(build_app(agent, store, clock, token="t"))) as client:
        bearer = {"Authorization": "Bearer t"}
        assert (await client.get("/v1/records")).status == 401
        assert (await client.get("/v1/records", headers={"Authorization": "Bearer é"})).status == 401
        page = await (await client.get("/v1/records?after=1&limit=1", headers=bearer)).json()
        assert (page["node"], page["boot_id"], page["next"], page["head"]) == ("n1", "boot-1", 2, 3)
        assert page["records"][0]["seq"] == 2
        assert store.head.taken == 1
        key = bytes.fromhex(page["public_key"])
        assert verify_chain(page["records"], key).problem is None
        for bad in ("after=x", "after=-1", "limit=0", "limit=1001"):
            assert (await client.get(f"/v1/records?{bad}", headers=bearer)).status == 400
        held = await (await client.get("/v1/allocations", headers=bearer)).json()
        assert held["known"] is True
        assert held["allocations"][0]["device_uuid"] == "GPU-0"
        devices = await (await client.get("/v1/devices", headers=bearer)).json()
        assert [d["uuid"] for d in devices["devices"]] == ["GPU-0", "GPU-1"]
        text = await (await client.get("/metrics")).text()
        wanted = 'gpulease_agent_gpu_seconds_total{container="web",device="GPU-0",namespace="ns-a",pod="web-0"} 10.0'
        assert wanted in text
        assert (await client.get("/healthz")).status == 200
        node.held = None
        await looks(agent, clock, 1)
        held = await (await client.get("/v1/allocations", headers=bearer)).json()
        assert (held["known"], held["problem"]) == (False, "the kubelet is away")


def test_a_receipt_that_comes_while_records_are_written_loses_none(tmp_path: Path) -> None:
    """Records are written by one thread and receipts taken by others; the chain's head is of both."""
    store = RecordStore(tmp_path)
    span = Span(A, 0, 0, 1)
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(150):
                store.append([(span, {"v": 1})], boot_id="b")
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        store.take(store.head.seq)
    writer.join()
    store.take(150)
    assert failures == []
    assert (store.head.seq, store.head.taken) == (150, 150)
    assert [seq for seq, _ in store.read(0, 1000)] == list(range(1, 151))
    store.close()
    assert RecordStore(tmp_path).head.seq == 150
