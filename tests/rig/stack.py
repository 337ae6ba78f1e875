"""``Stack``: the embedded chain, node agent, gateway, operator and Prometheus as processes beside a cluster.

Used by ``make demo`` and by the e2e tests, which hand in the session's rig::

    stack = Stack(OnRig(rig), name="story", ports=Ports.free(), block_time_ms=500)
    try:
        stack.up()                                  # or start_chain(), install(), start_agent(), start_operator() …
        stack.apply_example("provider.yaml")
        stack.apply_example("lease.yaml")
        stack.kill9("operator"); stack.start_operator()
    finally:
        stack.down(); stack.erase()

Nothing here decides whether what the processes did is right: that is for the checks, from the sources themselves.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.rig.chainview import ChainView
from tests.rig.errors import RigError
from tests.rig.places import OnRig, Ports, StackCluster
from tests.rig.process import Process
from tests.rig.prometheus import ready, write_settings
from tests.rig.web import get_json, status_of

__all__ = ["OnRig", "Ports", "Stack", "StackCluster", "rss_mb", "until"]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
OPERATOR_NAMESPACE = "gpulease-system"
TENANT_NAMESPACE = "team-a"
OURS = "gpulease.dev/demo"
"""Label of the namespaces that a stack makes."""
LEASE_PROVIDER = "akash.network/lease.id.provider"
"""Label of a lease's namespace with the provider's account in it."""
Json = dict[str, Any]
Change = Callable[[Json], None]


class Stack:
    """Starts, kills and restarts each part; state outlives the processes in ``folder`` until :meth:`erase`.

    ``name`` keeps the files of several stacks on one rig apart. ``processes`` holds what was started last under each
    of ``devnet``, ``agent``, ``gateway``, ``operator``, ``prometheus``.
    """

    def __init__(
        self,
        cluster: StackCluster,
        *,
        name: str = "demo",
        ports: Ports | None = None,
        block_time_ms: int = 1000,
        chain_id: str = "gpulease-devnet",
        operator_env: Mapping[str, str] | None = None,
        agent_args: Sequence[str] = ("--sample-s", "0.5", "--record-s", "2", "--dcgm-s", "1"),
    ) -> None:
        self.cluster, self.name, self.chain_id = cluster, name, chain_id
        self.ports = ports or Ports()
        self.block_time_ms = block_time_ms
        self.folder = cluster.state_dir / f"stack-{name}"
        self.processes: dict[str, Process] = {}
        self._operator_env = dict(operator_env or {})
        self._agent_args = tuple(agent_args)
        local = "http://127.0.0.1"
        self.chain = ChainView(rpc=f"{local}:{self.ports.rpc}", rest=f"{local}:{self.ports.rest}")
        self.operator_url = f"{local}:{self.ports.operator}"
        self.gateway_url = f"https://127.0.0.1:{self.ports.gateway}"
        self.gateway_metrics_url = f"{local}:{self.ports.gateway_metrics}"
        self.prometheus_url = f"{local}:{self.ports.prometheus}"
        self.agents: dict[str, str] = dict(cluster.agents) or {cluster.node_name: f"{local}:{self.ports.agent}"}

    # -- all at once -------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Everything but the examples, in an order in which nothing waits for long."""
        self.start_chain()
        self.install()
        self.start_agent()
        self.start_operator()
        self.start_gateway()
        self.start_prometheus()

    def down(self) -> None:
        """End every process, newest first, each gracefully."""
        for process in reversed(self.processes.values()):
            process.terminate(grace_s=10.0)
        self.processes.clear()

    # -- parts -------------------------------------------------------------------------------------------------

    def start_chain(self) -> None:
        """The embedded chain with its state in ``folder``; started again it goes on where it was."""
        home = self.folder / "devnet"
        home.mkdir(parents=True, exist_ok=True)
        argv = [
            *("--home", str(home), "--chain-id", self.chain_id, "--block-time-ms", str(self.block_time_ms)),
            *("--rpc-port", str(self.ports.rpc), "--grpc-port", str(self.ports.grpc)),
            *("--rest-port", str(self.ports.rest)),
        ]
        process = self._start("devnet", "devnet", argv)
        process.wait_until("the chain's first block", self._chain_answers, timeout_s=30)

    def _chain_answers(self) -> bool:
        try:
            return self.chain.height() >= 1
        except RigError:
            return False

    def key(self, account: str) -> tuple[str, str]:
        """Address and private key (hexadecimal, for tests) of ``provider``, ``tenant`` or another of the devnet's."""
        keys = json.loads((self.folder / "devnet" / "keys.json").read_text())
        try:
            return keys[account]["address"], keys[account]["private_key_hex"]
        except KeyError:
            raise RigError(f"the chain has no account {account!r}; it has {', '.join(sorted(keys))}") from None

    def address(self, account: str) -> str:
        return self.key(account)[0]

    def install(self) -> None:
        """CRDs, both namespaces, and the wallets as Secrets made with kubectl."""
        crds = sorted(str(path) for path in (ROOT / "crds").glob("*.yaml"))
        self.cluster.kubectl("apply", *(word for path in crds for word in ("-f", path)))
        names = [Path(path).stem for path in crds]
        self.cluster.kubectl(
            "wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{name}.gpulease.dev" for name in names)
        )
        self.make_namespace(OPERATOR_NAMESPACE)
        self.make_namespace(TENANT_NAMESPACE)
        self.make_wallet(OPERATOR_NAMESPACE, "provider-wallet", self.key("provider")[1])
        self.make_wallet(TENANT_NAMESPACE, "wallet", self.key("tenant")[1])

    def make_namespace(self, name: str) -> None:
        """One that is there already is used and left alone; ours carries the label ``OURS``."""
        if not self.cluster.kubectl("get", "namespace", name, "--ignore-not-found", "-o", "name").strip():
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {OURS: self.name}}}
            self.apply(body)

    def make_wallet(self, namespace: str, secret: str, key_hex: str) -> None:
        """``kubectl create secret generic SECRET --from-file=key=FILE``, written over if it exists."""
        path = self.folder / "wallet.key"
        path.touch(mode=0o600)
        path.write_text(key_hex)
        try:
            words = ("create", "secret", "generic", secret, "-n", namespace, f"--from-file=key={path}")
            body = self.cluster.kubectl(*words, "--dry-run=client", "-o", "yaml")
        finally:
            path.unlink()
        self.cluster.kubectl("apply", "-f", "-", input_text=body)

    def start_agent(self) -> None:
        """One on this machine, unless the cluster has its own."""
        if self.cluster.agents:
            return
        argv = [
            *("--node", self.cluster.node_name, "--listen", f"127.0.0.1:{self.ports.agent}"),
            *("--data", str(self.folder / "agent"), "--token-file", str(self.token_file)),
            *(("--dcgm-url", self.cluster.dcgm_url) if self.cluster.dcgm_url else ()),
            *self._agent_args,
        ]
        process = self._start("agent", "agent", argv, dict(self.cluster.nvml_env))
        url = self.agents[self.cluster.node_name]
        process.wait_until("the agent's /healthz", lambda: status_of(f"{url}/healthz") == 200, timeout_s=30)

    @property
    def token_file(self) -> Path:
        """What the operator shows to the agents."""
        if self.cluster.agent_token_file is not None:
            return self.cluster.agent_token_file
        path = self.folder / "agent-token"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(16))
        return path

    def start_operator(self, *, wait: bool = True) -> None:
        """In both roles. With ``wait``, until it answers /readyz."""
        env = {
            "GPULEASE_NAMESPACE": OPERATOR_NAMESPACE,
            "GPULEASE_STATE_DIR": str(self.folder / "operator"),
            "GPULEASE_METRICS_LISTEN": f"127.0.0.1:{self.ports.operator}",
            "GPULEASE_AGENT_ENDPOINTS": json.dumps(self.agents),
            "GPULEASE_AGENT_TOKEN_FILE": str(self.token_file),
            "GPULEASE_AGENT_POLL_INTERVAL_S": "2",
            "GPULEASE_LOG_FORMAT": "console",
            **self._operator_env,
        }
        kubeconfig = self.cluster.identity("gpulease-operator")
        process = self._start("operator", "operator", ["--kubeconfig", str(kubeconfig)], env)
        if wait:
            url = f"{self.operator_url}/readyz"
            process.wait_until("the operator's /readyz", lambda: status_of(url) == 200, timeout_s=60)

    def start_gateway(self) -> None:
        """It listens once the provider's object has an address and a certificate: see :meth:`gateway_listens`."""
        argv = [
            *("--provider-object", "demo", "--namespace", OPERATOR_NAMESPACE),
            *("--listen", f"127.0.0.1:{self.ports.gateway}", "--metrics-port", str(self.ports.gateway_metrics)),
            *("--kubeconfig", str(self.cluster.identity("gpulease-gateway"))),
        ]
        self._start("gateway", "gateway", argv)

    def gateway_listens(self) -> bool:
        self.processes["gateway"].check()
        return status_of(f"{self.gateway_metrics_url}/healthz") == 200

    def start_prometheus(self) -> None:
        """Scrapes the DCGM exporter, the agents, the operator and the gateway every second."""
        targets = {
            "operator": f"127.0.0.1:{self.ports.operator}",
            "gateway": f"127.0.0.1:{self.ports.gateway_metrics}",
            **{f"agent-{node}": url.removeprefix("http://") for node, url in self.agents.items()},
            **({"dcgm": self.cluster.dcgm_url} if self.cluster.dcgm_url else {}),
        }
        argv = write_settings(self.folder / "prometheus", targets, interval_s=1)
        argv.append(f"--web.listen-address=127.0.0.1:{self.ports.prometheus}")
        process = self.cluster.start_process(f"{self.name}-prometheus", argv, {})
        self.processes["prometheus"] = process
        process.wait_until("Prometheus being ready", lambda: ready(self.prometheus_url), timeout_s=30)

    def stop(self, part: str) -> int:
        """SIGTERM and wait; the exit status."""
        return self.processes.pop(part).terminate()

    def kill9(self, part: str) -> None:
        self.processes.pop(part).kill9()

    def log(self, part: str) -> Path:
        return self.cluster.log_dir / f"{self.name}-{part}.log"

    def _start(self, part: str, verb: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
        if part in self.processes and self.processes[part].running:
            raise RigError(f"{part} runs already; stop it or kill it first")
        command = [sys.executable, "-m", "gpulease", verb, *argv]
        path = f"{ROOT / 'operator'}"
        process = self.cluster.start_process(f"{self.name}-{part}", command, {"PYTHONPATH": path, **(env or {})})
        self.processes.pop(part, None)
        self.processes[part] = process
        return process

    # -- objects -----------------------------------------------------------------------------------------------

    def apply(self, *bodies: Json) -> None:
        self.cluster.kubectl("apply", "-f", "-", input_text=yaml.safe_dump_all(bodies))

    def example(self, name: str, change: Change | None = None) -> Json:
        """An example of docs/, with this stack's ports and chain in it; ``change`` may alter it in place."""
        body: Json = yaml.safe_load((EXAMPLES / name).read_text())
        chain = body["spec"]["chain"]
        chain["chainID"] = self.chain_id
        chain["endpoints"] = [{"rpc": self.chain.rpc, "grpc": f"127.0.0.1:{self.ports.grpc}"}]
        if body["kind"] == "GPUProvider":
            body["spec"]["hostURI"] = self.gateway_url
        if change is not None:
            change(body)
        return body

    def apply_example(self, name: str, change: Change | None = None) -> Json:
        body = self.example(name, change)
        self.apply(body)
        return body

    def get(self, kind: str, name: str = "", namespace: str = "", *, selector: str = "") -> Json | None:
        """One object, or a list of them without a name; None where it does not exist."""
        words = ["get", kind, *([name] if name else []), "-o", "json"]
        words += ["-n", namespace] if namespace else []
        words += ["-l", selector] if selector else []
        text = self.cluster.kubectl(*words, "--ignore-not-found")
        found: Json | None = json.loads(text) if text.strip() else None
        return found

    def items(self, kind: str, namespace: str = "", *, selector: str = "") -> list[Json]:
        found = self.get(kind, namespace=namespace, selector=selector)
        return list(found["items"]) if found else []

    def ledger(self) -> Json:
        """The operator's books beside the chain's; asked again while the chain moves between its two looks."""
        found: Json = get_json(f"{self.operator_url}/ledger", tries=10)
        return found

    # -- away with it ------------------------------------------------------------------------------------------

    def erase(self, *, timeout_s: float = 60.0) -> None:
        """Whatever this stack's work left in the cluster, finalizers notwithstanding; then its folder.

        For clusters that go on living; call after :meth:`down`. Touched are only namespaces that this stack made and
        namespaces of leases of this stack's accounts. CRDs stay.
        """
        made = [one["metadata"]["name"] for one in self.items("namespace", selector=f"{OURS}={self.name}")]
        for namespace in made:
            for kind in ("gpuleases", "hostedleases", "gpuproviders"):
                self._erase_kind(f"{kind}.gpulease.dev", namespace)
        spaces = [*made, *self.lease_namespaces()]
        if spaces:
            words = ("delete", "namespace", *spaces, "--ignore-not-found", f"--timeout={timeout_s:.0f}s")
            self.cluster.kubectl(*words, timeout_s=timeout_s + 5)
        shutil.rmtree(self.folder, ignore_errors=True)

    def lease_namespaces(self) -> list[str]:
        """Namespaces of leases that this stack's provider hosts."""
        try:
            selector = f"{LEASE_PROVIDER}={self.address('provider')}"
        except OSError:
            return []
        return [one["metadata"]["name"] for one in self.items("namespace", selector=selector)]

    def _erase_kind(self, kind: str, namespace: str) -> None:
        try:
            found = self.items(kind, namespace)
        except RigError as error:
            if "the server doesn't have a resource type" in str(error):
                return
            raise
        for one in found:
            meta = one["metadata"]
            where = ("-n", namespace, kind, meta["name"])
            self.cluster.kubectl("delete", *where, "--wait=false", "--ignore-not-found")
            if meta.get("finalizers"):
                try:
                    self.cluster.kubectl("patch", *where, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
                except RigError as error:
                    if "NotFound" not in str(error):
                        raise


def rss_mb(process: Process) -> float:
    """Resident memory of a process now, in MB (10^6 bytes)."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RigError(f"{process.name} has no resident memory to read: it ended")


def until(
    what: str,
    check: Callable[[], Any],
    *,
    timeout_s: float,
    interval_s: float = 0.2,
    alive: Iterable[Process] = (),
) -> Any:
    """Ask until the answer is true, and give it; sources that are silent are asked again.

    A :class:`RigError` says what did not happen and what the last look said, or that one of ``alive`` ended.
    """
    deadline = time.monotonic() + timeout_s
    last = ""
    watched = tuple(alive)
    while True:
        for process in watched:
            process.check()
        try:
            found = check()
            if found:
                return found
            last = ""
        except RigError as error:
            last = f"; last: {error}"
        if time.monotonic() > deadline:
            raise RigError(f"{what} did not happen within {timeout_s:.0f} s{last}")
        time.sleep(interval_s)
