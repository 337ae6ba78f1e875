"""The node agent as a process of its own, on a double of NVML with eight GPUs; prints what it cost as JSON.

Looks come faster than in production, so that the cost of one can be told from noise; nothing else differs.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from aiohttp import web

from gpulease.agent.clock import SystemClock
from gpulease.agent.loop import Agent, AgentPolicy, close_all
from gpulease.agent.nvml import Nvml
from gpulease.agent.podresources import PodResources
from gpulease.agent.serve import build_app
from gpulease.agent.store import RecordStore
from gpulease.memory import few_arenas, give_back
from tests.fakes.nvml import FakeGpu, FakeNvml

GPUS, LOOKS, SAMPLE_S = 8, 40, 0.05


async def main(socket: Path, data: Path) -> None:
    gpus = [FakeGpu(f"GPU-{i}", energy_mj=1000 * i, util_pct=50, used_bytes=1 << 30) for i in range(GPUS)]
    clock, store, kubelet = SystemClock(), RecordStore(data), PodResources(socket)
    nvml = Nvml(FakeNvml(gpus))
    policy = AgentPolicy(node="n1", sample_s=SAMPLE_S, record_s=SAMPLE_S)
    agent = Agent(policy, clock=clock, store=store, nvml=nvml, kubelet=kubelet)
    runner = web.AppRunner(build_app(agent, store, clock), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        await agent.start()
        for _ in range(3):
            await agent.look()
        give_back()
        began, first = time.process_time(), store.head.seq
        for _ in range(LOOKS):
            for gpu in gpus:
                gpu.energy_mj += 500
            await agent.look()
            await asyncio.sleep(SAMPLE_S)
        spent_s = time.process_time() - began
        records = store.head.seq - first
    finally:
        await runner.cleanup()
        await close_all(nvml, kubelet, store)
    print(json.dumps({"cpu_s_per_look": spent_s / LOOKS, "records": records, **memory_bytes()}))


def memory_bytes() -> dict[str, int]:
    """``own`` is what only this process has; ``resident`` counts the pages of program files as well."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    kib = {words[0]: int(words[1]) for words in lines if words and words[0] in ("VmRSS:", "RssAnon:")}
    return {"own_bytes": kib["RssAnon:"] * 1024, "resident_bytes": kib["VmRSS:"] * 1024}


if __name__ == "__main__":
    few_arenas()
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
