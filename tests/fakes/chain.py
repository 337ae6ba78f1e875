"""A chain client that can fall silent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpulease.chain.client import Account, ChainClient
from gpulease.errors import ChainUnreachable
from gpulease.ids import DeploymentId
from gpulease.market.model import Certificate, Deployment, Lease


@dataclass(slots=True)
class MuteChain:
    """Passes on to ``inner`` until ``mute`` is set."""

    inner: ChainClient
    mute: bool = False

    def _up(self) -> ChainClient:
        if self.mute:
            raise ChainUnreachable("no chain endpoint answered")
        return self.inner

    async def account(self, address: str) -> Account | None:
        return await self._up().account(address)

    async def certificates(self, owner: str, *, serial: str = "", state: str = "") -> Sequence[Certificate]:
        return await self._up().certificates(owner, serial=serial, state=state)

    async def deployment(self, id_: DeploymentId) -> Deployment | None:
        return await self._up().deployment(id_)

    async def leases(self, *, owner: str = "", dseq: int = 0, provider: str = "", state: str = "") -> Sequence[Lease]:
        return await self._up().leases(owner=owner, dseq=dseq, provider=provider, state=state)
