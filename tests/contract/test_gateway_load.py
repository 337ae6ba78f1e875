"""Two hundred followers of a chatty pod, in a process of their own: memory, and requests beside them."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract
FOLLOWERS = 200
MOST_GROWTH_BYTES = 150 << 20


async def test_two_hundred_followers_cost_little_and_hold_nobody_up() -> None:
    script = Path(__file__).parents[1] / "perf/gateway_followers.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(FOLLOWERS), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, err.decode()[-2000:]
    found = json.loads(out.decode().splitlines()[-1])
    print(f"followers {found}")
    assert found["followers"] == FOLLOWERS
    assert found["stalled"] == FOLLOWERS // 2
    assert found["growth_bytes"] <= MOST_GROWTH_BYTES, found
    assert found["statuses_answered"] == found["statuses_asked"] > 20
    assert found["least_lines"] == found["lines_written"]
