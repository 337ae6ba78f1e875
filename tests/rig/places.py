"""Where a :class:`~tests.rig.stack.Stack` plays: which ports it uses, and what it needs of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Protocol

from tests.rig.cluster import Rig
from tests.rig.podresources import Holder, holders
from tests.rig.process import Process, free_port, listens


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the processes listen, on 127.0.0.1. The examples in docs/ name the defaults of the first four."""

    rpc: int = 26657
    grpc: int = 9090
    rest: int = 1317
    gateway: int = 8443
    gateway_metrics: int = 9413
    agent: int = 9412
    operator: int = 9411
    prometheus: int = 9490

    @classmethod
    def free(cls) -> Ports:
        return cls(**{one.name: free_port() for one in fields(cls)})

    def taken(self) -> dict[str, int]:
        """Those that somebody already answers on."""
        found = {one.name: int(getattr(self, one.name)) for one in fields(self)}
        return {name: port for name, port in found.items() if listens("127.0.0.1", port)}


class StackCluster(Protocol):
    """What a stack needs of a cluster. ``OnRig`` is one; the demo has another for a cluster that the user brought."""

    @property
    def name(self) -> str: ...
    @property
    def kubeconfig(self) -> Path: ...
    @property
    def state_dir(self) -> Path: ...
    @property
    def log_dir(self) -> Path: ...
    @property
    def audit_log(self) -> Path | None: ...
    @property
    def dcgm_url(self) -> str: ...
    @property
    def node_name(self) -> str: ...
    @property
    def agents(self) -> Mapping[str, str]:
        """Node agents that run already, node name to URL; empty where the stack starts one."""
        ...

    @property
    def agent_token_file(self) -> Path | None:
        """The token of those agents; None where the stack makes one for its own."""
        ...

    @property
    def nvml_env(self) -> Mapping[str, str]: ...
    def identity(self, name: str) -> Path:
        """A kubeconfig for a process of that name, so that the audit log tells who wrote."""
        ...

    def kubectl(self, *args: str, input_text: str | None = None, timeout_s: float = 30.0) -> str: ...
    def start_process(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Process: ...
    def holders(self) -> Mapping[str, Holder]:
        """Device UUID to the container that has it, from the kubelet."""
        ...


@dataclass(slots=True)
class OnRig:
    """The rig as a stack's cluster."""

    rig: Rig
    agents: Mapping[str, str] = field(default_factory=dict)
    agent_token_file: Path | None = None

    @property
    def name(self) -> str:
        return f"the rig (node {self.rig.node_name})"

    @property
    def kubeconfig(self) -> Path:
        return self.rig.kubeconfig

    @property
    def state_dir(self) -> Path:
        return self.rig.state_dir

    @property
    def log_dir(self) -> Path:
        return self.rig.log_dir

    @property
    def audit_log(self) -> Path | None:
        return self.rig.audit_log

    @property
    def dcgm_url(self) -> str:
        return self.rig.dcgm_url

    @property
    def node_name(self) -> str:
        return self.rig.node_name

    @property
    def nvml_env(self) -> Mapping[str, str]:
        return self.rig.nvml_env

    def identity(self, name: str) -> Path:
        server = self.rig.server
        path = server.authority.folder / f"{name}.kubeconfig"
        if path.exists():
            return path
        # No chart and so no role of its own yet: a certificate in the administrators' group, under its own name.
        return server.authority.kubeconfig(name, server=server.server, common=name, groups=("system:masters",))

    def kubectl(self, *args: str, input_text: str | None = None, timeout_s: float = 30.0) -> str:
        return self.rig.kubectl(*args, input_text=input_text, timeout_s=timeout_s)

    def start_process(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
        return self.rig.start_process(name, argv, env)

    def holders(self) -> Mapping[str, Holder]:
        return holders()
