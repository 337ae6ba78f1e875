"""A cluster that the user brought (``KUBECONFIG``): what it lacks for the story, and how to leave it as it was.

Chain, gateway, operator and, where the kubelet is this machine's, the node agent run here; the pods run there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpulease.market.gpu import kind_of_product
from tests.rig.apiserver import kubectl_with
from tests.rig.cache import bin_dir, cache_dir
from tests.rig.config import DEMO_IMAGE
from tests.rig.errors import RigError
from tests.rig.podresources import SOCKET, Holder, holders
from tests.rig.process import Process, end_group, marked, read_pid_file, write_pid_file
from tests.rig.stack import OPERATOR_NAMESPACE, OURS, TENANT_NAMESPACE, Stack
from tests.rig.web import get_json, status_of

GPU = "nvidia.com/gpu"
PRODUCT = "nvidia.com/gpu.product"
_RIGHTS = (
    ("create", "customresourcedefinitions"),
    ("delete", "customresourcedefinitions"),
    ("create", "namespaces"),
    ("delete", "namespaces"),
    ("create", "secrets"),
    ("create", "deployments.apps"),
    ("create", "networkpolicies.networking.k8s.io"),
    ("create", "resourcequotas"),
    ("list", "nodes"),
    ("list", "pods"),
)


@dataclass(frozen=True, slots=True)
class Lack:
    """``fatal``: the story cannot be told without it. Else it is told without the steps named in ``skips``."""

    words: str
    fatal: bool = True
    skips: tuple[str, ...] = ()


def state_dir() -> Path:
    return cache_dir().with_name("gpulease-demo")


class OwnCluster:
    """Settings from the environment: ``DEMO_AGENTS`` (``NODE=URL,…``), ``DEMO_AGENT_TOKEN_FILE``, ``DEMO_DCGM_URL``,
    ``DEMO_IMAGE``. Its folder holds a copy of the kubeconfig's current context, so that a later clean-up finds it."""

    audit_log: Path | None = None

    def __init__(self, env: Mapping[str, str]) -> None:
        self.state_dir = state_dir()
        self.log_dir = self.state_dir / "logs"
        self.run_dir = self.state_dir / "run"
        self.kubeconfig = self.state_dir / "kubeconfig"
        self._env = env
        self._processes: list[Process] = []
        self._tool = _kubectl_program()
        self.agents = _pairs(env.get("DEMO_AGENTS", ""))
        token = env.get("DEMO_AGENT_TOKEN_FILE", "")
        self.agent_token_file = Path(token) if token else None
        self.dcgm_url = env.get("DEMO_DCGM_URL", "")
        self.image = env.get("DEMO_IMAGE", "")
        self.nvml_env: Mapping[str, str] = {}
        self.node_name = ""
        self.gpu_model = ""

    @property
    def name(self) -> str:
        return f"the cluster of {self._env.get('KUBECONFIG', str(self.kubeconfig))}"

    # -- StackCluster ------------------------------------------------------------------------------------------

    def identity(self, name: str) -> Path:
        return self.kubeconfig

    def kubectl(self, *args: str, input_text: str | None = None, timeout_s: float = 30.0) -> str:
        return kubectl_with(self._tool, self.kubeconfig, *args, input_text=input_text, timeout_s=timeout_s)

    def start_process(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
        process = Process(name, argv, env=env, run_dir=self.run_dir, log_dir=self.log_dir)
        self._processes.append(process)
        return process

    def holders(self) -> Mapping[str, Holder]:
        """This machine's kubelet, or what the agents on the nodes read from theirs."""
        if not self.agents:
            return holders()
        found = {}
        for url in self.agents.values():
            headers = {}
            if self.agent_token_file is not None:
                headers["Authorization"] = f"Bearer {self.agent_token_file.read_text().strip()}"
            answer = get_json(f"{url}/v1/allocations", headers=headers)
            if not answer["known"]:
                raise RigError(f"the agent {url} does not know its allocations: {answer['problem']}")
            for one in answer["allocations"]:
                found[one["device_uuid"]] = Holder(one["namespace"], one["pod"], one["container"])
        return found

    # -- before ------------------------------------------------------------------------------------------------

    def prepare(self) -> list[Lack]:
        """Copy the context, look at the cluster, and say everything it lacks at once."""
        for folder in (self.state_dir, self.log_dir, self.run_dir):
            folder.mkdir(parents=True, exist_ok=True)
        write_pid_file(self.state_dir / "owner", os.getpid())
        self.kubeconfig.touch(mode=0o600)
        if self._env.get("KUBECONFIG"):
            source = ("config", "view", "--flatten", "--minify", "-o", "yaml")
            self.kubeconfig.write_text(kubectl_with(self._tool, None, *source, input_text=None, timeout_s=30))
        try:
            self.kubectl("get", "--raw", "/readyz", timeout_s=15)
        except RigError as error:
            return [Lack(f"{self.name} does not answer: {error}")]
        crds = self.kubectl("get", "crd", "-o", "name").splitlines()
        known = [name for name in crds if name.endswith(".gpulease.dev")]
        (self.state_dir / "crds-before").write_text("\n".join(known))
        return [*self._rights(), *self._installed(), *self._gpus(), *self._agent(), *self.monitoring()]

    def _rights(self) -> list[Lack]:
        missing = []
        for verb, resource in _RIGHTS:
            try:
                self.kubectl("auth", "can-i", verb, resource, "--all-namespaces", "--quiet")
            except RigError:
                missing.append(f"{verb} {resource}")
        return [Lack(f"your account may not {', '.join(missing)}; use an administrator's context")] if missing else []

    def _installed(self) -> list[Lack]:
        found = []
        for name in (OPERATOR_NAMESPACE, TENANT_NAMESPACE):
            text = self.kubectl("get", "namespace", name, "--ignore-not-found", "-o", "json")
            if text.strip() and OURS not in json.loads(text)["metadata"].get("labels", {}):
                found.append(name)
        words = "exists and is not the demo's: remove it, or take a cluster without gpulease in it"
        return [Lack(f"namespace {name} {words}") for name in found]

    def _gpus(self) -> list[Lack]:
        nodes = json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]
        with_gpus = [one for one in nodes if int(one["status"].get("allocatable", {}).get(GPU, 0)) > 0]
        if not with_gpus:
            return [Lack(f"no node has allocatable {GPU}: NVIDIA's device plugin does not run, or there is no GPU")]
        labelled = [one for one in with_gpus if PRODUCT in one["metadata"].get("labels", {})]
        if not labelled:
            return [Lack(f"no GPU node has the label {PRODUCT}: GPU feature discovery does not run")]
        node = next((one for one in labelled if one["metadata"]["name"] in self.agents), labelled[0])
        self.node_name = node["metadata"]["name"]
        product = node["metadata"]["labels"][PRODUCT]
        kind = kind_of_product(product)
        if kind is None:
            return [Lack(f"{product} on node {self.node_name} is not in the operator's table of models")]
        self.gpu_model = kind.model
        return self._image(node)

    def _image(self, node: Mapping[str, Any]) -> list[Lack]:
        names = [name for image in node["status"].get("images", ()) for name in image.get("names") or ()]
        if self.image or DEMO_IMAGE in names:
            return []
        return [
            Lack(
                f"node {self.node_name} does not have the image {DEMO_IMAGE}; name one that it can pull, which "
                "runs as a user other than root and goes on running: DEMO_IMAGE=… make demo"
            )
        ]

    def _agent(self) -> list[Lack]:
        how = (
            "start `gpulease agent --node NAME --listen HOST:9412 --token-file FILE` on each GPU node and name them: "
            "DEMO_AGENTS=NAME=http://HOST:9412 DEMO_AGENT_TOKEN_FILE=FILE make demo"
        )
        if not self.agents:
            local = SOCKET.exists() and os.access(SOCKET, os.W_OK)
            return (
                []
                if local
                else [Lack(f"there is no node agent, and no kubelet on this machine to start one by; {how}")]
            )
        silent = [url for url in self.agents.values() if status_of(f"{url}/healthz") != 200]
        return [Lack(f"the node agent at {url} does not answer /healthz with 200; {how}") for url in silent]

    def monitoring(self) -> list[Lack]:
        """What only leaves steps out."""
        if not shutil.which("prometheus"):
            return [
                Lack("prometheus is not installed on this machine", False, ("Prometheus", "DCGM series of that GPU"))
            ]
        if not self.dcgm_url or status_of(self.dcgm_url) != 200:
            said = f"at {self.dcgm_url}" if self.dcgm_url else "named: DEMO_DCGM_URL=http://HOST:9400/metrics make demo"
            self.dcgm_url = ""
            return [Lack(f"no dcgm-exporter answers {said}", False, ("DCGM series of that GPU",))]
        return []

    # -- after -------------------------------------------------------------------------------------------------

    def clean(self) -> None:
        """End our processes, take our objects out of the cluster, forget its kubeconfig. Logs stay. Safe to repeat."""
        owner = read_pid_file(self.state_dir / "owner")
        if owner and owner[0] != os.getpid():
            raise RigError(f"process {owner[0]} shows the demo on {self.name} now; end it first")
        for path in self.run_dir.glob("*.pid"):
            found = read_pid_file(path)
            if found:
                end_group(*found, grace_s=5.0)
            path.unlink(missing_ok=True)
        for pid, ticks in marked(self.run_dir):
            end_group(pid, ticks, grace_s=5.0)
        if not self.kubeconfig.exists():
            return
        Stack(self).erase()
        before = self.state_dir / "crds-before"
        if before.exists():
            now = self.kubectl("get", "crd", "-o", "name").splitlines()
            ours = [n for n in now if n.endswith(".gpulease.dev") and n not in before.read_text().splitlines()]
            if ours:
                self.kubectl("delete", *ours, timeout_s=60)
            before.unlink()
        self.kubeconfig.unlink()
        (self.state_dir / "owner").unlink(missing_ok=True)
        for folder in (self.run_dir, self.state_dir / "kubectl-cache"):
            shutil.rmtree(folder, ignore_errors=True)


def _kubectl_program() -> str:
    found = shutil.which("kubectl") or str(bin_dir() / "kubectl")
    if not Path(found).exists():
        raise RigError("KUBECONFIG is set and there is no kubectl: install it, or run make rig-build")
    return found


def _pairs(text: str) -> dict[str, str]:
    """``NODE=URL,NODE=URL``."""
    found = {}
    for part in filter(None, text.split(",")):
        node, sign, url = part.partition("=")
        if not sign or not url.startswith("http://"):
            raise RigError(f"DEMO_AGENTS: {part!r} is not NODE=http://HOST:PORT")
        found[node] = url.rstrip("/")
    return found
