"""A node agent in a thread: the real loop, store and HTTP face over sources that a test sets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from aiohttp import web

from gpulease.agent.clock import SystemClock
from gpulease.agent.loop import Agent, AgentPolicy
from gpulease.agent.model import Device, NvmlReading, Xid
from gpulease.agent.serve import build_app
from gpulease.agent.store import RecordStore
from gpulease.errors import NodeUnreachable
from gpulease.meter.intervals import Allocation


@dataclass
class Sources:
    """What NVML and the kubelet of the node say."""

    devices: tuple[Device, ...]
    held: frozenset[Allocation] = frozenset()
    xids: list[Xid] = field(default_factory=list)
    driver: str = "570.133.20"
    silent: bool = False
    """NVML does not answer the agent."""

    async def allocations(self) -> frozenset[Allocation]:
        return self.held

    async def read(self) -> NvmlReading:
        if self.silent:
            raise NodeUnreachable("NVML did not answer")
        return NvmlReading(self.driver, self.devices)

    def drain_xids(self) -> Sequence[Xid]:
        found, self.xids = self.xids, []
        return found


class AgentThread:
    """``with AgentThread(...) as agent``: it answers on ``url`` and looks five times a second."""

    def __init__(self, node: str, sources: Sources, *, data: Path, port: int, token: str) -> None:
        self.sources, self.url = sources, f"http://127.0.0.1:{port}"
        self._node, self._data, self._port, self._token = node, data, port, token
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="agent", daemon=True)

    def __enter__(self) -> AgentThread:
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the agent did not come up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        clock, store = SystemClock(), RecordStore(self._data)
        policy = AgentPolicy(node=self._node, sample_s=0.2, record_s=0.5)
        agent = Agent(policy, clock=clock, store=store, nvml=self.sources, kubelet=self.sources)
        runner = web.AppRunner(build_app(agent, store, clock, token=self._token), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        looking = asyncio.create_task(agent.run())
        self._ready.set()
        await self._stop.wait()
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await runner.cleanup()
        store.close()
