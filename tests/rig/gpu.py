"""GPUs that are not there: the double's files, NVIDIA's device plugin and feature discovery on it, and faults."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.rig.apiserver import ApiServer
from tests.rig.cache import tool
from tests.rig.config import RigConfig, config_line
from tests.rig.errors import RigError
from tests.rig.nvml.stubs import library_dir
from tests.rig.process import Process, tail, wait_for


def write_double(folder: Path, config: RigConfig) -> Path:
    """The file that GPULEASE_NVML_DOUBLE names, and empty state beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("busy", "xids", "lost", "ecc", "recovery"):
        (folder / name).write_text("")
    lines = [
        f"driver\t{config.driver_version}",
        f"cuda\t{config.cuda_version}",
        f"epoch\t{int(time.time() * 1000)}",
        f"state\t{folder}",
        *(config_line(spec, index) for index, spec in enumerate(config.gpus)),
    ]
    path = folder / "gpus.conf"
    path.write_text("\n".join(lines) + "\n")
    return path


class Gpus:
    """The devices of the node and what happens to them."""

    def __init__(self, server: ApiServer, config: RigConfig, *, folder: Path, run_dir: Path) -> None:
        self._server = server
        self._config = config
        self.folder = folder
        self._run_dir = run_dir
        self.uuids = [spec.uuid_at(index) for index, spec in enumerate(config.gpus)]
        if len(set(self.uuids)) != len(self.uuids):
            raise RigError("two GPUs of the rig's configuration have the same UUID")
        self.env = {
            "LD_LIBRARY_PATH": str(library_dir()),
            "GPULEASE_NVML_DOUBLE": str(write_double(folder, config)),
        }

    def inject_xid(self, index: int, xid: int) -> None:
        """Every process that waits for events on the device now gets it once."""
        self._append("xids", f"{self._known(index)} {xid}")

    def lose(self, index: int) -> None:
        """The device falls off the bus: NVML answers GPU_IS_LOST for it."""
        self._append("lost", self.uuids[self._known(index)])

    def restore(self, index: int) -> None:
        path = self.folder / "lost"
        kept = [line for line in path.read_text().splitlines() if line != self.uuids[self._known(index)]]
        path.write_text("".join(f"{line}\n" for line in kept))

    def set_recovery_action(self, index: int, action: int) -> None:
        self._append("recovery", f"{self.uuids[self._known(index)]} {action}")

    def _known(self, index: int) -> int:
        if not 0 <= index < len(self.uuids):
            raise RigError(f"the rig has no GPU {index}; it has {len(self.uuids)}")
        return index

    def _append(self, name: str, line: str) -> None:
        with (self.folder / name).open("a") as out:
            out.write(line + "\n")

    # -- NVIDIA's programs -------------------------------------------------------------------------------------

    def start_plugin(self) -> Process:
        argv = [tool("nvidia-device-plugin"), "--device-discovery-strategy=nvml", "--mig-strategy=none"]
        return Process("device-plugin", argv, env=self.env, run_dir=self._run_dir, log_dir=self._server.log_dir)

    def label_node(self, node: str) -> dict[str, str]:
        """Run feature discovery once and put what it found on the node.

        In a cluster NFD reads feature discovery's file and labels the node; there is no NFD here, so the rig does
        that one step itself. Keys and values are feature discovery's own.
        """
        output = self.folder / "gfd"
        machine = self.folder / "machine-type"
        machine.write_text("gpulease-rig\n")
        argv = [
            tool("gpu-feature-discovery"),
            "--oneshot",
            "--device-discovery-strategy=nvml",
            "--mig-strategy=none",
            "--no-timestamp",
            f"--machine-type-file={machine}",
            f"--output-file={output}",
        ]
        log = self._server.log_dir / "gpu-feature-discovery.log"
        with log.open("ab") as out:
            done = subprocess.run(argv, env=self.env, stdout=out, stderr=subprocess.STDOUT, timeout=60)
        if done.returncode or not output.exists():
            raise RigError(f"gpu-feature-discovery ended with {done.returncode}:\n{tail(log)}")
        labels = dict(line.split("=", 1) for line in output.read_text().splitlines() if "=" in line)
        labels["nvidia.com/gpu.present"] = "true"
        self._server.kubectl("label", "node", node, "--overwrite", *(f"{k}={v}" for k, v in sorted(labels.items())))
        return labels

    def allocatable(self, node: str) -> int:
        path = r"jsonpath={.status.allocatable.nvidia\.com/gpu}"
        text = self._server.kubectl("get", "node", node, "-o", path, timeout_s=5).strip()
        return int(text or 0)

    def wait_allocatable(self, node: str, count: int, *, timeout_s: float) -> None:
        words = f"nvidia.com/gpu being allocatable {count} times"
        wait_for(words, lambda: self.allocatable(node) == count, timeout_s=timeout_s, interval_s=0.2)
