"""The agent's sources against servers and libraries that can fail."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from aiohttp import web

from gpulease.agent.dcgm import DcgmExporter, parse
from gpulease.agent.nvml import Nvml
from gpulease.agent.podresources import PodResources, allocations_of
from gpulease.errors import NodeUnreachable
from gpulease.inventory.facts import node_facts
from gpulease.meter.intervals import Allocation
from tests.fakes.kubelet import FakeKubelet, answer
from tests.fakes.nvml import FakeNvml, NVMLError_DriverNotLoaded, NVMLError_LibraryNotFound

pytestmark = pytest.mark.contract


async def test_podresources_survives_a_kubelet_restart(tmp_path: Path) -> None:
    kubelet = FakeKubelet(tmp_path / "kubelet.sock")
    port = PodResources(kubelet.socket, timeout_s=1.0)
    with pytest.raises(NodeUnreachable, match="does not exist"):
        await port.allocations()
    kubelet.claims = [("ns", "pod", "c", "GPU-0")]
    for _ in range(2):
        await kubelet.start()
        assert await port.allocations() == {Allocation("ns", "pod", "c", "GPU-0")}
        await kubelet.stop()
        with pytest.raises(NodeUnreachable):
            await port.allocations()
    await kubelet.start()
    kubelet.fail = True
    with pytest.raises(NodeUnreachable, match="cannot list"):
        await port.allocations()
    kubelet.fail = False
    assert len(await port.allocations()) == 1
    await port.close()
    await kubelet.stop()


def test_only_nvidia_devices_count_and_shares_are_told_apart() -> None:
    assert allocations_of(answer([("n", "p", "c", "eth0")], "example.com/nic")) == frozenset()
    found = allocations_of(answer([("n", "p", "c", "GPU-0::1")], "nvidia.com/gpu.shared"))
    assert found == {Allocation("n", "p", "c", "GPU-0", "1")}


async def test_nvml_reads_devices_and_reports_a_lost_one_by_name() -> None:
    library = FakeNvml()
    nvml = Nvml(library)
    library.gpus[0].energy_mj, library.gpus[0].util_pct = 1234, 55
    first, second = (await nvml.read()).devices
    assert (first.uuid, first.energy_mj, first.util_permille, first.memory_bytes) == ("GPU-0", 1234, 550, 80 << 30)
    assert (first.ecc_uncorrected, first.recovery_action, first.pci_bus_id) == (None, 0, "00000000:17:00.0")
    assert second.problem is None
    library.gpus[1].lost = True
    first, second = (await nvml.read()).devices
    assert first.problem is None
    assert second.uuid == "GPU-1"
    assert "lost" in (second.problem or "") or "bus" in (second.problem or "")
    nvml.close()


async def test_nvml_tells_instances_and_rows_that_could_not_be_remapped() -> None:
    library = FakeNvml()
    library.gpus[0].instances = ["MIG-a", "MIG-b"]
    library.gpus[1].remap_failed = True
    nvml = Nvml(library)
    try:
        first, second = (await nvml.read()).devices
        assert (first.mig_enabled, first.mig, first.row_remap_failed) == (True, ("MIG-a", "MIG-b"), False)
        assert (second.mig_enabled, second.mig, second.row_remap_failed) == (False, (), True)
        facts = node_facts({"node": "n", "boot_id": "b", "at_ms": 1, "devices": [first.to_json(), second.to_json()]})
        assert facts.device("MIG-b") == facts.devices[0]
    finally:
        nvml.close()


@pytest.mark.parametrize(
    ("error", "words"), [(NVMLError_LibraryNotFound, "install"), (NVMLError_DriverNotLoaded, "not loaded")]
)
async def test_missing_nvml_is_explained_and_tried_again(error: type[Exception], words: str) -> None:
    library = FakeNvml(init_error=error)  # type: ignore[arg-type]
    nvml = Nvml(library)
    with pytest.raises(NodeUnreachable, match=words):
        await nvml.read()
    library.init_error = None
    assert len((await nvml.read()).devices) == 2
    nvml.close()


async def test_a_hanging_driver_costs_one_deadline_and_heals() -> None:
    library = FakeNvml(hang=threading.Event())
    nvml = Nvml(library, timeout_s=0.05)
    with pytest.raises(NodeUnreachable, match="within"):
        await nvml.read()
    with pytest.raises(NodeUnreachable, match="earlier call"):
        await nvml.read()
    assert library.hang is not None
    library.hang.set()
    for _ in range(100):
        await asyncio.sleep(0.01)
        try:
            assert len((await nvml.read()).devices) == 2
            break
        except NodeUnreachable:
            continue
    else:
        pytest.fail("NVML did not come back")
    nvml.close()


async def test_xids_arrive_from_the_event_thread() -> None:
    library = FakeNvml()
    nvml = Nvml(library)
    await nvml.read()
    library.xids.put((1, 79))
    for _ in range(200):
        found = nvml.drain_xids()
        if found:
            break
        await asyncio.sleep(0.01)
    assert [(x.uuid, x.code) for x in found] == [("GPU-1", 79)]
    nvml.close()


LINES = """# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-0",device="nvidia0",modelName="NVIDIA A100",Hostname="n1",pod="a"} 37
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-0",device="nvidia0",modelName="NVIDIA A100",Hostname="n1",pod="b"} 99
DCGM_FI_DEV_FB_USED{gpu="1",UUID="GPU-1",hostname="n1"} 1024 1700000000000
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-0",GPU_I_PROFILE="1g.10gb",GPU_I_ID="7"} 5
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{uuid="GPU-1"} 1.5e+06
DCGM_FI_DEV_XID_ERRORS{UUID="GPU-1"} 79
DCGM_FI_DEV_GPU_UTIL{UUID="GPU-2"} NaN
DCGM_FI_DEV_GPU_UTIL{gpu="3"} 5
nonsense {{{
"""


def test_the_exporters_lines_are_joined_by_uuid() -> None:
    found = parse(LINES)
    assert set(found) == {"GPU-0", "GPU-1"}
    assert (found["GPU-0"].util_permille, found["GPU-0"].mem_used_bytes) == (370, None)
    assert (found["GPU-1"].mem_used_bytes, found["GPU-1"].energy_mj) == (1 << 30, 1_500_000)


async def test_an_exporter_that_repeats_itself_is_stale() -> None:
    text = {"energy": 100, "util": 10}

    async def handler(request: web.Request) -> web.Response:
        lines = [
            f'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{UUID="GPU-0"}} {text["energy"]}',
            f'DCGM_FI_DEV_GPU_UTIL{{UUID="GPU-0"}} {text["util"]}',
            'DCGM_FI_DEV_GPU_UTIL{UUID="GPU-no-energy"} 5',
        ]
        return web.Response(text="\n".join(lines))

    app = web.Application()
    app.router.add_get("/metrics", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    clock = {"s": 0.0}
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    exporter = DcgmExporter(url, stale_s=90.0, now_s=lambda: clock["s"])
    assert set(await exporter.read()) == {"GPU-0", "GPU-no-energy"}
    clock["s"] = 90.0
    assert "GPU-0" in await exporter.read()
    clock["s"] = 91.0
    assert set(await exporter.read()) == {"GPU-no-energy"}
    text["energy"] = 101
    assert "GPU-0" in await exporter.read()
    await exporter.close()
    await runner.cleanup()


async def test_the_exporter_may_be_down_wrong_or_slow() -> None:
    mode = {"status": 200, "delay": 0.0}

    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(float(mode["delay"]))
        return web.Response(text=LINES, status=int(mode["status"]))

    app = web.Application()
    app.router.add_get("/metrics", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    exporter = DcgmExporter(f"http://127.0.0.1:{port}", timeout_s=0.2)
    assert "GPU-0" in await exporter.read()
    mode["status"] = 500
    with pytest.raises(NodeUnreachable, match="500"):
        await exporter.read()
    mode.update(status=200, delay=0.6)
    with pytest.raises(NodeUnreachable, match="did not answer"):
        await exporter.read()
    await runner.cleanup()
    with pytest.raises(NodeUnreachable, match="did not answer"):
        await exporter.read()
    await exporter.close()
