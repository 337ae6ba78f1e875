"""python -m tests.rig build|up|down|status"""

from __future__ import annotations

import argparse
import sys

from tests.rig import cleanup
from tests.rig.build import build_all
from tests.rig.cluster import Rig
from tests.rig.config import GpuSpec, RigConfig, default_state_dir
from tests.rig.errors import RigError
from tests.rig.process import read_pid_file


def _up(products: list[str]) -> None:
    gpus = tuple(GpuSpec(product) for product in products) or RigConfig().gpus
    rig = Rig(RigConfig(gpus=gpus, detached=True))
    rig.up()
    print(f"export KUBECONFIG={rig.kubeconfig}")
    for name, value in rig.nvml_env.items():
        print(f"export {name}={value}")
    print(f"# DCGM: {rig.dcgm_url}  logs: {rig.log_dir}  image for pods: {rig.demo_image}  end: make rig-down")


def _status() -> int:
    run = default_state_dir() / "run"
    files = sorted(run.glob("*.pid"))
    for path in files:
        found = read_pid_file(path)
        print(f"{path.stem:26} {f'pid {found[0]}' if found else 'ended'}")
    if not files:
        print("no rig is up")
    return 0 if files else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.rig", description="A Kubernetes with GPUs that are not there."
    )
    parser.add_argument("command", choices=["build", "up", "down", "status"])
    parser.add_argument("--gpu", action="append", default=[], metavar="PRODUCT", help="once per device, for up")
    given = parser.parse_args()
    try:
        if given.command == "build":
            build_all()
        elif given.command == "up":
            _up(given.gpu)
        elif given.command == "down":
            cleanup.sweep(default_state_dir())
        else:
            return _status()
    except RigError as error:
        print(f"rig: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
