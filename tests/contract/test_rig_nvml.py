"""The NVML double through pynvml, as the agent reads it: what is still, what moves, what fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.rig.build import build_nvml
from tests.rig.config import GpuSpec, RigConfig
from tests.rig.gpu import write_double
from tests.rig.nvml.stubs import library_dir

pytestmark = pytest.mark.contract

_READ = """
import json, pynvml as n
n.nvmlInit()
out = []
for i in range(n.nvmlDeviceGetCount()):
    h = n.nvmlDeviceGetHandleByIndex(i)
    try:
        out.append({
            "uuid": n.nvmlDeviceGetUUID(h), "name": n.nvmlDeviceGetName(h), "bus": n.nvmlDeviceGetPciInfo(h).busId,
            "total": n.nvmlDeviceGetMemoryInfo(h).total, "used": n.nvmlDeviceGetMemoryInfo(h).used,
            "energy": n.nvmlDeviceGetTotalEnergyConsumption(h), "power": n.nvmlDeviceGetPowerUsage(h),
            "util": n.nvmlDeviceGetUtilizationRates(h).gpu, "cc": n.nvmlDeviceGetCudaComputeCapability(h),
            "recovery": n.nvmlDeviceGetFieldValues(h, [230])[0].value.uiVal,
            "ecc": n.nvmlDeviceGetTotalEccErrors(h, 1, 0), "serial": n.nvmlDeviceGetSerial(h),
        })
    except n.NVMLError as error:
        out.append({"error": type(error).__name__})
try:
    n.nvmlDeviceGetFanSpeed(n.nvmlDeviceGetHandleByIndex(0))
except n.NVMLError as error:
    out.append({"error": type(error).__name__})
print(json.dumps(out))
"""

_EVENTS = """
import sys, pynvml as n
n.nvmlInit()
s = n.nvmlEventSetCreate()
for i in range(n.nvmlDeviceGetCount()):
    n.nvmlDeviceRegisterEvents(n.nvmlDeviceGetHandleByIndex(i), n.nvmlEventTypeXidCriticalError, s)
print("ready", flush=True)
for _ in range(2):
    e = n.nvmlEventSetWait_v2(s, 5000)
    print(n.nvmlDeviceGetUUID(e.device), e.eventData, flush=True)
try:
    n.nvmlEventSetWait_v2(s, 100)
except n.NVMLError as error:
    print(type(error).__name__, flush=True)
"""


class Double:
    def __init__(self, folder: Path) -> None:
        build_nvml()
        config = RigConfig(gpus=(GpuSpec("NVIDIA H100 80GB HBM3"), GpuSpec("Tesla T4", uuid="GPU-two")))
        self.folder = folder
        conf = write_double(folder, config)
        self.env = {**os.environ, "LD_LIBRARY_PATH": str(library_dir()), "GPULEASE_NVML_DOUBLE": str(conf)}

    def read(self) -> list[dict[str, Any]]:
        out = subprocess.run(
            [sys.executable, "-c", _READ], env=self.env, capture_output=True, text=True, timeout=20, check=True
        )
        found: list[dict[str, Any]] = json.loads(out.stdout)
        return found

    def append(self, name: str, line: str) -> None:
        with (self.folder / name).open("a") as out:
            out.write(line + "\n")


@pytest.fixture
def double(tmp_path: Path) -> Double:
    return Double(tmp_path / "gpus")


def test_devices_are_as_configured_and_the_rest_is_not_supported(double: Double) -> None:
    first, second, fan = double.read()
    assert (first["name"], first["total"], first["cc"]) == ("NVIDIA H100 80GB HBM3", 81559 << 20, [9, 0])
    assert (second["uuid"], second["name"], second["bus"]) == ("GPU-two", "Tesla T4", "00000000:18:00.0")
    assert first["serial"] != second["serial"]
    assert fan == {"error": "NVMLError_NotSupported"}


def test_energy_is_the_integral_of_power_over_busy_and_idle_time(double: Double) -> None:
    now = int(time.time() * 1000)
    conf = double.folder / "gpus.conf"
    text = conf.read_text().splitlines()
    conf.write_text("\n".join(f"epoch\t{now - 100_000}" if line.startswith("epoch") else line for line in text) + "\n")
    double.append("busy", f"{now - 60_000} GPU-two 1")
    double.append("busy", f"{now - 20_000} GPU-two 0")
    reading = double.read()[1]
    # T4: 12 W idle, 65 W busy. 100 s since the epoch, 40 s of them busy; the reading itself takes under 10 s.
    expected_mj = 100_000 * 12 + 40_000 * (65 - 12)
    assert expected_mj <= reading["energy"] < expected_mj + 10_000 * 12
    assert (reading["power"], reading["util"], reading["used"]) == (12_000, 0, 450 << 20)


def test_a_busy_device_shows_it_and_others_do_not(double: Double) -> None:
    double.append("busy", f"{int(time.time() * 1000)} GPU-two 1")
    first, second, _ = double.read()
    assert 70 <= second["util"] <= 95
    assert second["power"] == 65_000
    assert second["used"] == (15360 * 6 // 10) << 20
    assert first["util"] == 0


def test_lost_devices_ecc_and_recovery_action(double: Double) -> None:
    double.append("ecc", "GPU-two 3")
    double.append("recovery", "GPU-two 2")
    assert (double.read()[1]["ecc"], double.read()[1]["recovery"]) == (3, 2)
    double.append("lost", "GPU-two")
    assert double.read()[1] == {"error": "NVMLError_GpuIsLost"}


def test_each_process_gets_each_xid_once_and_none_from_before_it_listened(double: Double) -> None:
    double.append("xids", "0 13")
    readers = [
        subprocess.Popen([sys.executable, "-c", _EVENTS], env=double.env, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    double.append("xids", "1 79")
    double.append("xids", "1 48")
    for reader in readers:
        out, _ = reader.communicate(timeout=20)
        assert out.splitlines() == ["GPU-two 79", "GPU-two 48", "NVMLError_Timeout"]


def test_without_its_file_the_driver_seems_not_loaded(double: Double) -> None:
    env = {**double.env, "GPULEASE_NVML_DOUBLE": "/nonexistent"}
    words = subprocess.run(
        [sys.executable, "-c", "import pynvml; pynvml.nvmlInit()"], env=env, capture_output=True, text=True, timeout=20
    )
    assert "DriverNotLoaded" in words.stderr or "Driver Not Loaded" in words.stderr
