"""``Rig``: a one-node Kubernetes with GPUs that are not there, on the machine itself. Needs root.

Real: etcd, the control plane, kubelet, containerd, kube-proxy, NVIDIA's device plugin and feature discovery,
Prometheus. Doubles: NVML, and a DCGM exporter on it. Not there: cluster DNS and enforcement of NetworkPolicies.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.rig import cleanup
from tests.rig import config as c
from tests.rig.apiserver import ApiServer
from tests.rig.build import build_all
from tests.rig.cache import tool
from tests.rig.config import GpuSpec, RigConfig
from tests.rig.errors import RigError
from tests.rig.gpu import Gpus
from tests.rig.node import Node, add_address
from tests.rig.process import Process, free_port, read_pid_file, wait_for, write_pid_file
from tests.rig.prometheus import ready, write_settings

__all__ = ["GpuSpec", "Rig", "RigConfig", "RigError"]

_RUNTIME_CLASS = "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: nvidia}\nhandler: nvidia\n"
_PROXY_BINDING = """apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: rig-kube-proxy}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:node-proxier}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: system:kube-proxy}]
"""


class Rig:
    """``rig = Rig(RigConfig(...)); rig.up(); ...; rig.down()``, or as a context manager.

    After ``up`` the attributes below hold; ``warm_s`` is how long it took, builds not counted.
    """

    host_ip = c.HOST_IP
    demo_image = c.DEMO_IMAGE
    pod_resources_socket = c.KUBELET_DIR / "pod-resources" / "kubelet.sock"

    def __init__(self, config: RigConfig | None = None) -> None:
        self.config = config or RigConfig()
        self.node_name = self.config.node_name
        self.state_dir = self.config.state_dir
        self.run_dir = self.state_dir / "run"
        self.log_dir = self.state_dir / "logs"
        self.warm_s = 0.0
        self.dcgm_url = ""
        self.prometheus_url = ""
        self._extra: list[Process] = []
        self._server: ApiServer | None = None
        self._gpus: Gpus | None = None
        self._node: Node | None = None
        self._plugin: Process | None = None
        self._lock: IO[str] | None = None

    # -- life --------------------------------------------------------------------------------------------------

    def __enter__(self) -> Rig:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self) -> None:
        """Build what is missing, remove what an aborted run left, start everything, wait until the GPUs can be had."""
        if os.geteuid() != 0:
            raise RigError("the rig needs root (containers, network, /var/lib/kubelet): run as root, or set RIG=none")
        self._take_lock()
        self._refuse_second()
        build_all()
        self.clear()
        began = time.monotonic()
        try:
            self._start()
        except BaseException:
            self.down()
            raise
        self.warm_s = time.monotonic() - began
        print(f"rig: up in {self.warm_s:.1f} s: node {self.node_name}, {len(self.gpu_uuids)} GPUs", flush=True)

    def clear(self) -> None:
        """Remove what an aborted run left; a RigError where another process has a rig up."""
        self._refuse_second()
        cleanup.sweep(self.state_dir)

    def _take_lock(self) -> None:
        """One rig at a time on a machine, also between two that start at the same moment; GPULEASE_RIG_WAIT_S waits."""
        lock = self.state_dir.with_name(f"{self.state_dir.name}.lock").open("w")
        deadline = time.monotonic() + float(os.environ.get("GPULEASE_RIG_WAIT_S", "0"))
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    lock.close()
                    words = "another rig is up or coming up on this machine; wait for it, or end it with make rig-down"
                    raise RigError(words) from None
                time.sleep(0.5)
            else:
                self._lock = lock
                return

    def _refuse_second(self) -> None:
        owner = read_pid_file(self.run_dir / "owner")
        if owner and owner[0] != os.getpid():
            raise RigError(f"process {owner[0]} has a rig up on this machine; end it, or run make rig-down")
        if (self.run_dir / "detached").exists() and read_pid_file(self.run_dir / "kubelet.pid"):
            raise RigError(
                f"a rig is already up on this machine (KUBECONFIG={self.state_dir}/kubeconfig); run make rig-down first"
            )

    def _start(self) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        write_pid_file(self.run_dir / "owner", os.getpid())
        cleanup.claim_kubelet_dir()
        add_address()
        server = ApiServer(self.state_dir / "control", address=c.HOST_IP, run_dir=self.run_dir, log_dir=self.log_dir)
        self._server = server
        node = Node(server, name=self.node_name, state_dir=self.state_dir, run_dir=self.run_dir)
        self._node = node
        self._gpus = Gpus(server, self.config, folder=self.state_dir / "gpus", run_dir=self.run_dir)
        server.start(timeout_s=self.config.ready_timeout_s)
        self.kubeconfig.symlink_to(server.kubeconfig)
        self._start_controllers(server)
        node.start_containerd(image_aliases=tuple(self.config.image_aliases))
        node.start_kubelet()
        self._plugin = self._gpus.start_plugin()
        server.kubectl("apply", "-f", "-", input_text=f"{_PROXY_BINDING}---\n{_RUNTIME_CLASS}")
        if self.config.kube_proxy:
            node.start_kube_proxy()
        if self.config.dcgm:
            self._start_dcgm()
        node.wait_ready(timeout_s=self.config.ready_timeout_s)
        self.node_labels = self._gpus.label_node(self.node_name)
        self.gpus.wait_allocatable(self.node_name, len(self.gpu_uuids), timeout_s=self.config.ready_timeout_s)
        self._wait_default_account(server)
        for process in (*self._extra, self._plugin, *node.processes, *server.processes):
            process.check()
        if self.config.detached:
            (self.run_dir / "detached").touch()
            (self.run_dir / "owner").unlink()

    def _wait_default_account(self, server: ApiServer) -> None:
        def there() -> bool:
            return bool(server.kubectl("get", "serviceaccount", "default", "--ignore-not-found", "-o", "name").strip())

        wait_for("the default service account", there, timeout_s=30)

    def _start_controllers(self, server: ApiServer) -> None:
        for name, common in (
            ("kube-controller-manager", "system:kube-controller-manager"),
            ("kube-scheduler", "system:kube-scheduler"),
        ):
            kubeconfig = server.authority.kubeconfig(name, server=server.server, common=common)
            argv = [tool(name), f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--v=1", "--secure-port=0"]
            if name == "kube-controller-manager":
                argv += [
                    f"--service-account-private-key-file={server.service_account_key}",
                    f"--root-ca-file={server.authority.ca}",
                    "--use-service-account-credentials=true",
                ]
            self.start_process(name, argv, {})

    def _start_dcgm(self) -> None:
        port = free_port(c.HOST_IP)
        self.dcgm_url = f"http://{c.HOST_IP}:{port}/metrics"
        self.start_module("load", "tests.rig.load", "--state", str(self.gpus.folder))
        self.start_module(
            "dcgm", "tests.rig.dcgm", "--address", c.HOST_IP, "--port", str(port), "--hostname", self.node_name
        )

    def down(self) -> None:
        """End everything, newest first, and leave the machine as it was. Logs stay in ``<state dir>-last-logs``."""
        for process in reversed(self._extra):
            process.terminate(grace_s=5.0)
        self._extra.clear()
        plugin, self._plugin = self._plugin, None
        if plugin is not None:
            plugin.terminate()
        node, self._node = self._node, None
        for process in reversed(node.processes if node else []):
            process.terminate(grace_s=5.0)
        if self._server is not None:
            self._server.stop()
        self._server = None
        cleanup.sweep(self.state_dir)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # -- use ---------------------------------------------------------------------------------------------------

    @property
    def server(self) -> ApiServer:
        if self._server is None:
            raise RigError("the rig is not up")
        return self._server

    @property
    def gpus(self) -> Gpus:
        if self._gpus is None:
            raise RigError("the rig is not up")
        return self._gpus

    @property
    def kubeconfig(self) -> Path:
        return self.state_dir / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        return self.server.audit_log

    @property
    def nvml_env(self) -> dict[str, str]:
        """What a process needs in its environment to find the double."""
        return dict(self.gpus.env)

    @property
    def gpu_uuids(self) -> list[str]:
        return list(self.gpus.uuids)

    def inject_xid(self, gpu_index: int, xid: int) -> None:
        self.gpus.inject_xid(gpu_index, xid)

    def restart_plugin(self) -> None:
        """Heal devices that NVIDIA's plugin holds for sick; it knows no other way."""
        if self._plugin is not None:
            self._plugin.terminate()
        self._plugin = self.gpus.start_plugin()

    def kubectl(self, *args: str, input_text: str | None = None, timeout_s: float = 30.0) -> str:
        return self.server.kubectl(*args, input_text=input_text, timeout_s=timeout_s)

    def load_image(self, archive: Path) -> None:
        """Make an image of a docker archive known to the node."""
        if self._node is None:
            raise RigError("the rig is not up")
        self._node.ctr("images", "import", str(archive), timeout_s=180)

    def start_process(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
        """Start a program whose log lands in ``log_dir`` and which ``down`` ends. A name is free again once ended."""
        process = Process(name, argv, env=env, run_dir=self.run_dir, log_dir=self.log_dir)
        self._extra.append(process)
        return process

    def start_module(self, name: str, module: str, *args: str) -> Process:
        """One of the rig's own Python programs, with the double in its environment."""
        root = Path(__file__).resolve().parents[2]
        env = {**self.nvml_env, "PYTHONPATH": f"{root}:{root / 'operator'}"}
        return self.start_process(name, [sys.executable, "-m", module, *args], env)

    def start_prometheus(self, targets: Mapping[str, str], *, interval_s: int = 1) -> str:
        """Prometheus scraping ``job name -> host:port[/path]``; gives its base URL once it is ready."""
        port = free_port(c.HOST_IP)
        argv = write_settings(self.state_dir / "prometheus", targets, interval_s=interval_s)
        url = f"http://{c.HOST_IP}:{port}"
        process = self.start_process("prometheus", [*argv, f"--web.listen-address={c.HOST_IP}:{port}"], {})
        process.wait_until("Prometheus being ready", lambda: ready(url), timeout_s=30)
        self.prometheus_url = url
        return url
