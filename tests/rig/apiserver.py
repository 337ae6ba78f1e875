"""etcd and kube-apiserver: all that tests of CRDs need, and the core of the whole rig."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.rig.cache import tool
from tests.rig.config import SERVICE_CIDR, SERVICE_IP
from tests.rig.errors import RigError
from tests.rig.pki import Authority
from tests.rig.process import Process, free_port

_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
_AUDIT_POLICY = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n"


class ApiServer:
    """Own CA, client certificates both to etcd and to the API server, free ports; audit log at level Metadata."""

    def __init__(self, folder: Path, *, address: str, run_dir: Path, log_dir: Path) -> None:
        self.folder = folder
        self.address = address
        self._run_dir = run_dir
        self.log_dir = log_dir
        for path in (folder, run_dir, log_dir):
            path.mkdir(parents=True, exist_ok=True)
        self.authority = Authority(folder / "pki")
        self.audit_log = log_dir / "audit.log"
        self.port = free_port(address)
        self.server = f"https://{address}:{self.port}"
        groups = ("system:masters",)
        self.kubeconfig = self.authority.kubeconfig("admin", server=self.server, common="rig-admin", groups=groups)
        self.processes: list[Process] = []

    def start(self, *, timeout_s: float = 30.0, extra: Sequence[str] = ()) -> None:
        private, public = self.authority.service_account_keys()
        self.service_account_key = private
        etcd_url = self._start_etcd()
        serving = self.authority.issue(
            "apiserver", common="kube-apiserver", hosts=(self.address, "127.0.0.1", SERVICE_IP, *_NAMES)
        )
        kubelet = self.authority.issue("apiserver-kubelet", common="kube-apiserver-kubelet", groups=("system:masters",))
        client = self.authority.issue("apiserver-etcd", common="kube-apiserver")
        policy = self.folder / "audit.yaml"
        policy.write_text(_AUDIT_POLICY)
        ca = str(self.authority.ca)
        argv = [
            tool("kube-apiserver"),
            f"--etcd-servers={etcd_url}",
            f"--etcd-cafile={ca}",
            f"--etcd-certfile={client}",
            f"--etcd-keyfile={client.with_suffix('.key')}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={self.port}",
            f"--tls-cert-file={serving}",
            f"--tls-private-key-file={serving.with_suffix('.key')}",
            f"--client-ca-file={ca}",
            "--anonymous-auth=false",
            f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={private}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--allow-privileged=true",
            f"--kubelet-certificate-authority={ca}",
            f"--kubelet-client-certificate={kubelet}",
            f"--kubelet-client-key={kubelet.with_suffix('.key')}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_log}",
            "--profiling=false",
            "--v=1",
            *extra,
        ]
        process = self._spawn("kube-apiserver", argv)
        process.wait_until("the API server's /readyz", self.ready, timeout_s=timeout_s)

    def _start_etcd(self) -> str:
        port, peer = free_port(), free_port()
        certificate = self.authority.issue("etcd", common="etcd", hosts=("127.0.0.1", "localhost"))
        url = f"https://127.0.0.1:{port}"
        tls = [
            f"--{kind}{part}"
            for kind in ("", "peer-")
            for part in (
                f"cert-file={certificate}",
                f"key-file={certificate.with_suffix('.key')}",
                f"trusted-ca-file={self.authority.ca}",
                "client-cert-auth",
            )
        ]
        argv = [
            tool("etcd"),
            f"--data-dir={self.folder / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls=https://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=https://127.0.0.1:{peer}",
            f"--initial-cluster=default=https://127.0.0.1:{peer}",
            *tls,
        ]
        self._spawn("etcd", argv)
        return url

    def _spawn(self, name: str, argv: Sequence[str]) -> Process:
        process = Process(name, argv, env=None, run_dir=self._run_dir, log_dir=self.log_dir)
        self.processes.append(process)
        return process

    def ready(self) -> bool:
        try:
            return self.kubectl("get", "--raw", "/readyz", timeout_s=5).strip() == "ok"
        except RigError:
            return False

    def kubectl(self, *args: str, input_text: str | None = None, timeout_s: float = 30.0) -> str:
        return kubectl(self.kubeconfig, *args, input_text=input_text, timeout_s=timeout_s)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate(grace_s=5.0)
        self.processes.clear()


def kubectl(kubeconfig: Path, *args: str, input_text: str | None = None, timeout_s: float = 30.0) -> str:
    """Standard output of kubectl; a RigError with what it said on the other."""
    return kubectl_with(tool("kubectl"), kubeconfig, *args, input_text=input_text, timeout_s=timeout_s)


def kubectl_with(
    program: str, kubeconfig: Path | None, *args: str, input_text: str | None = None, timeout_s: float = 30.0
) -> str:
    """The same with a kubectl of choice; without ``kubeconfig`` it follows the environment."""
    argv = [program, *([f"--kubeconfig={kubeconfig}"] if kubeconfig else []), *args]
    env = {**os.environ, **({"KUBECACHEDIR": str(kubeconfig.parent / "kubectl-cache")} if kubeconfig else {})}
    try:
        done = subprocess.run(
            argv,
            input=input_text if input_text is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=env,
        )
    except subprocess.TimeoutExpired:
        raise RigError(f"kubectl {' '.join(args)} took longer than {timeout_s:.0f} s") from None
    if done.returncode:
        raise RigError(f"kubectl {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
