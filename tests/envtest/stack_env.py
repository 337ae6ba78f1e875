"""A stack's cluster that is an API server without a node: the node is an object, its agent runs in the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.rig.envtest import EnvTest
from tests.rig.podresources import Holder
from tests.rig.process import Process


class OnEnvTest:
    """What :class:`tests.rig.stack.Stack` needs of a cluster."""

    def __init__(self, env: EnvTest, folder: Path, *, node: str, agents: Mapping[str, str], token_file: Path) -> None:
        self._env, self._folder = env, folder
        self.node_name, self.agents, self.agent_token_file = node, dict(agents), token_file
        self.name, self.dcgm_url, self.audit_log = "a real API server", "", None
        self.nvml_env: Mapping[str, str] = {}

    @property
    def kubeconfig(self) -> Path:
        return self._env.kubeconfig

    @property
    def state_dir(self) -> Path:
        return self._folder

    @property
    def log_dir(self) -> Path:
        return self._folder / "logs"

    def identity(self, name: str) -> Path:
        return self._env.kubeconfig

    def kubectl(self, *args: str, input_text: str | None = None, timeout_s: float = 30.0) -> str:
        return self._env.kubectl(*args, input_text=input_text, timeout_s=timeout_s)

    def start_process(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
        return Process(name, argv, env=env, run_dir=self._folder / "run", log_dir=self.log_dir)

    def holders(self) -> Mapping[str, Holder]:
        return {}
