"""The node: containerd, CNI bridge, kubelet and kube-proxy, and the two images.

The bridge plugin connects pods and gives them addresses; it enforces no NetworkPolicy. What a policy forbids is
therefore reachable on this rig, and tests hold the policy objects, not their effect.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import yaml

from tests.rig import config as c
from tests.rig.apiserver import ApiServer
from tests.rig.cache import bin_dir, call, tool
from tests.rig.errors import RigError
from tests.rig.images.archive import write_image
from tests.rig.process import Process, free_port, listens, wait_for

_PATH = f"/usr/local/sbin:/usr/sbin:/sbin:{os.environ.get('PATH', '/usr/bin:/bin')}"


def which(program: str) -> str:
    for folder in _PATH.split(":"):
        if os.access(f"{folder}/{program}", os.X_OK):
            return f"{folder}/{program}"
    raise RigError(f"{program} is not installed; run make rig-build")


class Node:
    """Starts in steps, so that the control plane comes up meanwhile."""

    def __init__(self, server: ApiServer, *, name: str, state_dir: Path, run_dir: Path) -> None:
        self._server = server
        self.name = name
        self._dir = state_dir / "node"
        self._run_dir = run_dir
        self.processes: list[Process] = []
        self.socket = self._dir / "containerd.sock"

    def _spawn(self, name: str, argv: list[str]) -> Process:
        process = Process(name, argv, env={"PATH": _PATH}, run_dir=self._run_dir, log_dir=self._server.log_dir)
        self.processes.append(process)
        return process

    # -- containerd -------------------------------------------------------------------------------------------

    def start_containerd(self, *, image_aliases: tuple[str, ...] = ()) -> None:
        self._dir.mkdir(parents=True, exist_ok=True)
        conf = self._dir / "cni"
        conf.mkdir(exist_ok=True)
        (conf / "10-bridge.conflist").write_text(json.dumps(_bridge(self._dir / "ipam")))
        settings = self._dir / "containerd.toml"
        settings.write_text(_containerd(self._dir, self.socket, conf))
        process = self._spawn("containerd", [which("containerd"), "--config", str(settings), "--log-level", "warn"])
        process.wait_until("containerd's socket", self._containerd_ready, timeout_s=30)
        self._import("pause", (c.PAUSE_IMAGE,), "/pause", "0")
        self._import("gpulease-demo", (c.DEMO_IMAGE, *image_aliases), "/bin/demo", "1000")

    def ctr(self, *args: str, timeout_s: float = 30.0) -> str:
        return call([which("ctr"), "-a", str(self.socket), "-n", "k8s.io", *args], timeout_s=timeout_s)

    def _containerd_ready(self) -> bool:
        if not self.socket.exists():
            return False
        try:
            self.ctr("version", timeout_s=5)
        except RigError:
            return False
        return True

    def _import(self, binary: str, names: tuple[str, ...], path: str, user: str) -> None:
        archive = self._dir / f"{binary}.tar"
        write_image(archive, names=names, binary=bin_dir() / binary, path=path, user=user)
        self.ctr("images", "import", str(archive))

    # -- kubelet and kube-proxy --------------------------------------------------------------------------------

    def start_kubelet(self) -> None:
        authority = self._server.authority
        serving = authority.issue("kubelet-serving", common=f"system:node:{self.name}", hosts=(self.name, c.HOST_IP))
        kubeconfig = authority.kubeconfig(
            "kubelet", server=self._server.server, common=f"system:node:{self.name}", groups=("system:nodes",)
        )
        settings = self._dir / "kubelet.yaml"
        settings.write_text(yaml.safe_dump(_kubelet(self.socket, authority.ca, serving, self._dir)))
        argv = [
            tool("kubelet"),
            f"--config={settings}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self.name}",
            f"--root-dir={c.KUBELET_DIR}",
            f"--node-ip={c.HOST_IP}",
            "--v=1",
        ]
        process = self._spawn("kubelet", argv)
        plugin_socket = c.KUBELET_DIR / "device-plugins" / "kubelet.sock"
        process.wait_until("the kubelet's device plugin socket", plugin_socket.exists, timeout_s=30)

    def start_kube_proxy(self) -> None:
        kubeconfig = self._server.authority.kubeconfig(
            "kube-proxy", server=self._server.server, common="system:kube-proxy"
        )
        settings = self._dir / "kube-proxy.yaml"
        port = free_port()
        settings.write_text(yaml.safe_dump(_kube_proxy(kubeconfig, self.name, port)))
        process = self._spawn("kube-proxy", [tool("kube-proxy"), f"--config={settings}", "--v=1"])
        # It ends at once on settings it does not like; its metrics answer once those are taken.
        process.wait_until("kube-proxy listening", lambda: listens("127.0.0.1", port), timeout_s=20)

    def wait_ready(self, *, timeout_s: float) -> None:
        def ready() -> bool:
            try:
                return '"Ready"="True"' in self._server.kubectl(
                    "get",
                    "node",
                    self.name,
                    "-o",
                    'jsonpath={range .status.conditions[*]}"{.type}"="{.status}" {end}',
                    timeout_s=5,
                )
            except RigError:
                return False

        wait_for("the node being Ready", ready, timeout_s=timeout_s, interval_s=0.2)


def add_address() -> None:
    """The node's address, on lo: the API server publishes no endpoint for 127.0.0.1, and there is no dummy driver."""
    done = subprocess.run(
        [which("ip"), "addr", "add", f"{c.HOST_IP}/32", "dev", "lo"], capture_output=True, text=True, timeout=10
    )
    if done.returncode and "exists" not in done.stderr and "assigned" not in done.stderr:
        raise RigError(f"the address {c.HOST_IP} could not be added to lo: {done.stderr.strip()}")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")


def _bridge(ipam: Path) -> dict[str, object]:
    bridge = {
        "type": "bridge",
        "bridge": c.BRIDGE,
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(ipam),
            "ranges": [[{"subnet": c.POD_CIDR}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "rig", "plugins": [bridge, portmap]}


def _containerd(folder: Path, socket: Path, cni: Path) -> str:
    runtimes = "".join(
        f"""
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}.options]
      BinaryName = "{which("runc")}"
"""
        # There is no NVIDIA toolkit to hook in: the handler that a RuntimeClass nvidia names is plain runc here.
        for name in ("runc", "nvidia")
    )
    return f"""version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{c.PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
{runtimes}"""


def _kubelet(socket: Path, ca: Path, serving: Path, folder: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": c.HOST_IP,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(ca)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(serving),
        "tlsPrivateKeyFile": str(serving.with_suffix(".key")),
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "failCgroupV1": False,
        "containerRuntimeEndpoint": f"unix://{socket}",
        "resolvConf": "",
        "clusterDNS": [c.DNS_IP],
        "clusterDomain": "cluster.local",
        "podLogsDir": str(folder / "pod-logs"),
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"},
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "2s",
        "syncFrequency": "10s",
        "registerNode": True,
        "serverTLSBootstrap": False,
        "healthzPort": 0,
        "readOnlyPort": 0,
        "shutdownGracePeriod": "0s",
    }


def _kube_proxy(kubeconfig: Path, node: str, metrics_port: int) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": c.POD_CIDR,
        "detectLocalMode": "ClusterCIDR",
        "hostnameOverride": node,
        "mode": "iptables",
        "bindAddress": c.HOST_IP,
        "healthzBindAddress": "",
        "metricsBindAddress": f"127.0.0.1:{metrics_port}",
        "nodePortAddresses": [f"{c.HOST_IP}/32"],
        # The machine's own connection tracking limits stay as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
