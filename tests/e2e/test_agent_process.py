"""The agent as a process, with the real pynvml on the rig's NVML double, killed and started again."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

import tests.rig.nvml
from gpulease.agent.client import AgentClient, Cursor
from gpulease.errors import AgentUnreachable
from gpulease.meter.records import GENESIS, UsageRecord, verify_chain
from tests.fakes.kubelet import FakeKubelet
from tests.rig.config import RigConfig
from tests.rig.gpu import write_double
from tests.rig.nvml.stubs import build_double, library_dir

pytestmark = pytest.mark.e2e


class AgentProcess:
    """``gpulease agent`` on loopback; only processes started here are ended."""

    def __init__(self, folder: Path, kubelet: FakeKubelet, double: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.url = f"http://{self._address}"
        self._arguments = [
            *("--node", "n1", "--listen", self._address, "--data", str(folder / "agent")),
            *("--podresources", str(kubelet.socket), "--sample-s", "0.2", "--record-s", "0.6"),
        ]
        self._env = {**os.environ, "GPULEASE_NVML_DOUBLE": str(double), "LD_LIBRARY_PATH": str(library_dir())}
        self._log = folder / "agent.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            argv = [sys.executable, "-m", "gpulease", "agent", *self._arguments]
            self._process = subprocess.Popen(argv, env=self._env, stdout=log, stderr=log)

    def stop(self, *, kill: bool = False) -> int:
        assert self._process is not None
        (self._process.kill if kill else self._process.terminate)()
        code = self._process.wait(10)
        self._process = None
        return code

    def end(self) -> None:
        if self._process is not None:
            self.stop(kill=True)


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    build_double(Path(tests.rig.nvml.__file__).parent / "double.c")


@pytest.fixture
def double(tmp_path: Path) -> Path:
    return write_double(tmp_path / "gpus", RigConfig())


@pytest.fixture
def agent(tmp_path: Path, double: Path) -> Iterator[tuple[AgentProcess, FakeKubelet]]:
    kubelet = FakeKubelet(tmp_path / "kubelet.sock")
    process = AgentProcess(tmp_path, kubelet, double)
    yield process, kubelet
    process.end()


async def eventually(words: str, check: Callable[[], Awaitable[bool]], *, timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if await check():
                return
        except AgentUnreachable:
            pass
        await asyncio.sleep(0.1)
    pytest.fail(f"{words} did not happen within {timeout_s:g} s")


async def test_a_lease_is_metered_through_crash_fault_and_end(
    agent: tuple[AgentProcess, FakeKubelet], double: Path
) -> None:
    process, kubelet = agent
    uuids = [line.split("\t")[1] for line in double.read_text().splitlines() if line.startswith("gpu\t")]
    kubelet.claims = [("lease", "web-0", "web", uuids[0])]
    await kubelet.start()
    process.start()
    async with aiohttp.ClientSession() as session:
        client = AgentClient(process.url, session)

        async def typed() -> list[UsageRecord]:
            return list((await client.records(Cursor())).records)

        async def measured() -> bool:
            return any((r.evidence["energy_mj"] or 0) > 0 for r in await typed())

        await eventually("a record with energy", measured)
        assert {d["uuid"] for d in await client.devices()} == set(uuids)

        process.stop(kill=True)
        await asyncio.sleep(1.0)
        process.start()

        async def continued() -> bool:
            return any(r.gap_ms >= 1000 for r in await typed())

        await eventually("a record after the crash with the gap marked", continued)
        started = {r.started_ms for r in await typed()}
        assert len(started) == 1

        with (double.parent / "xids").open("a") as out:
            out.write("0 79\n")

        async def faulted() -> bool:
            return any(79 in r.evidence["xids"] for r in await typed())

        await eventually("the XID in a record", faulted)
        (double.parent / "lost").write_text(uuids[1] + "\n")

        async def lost() -> bool:
            problems = {d["uuid"]: d["problem"] for d in await client.devices()}
            return problems[uuids[0]] is None and problems.get(uuids[1]) is not None

        await eventually("one lost device beside a sound one", lost)

        await kubelet.stop()

        async def unknown() -> bool:
            try:
                await client.allocations()
            except AgentUnreachable as error:
                return "does not know" in str(error)
            return False

        await eventually("allocations being unknown", unknown)
        await kubelet.start()
        await eventually("the kubelet being read again", lambda: _known(client))
        kubelet.claims = []

        async def ended() -> bool:
            return not (await typed())[-1].open

        await eventually("the interval's end", ended)
        page = await client.records(Cursor())
        report = verify_chain(page.raw, bytes.fromhex(page.cursor.public_key), prev=GENESIS, every_signature=True)
        assert report.problem is None
        first, last = page.records[0], page.records[-1]
        assert report.gpu_ms + sum(r.gap_ms for r in page.records) == last.to_ms - first.from_ms
    assert process.stop() == 0
    await kubelet.stop()


async def _known(client: AgentClient) -> bool:
    return bool(await client.allocations())
