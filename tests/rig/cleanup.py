"""Takes away everything a rig leaves on a machine, also one that was killed half way. Safe to run twice.

Only what carries a mark of ours is touched: pid files with start times, processes in the cgroups of our kubelet, mounts
below our folders, iptables chains named by kube-proxy and CNI, and /var/lib/kubelet only if we made it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from tests.rig import config as c
from tests.rig.errors import RigError
from tests.rig.node import which
from tests.rig.process import end_group, marked, read_pid_file, wait_for

MARK = ".gpulease-rig"
_CHAINS = re.compile(r"^:?(KUBE-[A-Z0-9-]+|CNI-[A-Za-z0-9-]+)\b")
_CGROUPS = Path("/sys/fs/cgroup")


def claim_kubelet_dir() -> None:
    """NVIDIA's plugin insists on /var/lib/kubelet. A real kubelet's folder is not ours to use."""
    mark = c.KUBELET_DIR / MARK
    if c.KUBELET_DIR.exists() and not mark.exists() and any(c.KUBELET_DIR.iterdir()):
        raise RigError(
            f"{c.KUBELET_DIR} exists and is not the rig's: a kubelet seems to live on this machine. "
            "Use that cluster (KUBECONFIG) or a machine without one."
        )
    c.KUBELET_DIR.mkdir(parents=True, exist_ok=True)
    mark.touch()


def sweep(state_dir: Path) -> None:
    """Processes, containers, mounts, network, address, folders: in this order, since each holds the next."""
    _end_processes(state_dir / "run")
    ours = (c.KUBELET_DIR / MARK).exists()
    if ours:
        _end_cgroup_processes()
    _end_shims(state_dir)
    _remove_container_traces(state_dir)
    _unmount([state_dir, *([c.KUBELET_DIR] if ours else [])])
    if (state_dir / "node").exists() or ours:
        _network()
    if ours:
        _remove_cgroups()
        _remove_traces(state_dir)
        shutil.rmtree(c.KUBELET_DIR, ignore_errors=True)
    keep_logs(state_dir)
    shutil.rmtree(state_dir, ignore_errors=True)


def keep_logs(state_dir: Path) -> None:
    """The last run's logs stay beside the state folder, for whoever asks why it failed."""
    logs = state_dir / "logs"
    kept = state_dir.with_name(state_dir.name + "-last-logs")
    if logs.exists():
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(str(logs), str(kept))


def _end_processes(run_dir: Path) -> None:
    """Ours first and the control plane last: newest pid file first."""
    files = sorted(run_dir.glob("*.pid"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in files:
        found = read_pid_file(path)
        if found and found[0] != os.getpid():
            end_group(*found, grace_s=3.0)
        path.unlink(missing_ok=True)
    _kill(pid for pid, _ in marked(run_dir))


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _kubepods() -> list[Path]:
    roots = [_CGROUPS / "kubepods", *(path / "kubepods" for path in _CGROUPS.iterdir() if path.is_dir())]
    return [path for path in roots if path.is_dir()]


def _end_cgroup_processes() -> None:
    def pids() -> set[int]:
        found: set[int] = set()
        for root in _kubepods():
            for path in root.rglob("cgroup.procs"):
                try:
                    found.update(int(line) for line in path.read_text().split())
                except OSError:
                    continue
        return found

    deadline = time.monotonic() + 5.0
    while (left := pids()) and time.monotonic() < deadline:
        _kill(left)
        time.sleep(0.05)


def _remove_cgroups() -> None:
    for root in _kubepods():
        folders = [path for path in root.rglob("*") if path.is_dir()]
        for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
            _rmdir(folder)
        _rmdir(root)


def _remove_traces(state_dir: Path) -> None:
    """What the kubelet writes outside the folders it is given: links to our logs."""
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and Path(os.readlink(link)).is_relative_to(state_dir):
            link.unlink(missing_ok=True)
    _rmdir(Path("/var/log/containers"))


def _rmdir(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return


def _end_shims(state_dir: Path) -> None:
    """Shims leave their parent's group; each names our containerd's socket in its command line."""
    mark = str(state_dir / "node" / "containerd.sock")

    def shims() -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if mark.encode() in words and b"shim" in words[0]:
                found.append(int(path.parent.name))
        return found

    _kill(shims())
    wait_for("the end of the containerd shims", lambda: not shims(), timeout_s=5)


def _remove_container_traces(state_dir: Path) -> None:
    """Of containers that were not ended by containerd: the shim's socket and the network plugins' cached results."""
    for bundle in (state_dir / "node" / "state").glob("io.containerd.runtime.v2.task/k8s.io/*"):
        with contextlib.suppress(OSError):
            Path((bundle / "address").read_text().strip().removeprefix("unix://")).unlink(missing_ok=True)
        for result in Path("/var/lib/cni/results").glob(f"*-{bundle.name}-*"):
            result.unlink(missing_ok=True)


def _unmount(roots: list[Path]) -> None:
    mounted = [line.split()[1].replace("\\040", " ") for line in Path("/proc/mounts").read_text().splitlines()]
    for path in sorted(mounted, key=len, reverse=True):
        cni = path.startswith(("/run/netns/cni-", "/var/run/netns/cni-"))
        if cni or any(Path(path).is_relative_to(root) for root in roots):
            subprocess.run([which("umount"), "-l", path], capture_output=True, timeout=20)
            if cni:
                Path(path).unlink(missing_ok=True)


def _network() -> None:
    for family in ("iptables", "ip6tables"):
        for table in ("nat", "filter", "mangle"):
            _clean_table(family, table)
    _ip("link", "delete", c.BRIDGE)
    _ip("addr", "delete", f"{c.HOST_IP}/32", "dev", "lo")


def _ip(*args: str) -> None:
    subprocess.run([which("ip"), *args], capture_output=True, timeout=10)


def _clean_table(family: str, table: str) -> None:
    """Write the table back without our chains and the rules that name them, in one transaction."""
    saved = subprocess.run([which(f"{family}-save"), "-t", table], capture_output=True, text=True, timeout=20)
    lines = saved.stdout.splitlines()
    kept = [line for line in lines if not _CHAINS.match(line) and not _ours(line)]
    if saved.returncode == 0 and len(kept) != len(lines):
        text = "\n".join(kept) + "\n"
        subprocess.run(
            [which(f"{family}-restore"), "-T", table], input=text, capture_output=True, text=True, timeout=20
        )


def _ours(line: str) -> bool:
    return line.startswith("-A") and any(word.startswith(("KUBE-", "CNI-")) for word in line.split())
