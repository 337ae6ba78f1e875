"""What the gateway needs of the chain and of the cluster; :mod:`gpulease.chain.client` and :mod:`gpulease.kube.client`
have it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from gpulease.chain.client import Account
from gpulease.ids import DeploymentId
from gpulease.kube.exec import ExecEnd
from gpulease.kube.refs import Json, Listing, Ref
from gpulease.market.model import Certificate, Deployment, Lease


class ChainPort(Protocol):
    """Reads only. ``None`` and empty lists are answers; silence is ``ChainUnreachable``."""

    async def account(self, address: str) -> Account | None: ...

    async def certificates(self, owner: str, *, serial: str = "", state: str = "") -> Sequence[Certificate]: ...

    async def deployment(self, id_: DeploymentId) -> Deployment | None: ...

    async def leases(
        self, *, owner: str = "", dseq: int = 0, provider: str = "", state: str = ""
    ) -> Sequence[Lease]: ...


class ClusterPort(Protocol):
    """The few calls of :class:`gpulease.kube.client.Cluster` that are used here."""

    async def get(self, ref: Ref, *, deadline_s: float | None = None) -> Json | None: ...

    async def list(
        self,
        api_version: str,
        kind: str,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | str | None = None,
    ) -> Listing: ...

    async def apply(self, obj: Mapping[str, Any], *, deadline_s: float | None = None) -> Json: ...

    async def version(self) -> Json: ...

    def log_lines(
        self,
        namespace: str,
        pod: str,
        *,
        container: str,
        follow: bool,
        tail_lines: int | None = None,
        since: str | None = None,
    ) -> AsyncGenerator[bytes, None]: ...

    def watch(
        self, api_version: str, kind: str, *, namespace: str, resource_version: str
    ) -> AsyncGenerator[tuple[str, Json], None]: ...

    async def exec(
        self, namespace: str, pod: str, *, container: str, command: Sequence[str], stdin: bool, tty: bool
    ) -> CommandPort: ...


class CommandPort(Protocol):
    """A running command: :class:`gpulease.kube.exec.ExecStream`."""

    async def read(self) -> tuple[int, bytes] | ExecEnd: ...

    async def write(self, data: bytes) -> None: ...

    async def resize(self, width: int, height: int) -> None: ...

    async def close(self) -> None: ...
