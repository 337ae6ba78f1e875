"""What a rig is made of: devices, addresses, folders. Plain values; nothing here touches the machine."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.rig.errors import RigError

HOST_IP = "10.250.0.1"
POD_CIDR = "10.244.0.0/24"
SERVICE_CIDR = "10.96.0.0/16"
SERVICE_IP = "10.96.0.1"
DNS_IP = "10.96.0.10"
BRIDGE = "cni0"
KUBELET_DIR = Path("/var/lib/kubelet")  # NVIDIA's plugin knows no other place
PAUSE_IMAGE = "localhost/pause:1"
DEMO_IMAGE = "localhost/gpulease-demo:1"

_MIB = 1024
_ARCH = {"turing": 6, "ampere": 7, "ada": 8, "hopper": 9, "blackwell": 10}


@dataclass(frozen=True, slots=True)
class Model:
    """A product as NVML names it. Memory in MiB as nvidia-smi shows it; power in watts."""

    product: str
    memory_mib: int
    compute: tuple[int, int]
    architecture: str
    pci_device: int
    idle_w: int
    busy_w: int


MODELS = {
    model.product: model
    for model in (
        Model("NVIDIA A100-SXM4-80GB", 80 * _MIB, (8, 0), "ampere", 0x20B2, 55, 300),
        Model("NVIDIA A100-SXM4-40GB", 40 * _MIB, (8, 0), "ampere", 0x20B0, 50, 280),
        Model("NVIDIA H100 80GB HBM3", 81559, (9, 0), "hopper", 0x2330, 70, 550),
        Model("NVIDIA H200", 143771, (9, 0), "hopper", 0x2335, 75, 560),
        Model("NVIDIA L40S", 46068, (8, 9), "ada", 0x26B9, 35, 260),
        Model("NVIDIA GeForce RTX 4090", 24564, (8, 9), "ada", 0x2684, 20, 350),
        Model("Tesla T4", 15360, (7, 5), "turing", 0x1EB8, 12, 65),
    )
}


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """One device of the double. The UUID follows from the index unless given, so that two runs agree."""

    product: str = "NVIDIA A100-SXM4-80GB"
    uuid: str = ""

    def model(self) -> Model:
        try:
            return MODELS[self.product]
        except KeyError:
            raise RigError(f"no such GPU model {self.product!r}; the rig knows {', '.join(sorted(MODELS))}") from None

    def uuid_at(self, index: int) -> str:
        return self.uuid or f"GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, f'{self.product}.{index}.rig.gpulease.dev')}"


def config_line(spec: GpuSpec, index: int) -> str:
    """The line of one device in the file the double reads (nvml/double.c)."""
    model = spec.model()
    fields: Sequence[object] = (
        "gpu",
        spec.uuid_at(index),
        model.product,
        model.memory_mib,
        *model.compute,
        _ARCH[model.architecture],
        f"{model.pci_device:04x}",
        f"00000000:{0x17 + index:02X}:00.0",
        f"13247{index:08d}",
        model.idle_w,
        model.busy_w,
    )
    return "\t".join(map(str, fields))


def default_state_dir() -> Path:
    return Path(os.environ.get("GPULEASE_RIG_STATE", "/var/lib/gpulease-rig"))


@dataclass(frozen=True, slots=True)
class RigConfig:
    """One node with the given devices.

    ``image_aliases`` are further names under which the demo image is known to the node, so that a manifest may name
    an image as a tenant would. ``detached`` rigs outlive the process that started them (``python -m tests.rig up``).
    """

    gpus: Sequence[GpuSpec] = field(default_factory=lambda: (GpuSpec(), GpuSpec()))
    node_name: str = "rig-node"
    state_dir: Path = field(default_factory=default_state_dir)
    image_aliases: Sequence[str] = ()
    driver_version: str = "570.133.20"
    cuda_version: int = 12080
    kube_proxy: bool = True
    dcgm: bool = True
    detached: bool = False
    ready_timeout_s: float = 120.0
