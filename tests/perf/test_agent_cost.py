"""What the node agent costs its node: eight GPUs held by eight pods, a look and a record every 10 s.

Memory is the process's own: pages of program files, which the kernel drops when it needs them, are shown beside it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.fakes.kubelet import FakeKubelet
from tests.perf.agent_process import GPUS, LOOKS

pytestmark = pytest.mark.perf
PERIOD_S = 10.0
MOST_CPU = 0.01
MOST_OWN_BYTES = 60_000_000
ROOT = Path(__file__).resolve().parents[2]


async def test_a_look_every_ten_seconds_costs_a_hundredth_of_a_core(tmp_path: Path) -> None:
    socket = tmp_path / "kubelet.sock"
    kubelet = FakeKubelet(socket)
    kubelet.claims = [(f"ns-{i}", "web-0", "web", f"GPU-{i}") for i in range(GPUS)]
    await kubelet.start()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.perf.agent_process", str(socket), str(tmp_path / "data"),
            cwd=ROOT, env={"PYTHONPATH": "operator:.", "PATH": ""}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(process.communicate(), 60)
    finally:
        await kubelet.stop()
    assert process.returncode == 0
    told = json.loads(out)
    assert told["records"] >= LOOKS * GPUS // 2, "the records that the looks are for were written"
    share = told["cpu_s_per_look"] / PERIOD_S
    own, resident = told["own_bytes"] / 1e6, told["resident_bytes"] / 1e6
    print(
        f"agent, {GPUS} devices at {PERIOD_S:g} s: {share:.3%} of a core (bar 1%), {own:.1f} MB of its own (bar 60), "
        f"{resident:.1f} MB resident"
    )
    assert share <= MOST_CPU
    assert told["own_bytes"] <= MOST_OWN_BYTES
