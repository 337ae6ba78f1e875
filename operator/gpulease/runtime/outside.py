"""What the operator reaches beyond its cluster, store and clock, and how often it looks without being told to.

All of it is given from outside, so that a simulation can be the outside: nothing else in the runtime opens a
connection or chooses a pace.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

from gpulease.agent.client import AgentClient
from gpulease.agent.collector import AgentSource
from gpulease.chain.client import ChainClient, Endpoint
from gpulease.chain.keys import Key
from gpulease.gateway import client as gateway
from gpulease.gateway import tenant as streams
from gpulease.ids import LeaseId
from gpulease.runtime.specs import ChainSpec
from gpulease.runtime.watch import Enqueue, LeaseOf, Watcher

_EVENTS_S = 5.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between looks that nothing but time asks for."""

    soonest_s: float = 0.2
    """No key is looked at again by the clock sooner than this; events do not wait for it."""
    chain_poll_s: float = 0.2
    send_s: float = 0.5
    books_s: float = 2.0
    provider_s: float = 15.0
    gateway_s: float = 30.0


class Gateways(Protocol):
    """The winners' gateways as a tenant speaks to them; errors as in :mod:`gpulease.gateway.client`."""

    async def send_manifest(
        self,
        *,
        host_uri: str,
        provider: str,
        dseq: int,
        manifest: bytes,
        key: Key,
        certificates: gateway.Certificates,
        now_s: float,
    ) -> None: ...

    async def lease_status(
        self, *, host_uri: str, lease: LeaseId, key: Key, certificates: gateway.Certificates, now_s: float
    ) -> Mapping[str, Any]: ...

    def lease_events(
        self, *, host_uri: str, lease: LeaseId, key: Key, certificates: gateway.Certificates, now_s: float
    ) -> AsyncIterator[Mapping[str, Any]]: ...


class Outside(Protocol):
    """Makes what the operator talks through."""

    @property
    def pace(self) -> Pace: ...

    @property
    def gateways(self) -> Gateways: ...

    def chain(self, spec: ChainSpec) -> ChainClient: ...

    def watcher(self, *, enqueue: Enqueue, lease_of_namespace: LeaseOf, roles: set[str]) -> Watcher: ...

    def agent(self, url: str, *, token: str | None) -> AgentSource: ...

    async def close(self) -> None: ...


class Network:
    """The real one: kopf, aiohttp and gRPC."""

    def __init__(self, *, kubeconfig: str | None, pace: Pace | None = None) -> None:
        self.pace = pace or Pace()
        self.gateways: Gateways = _RealGateways()
        self._kubeconfig = kubeconfig
        self._session: aiohttp.ClientSession | None = None

    def chain(self, spec: ChainSpec) -> ChainClient:
        return ChainClient([Endpoint(*pair) for pair in spec.endpoints], spec.chain_id)

    def watcher(self, *, enqueue: Enqueue, lease_of_namespace: LeaseOf, roles: set[str]) -> Watcher:
        return Watcher(enqueue=enqueue, lease_of_namespace=lease_of_namespace, kubeconfig=self._kubeconfig, roles=roles)

    def agent(self, url: str, *, token: str | None) -> AgentSource:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        return AgentClient(url, self._session, token=token)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class _RealGateways:
    send_manifest: Callable[..., Any] = staticmethod(gateway.send_manifest)
    lease_status: Callable[..., Any] = staticmethod(gateway.lease_status)

    def lease_events(
        self, *, host_uri: str, lease: LeaseId, key: Key, certificates: gateway.Certificates, now_s: float
    ) -> AsyncIterator[Mapping[str, Any]]:
        caller = gateway.Caller(host_uri, lease.provider, key, certificates, now_s=now_s, timeout_s=_EVENTS_S)
        return streams.events(caller, lease)
