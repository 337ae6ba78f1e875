"""Akash's own npm package against the embedded chain: a deployment, its bids, a lease."""

from __future__ import annotations

import asyncio
import fcntl
import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from gpulease.devnet import genesis
from gpulease.devnet.chain import Devnet
from gpulease.devnet.serve import DevnetServer
from gpulease.units import NS_PER_S
from tests.rig.cache import cache_dir, digest

pytestmark = pytest.mark.contract

SOURCE = Path(__file__).parent / "chain_sdk"
LEAST_NODE = 20
INSTALL_TIMEOUT_S, RUN_TIMEOUT_S = 300, 60


@pytest.fixture(scope="module")
def client() -> Path:
    """The script beside its installed packages, outside the tree and kept for as long as the lock file stays."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is not installed; this test needs Node.js {LEAST_NODE} or later with npm")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < LEAST_NODE:
        pytest.fail(f"Node.js {version} is installed; this test needs {LEAST_NODE} or later")
    named = [SOURCE / "package.json", SOURCE / "package-lock.json"]
    home = cache_dir() / "chain-sdk" / digest(*named)[:16]
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / "lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        if not (home / "installed").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            for path in named:
                shutil.copy(path, home)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
            if done.returncode != 0:
                pytest.fail(f"npm ci failed ({done.returncode}): {done.stderr.strip()[-500:]}")
            (home / "installed").touch()
    shutil.copy(SOURCE / "lease.mjs", home)
    return home / "lease.mjs"


async def test_the_chain_sdk_creates_a_deployment_reads_bids_and_creates_a_lease(client: Path) -> None:
    raw = genesis.default(chain_id="contract", accounts={}, now_ns=time.time_ns() - NS_PER_S)
    async with DevnetServer(Devnet.from_genesis(raw), block_time_ms=50) as server:
        at = server.endpoints
        command = ["node", str(client), at.rpc, f"http://{at.grpc}", at.rest]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
        )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    price = {"denom": "uact", "amount": "12.5"}
    assert seen["orders"] == 1
    assert [(bid["provider"], bid["price"]) for bid in seen["bids"]] == [(seen["provider"], price)]
    assert seen["leases"] == [{"dseq": "7", "price": price, "provider": seen["provider"]}]
    assert "failed to execute message" in seen["refused"]
    assert seen["denoms"] == ["uact", "uakt"]
