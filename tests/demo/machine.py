"""The machine's own cluster as two steps: tools built once, then a Kubernetes with two GPUs that are not there."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator

from tests.demo.model import Reporter, Seen, Step
from tests.rig.build import KUBERNETES, build_all
from tests.rig.cache import bin_dir, cache_dir
from tests.rig.cluster import Rig


class _Relay(io.TextIOBase):
    """Takes what the rig prints of itself, line by line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(None, lines):
            self._say(line.removeprefix("rig: "))
        return len(text)


@contextlib.contextmanager
def _told(reporter: Reporter, *, building: bool) -> Iterator[None]:
    """The rig's lines become the running step's detail; of a build also how many packages are compiled."""
    last = [""]
    ended = threading.Event()

    def say(words: str) -> None:
        last[0] = words
        reporter.detail(words)

    def count() -> None:
        log = cache_dir() / "build.log"
        while not ended.wait(2.0):
            with contextlib.suppress(OSError):
                lines = log.read_text(errors="replace").splitlines()
                # go build -v writes one import path per compiled package
                done = sum("/" in line and " " not in line for line in lines)
                if done and last[0].endswith("…"):
                    reporter.detail(f"{last[0]} ({done} packages compiled)")

    if building:
        threading.Thread(target=count, daemon=True).start()
    try:
        with contextlib.redirect_stdout(_Relay(say)):
            yield
    finally:
        ended.set()


def machine_steps(rig: Rig, reporter: Callable[[], Reporter]) -> list[Step]:
    def build() -> Seen:
        with _told(reporter(), building=True):
            build_all()
        return Seen(f"Kubernetes {KUBERNETES}, etcd, NVIDIA's plugin, in {bin_dir()}")

    def up() -> Seen:
        with _told(reporter(), building=False):
            rig.up()
        product = rig.node_labels.get("nvidia.com/gpu.product", "GPU")
        return Seen(f"{KUBERNETES}, node {rig.node_name}, {len(rig.gpu_uuids)} × {product}, up in {rig.warm_s:.1f} s")

    return [
        Step("machine", "tools, built once", "build", build),
        Step("machine", "control plane, kubelet, GPUs", "kubelet", up),
    ]
