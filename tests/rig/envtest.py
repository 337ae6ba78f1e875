"""A real API server without a node: for tests of CRDs and of clients. Needs neither root nor a network."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType

from tests.rig.apiserver import ApiServer
from tests.rig.build import build_all
from tests.rig.process import end_group, read_pid_file, write_pid_file

_PREFIX = "gpulease-envtest-"


def sweep_abandoned() -> None:
    """End what a killed test run left: its folder names the process that owned it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = folder / "owner"
        if not owner.exists() or read_pid_file(owner):
            continue
        for path in (folder / "run").glob("*.pid"):
            found = read_pid_file(path)
            if found:
                end_group(*found, grace_s=1.0)
        shutil.rmtree(folder, ignore_errors=True)


class EnvTest:
    """``with EnvTest() as env: env.kubectl(...)``. ``warm_s`` is how long it took to be ready."""

    def __init__(self, folder: Path | None = None) -> None:
        self._own = folder is None
        self._folder = folder or Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._server: ApiServer | None = None
        self.warm_s = 0.0

    def __enter__(self) -> EnvTest:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        build_all(node=False)
        sweep_abandoned()
        self._folder.mkdir(parents=True, exist_ok=True)
        write_pid_file(self._folder / "owner", os.getpid())
        began = time.monotonic()
        server = ApiServer(
            self._folder / "control",
            address="127.0.0.1",
            run_dir=self._folder / "run",
            log_dir=self._folder / "logs",
        )
        self._server = server
        try:
            # No controller makes service accounts or their tokens here, so admission must not wait for them. The
            # API server itself publishes no endpoint for a loopback address.
            extra = ("--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none")
            server.start(extra=extra)
        except BaseException:
            self.stop()
            raise
        self.warm_s = time.monotonic() - began

    @property
    def server(self) -> ApiServer:
        if self._server is None:
            raise RuntimeError("the EnvTest is not started: use it as a context manager")
        return self._server

    @property
    def kubeconfig(self) -> Path:
        return self.server.kubeconfig

    @property
    def audit_log(self) -> Path:
        return self.server.audit_log

    def kubectl(self, *args: str, input_text: str | None = None, timeout_s: float = 30.0) -> str:
        return self.server.kubectl(*args, input_text=input_text, timeout_s=timeout_s)

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None
        if self._own:
            shutil.rmtree(self._folder, ignore_errors=True)
