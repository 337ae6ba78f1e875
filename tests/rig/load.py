"""Makes devices look busy while a pod holds them: writes the double's ``busy`` file from the kubelet's PodResources."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tests.rig.podresources import holders

POLL_S = 0.5


def follow(state: Path) -> None:
    busy: set[str] = set()
    while True:
        now = set(holders())
        stamp = int(time.time() * 1000)
        lines = [f"{stamp} {uuid} {int(uuid in now)}\n" for uuid in sorted(busy ^ now)]
        if lines:
            with (state / "busy").open("a") as out:
                out.write("".join(lines))
        busy = now
        time.sleep(POLL_S)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    follow(parser.parse_args().state)
