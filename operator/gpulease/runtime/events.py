"""From what happened on chain to what has to be looked at."""

from __future__ import annotations

from collections.abc import Iterator

from gpulease.chain import events as e
from gpulease.ids import DeploymentId, LeaseId
from gpulease.runtime.chains import ChainSession
from gpulease.runtime.provider import Providers
from gpulease.runtime.tenant import Tenants
from gpulease.runtime.work import BidKey, HostedKey, OrderKey, ProviderKey, TenantKey, WorkKey


def keys_of(event: e.ChainEvent, session: ChainSession, providers: Providers, tenants: Tenants) -> Iterator[WorkKey]:
    """All that the event concerns of ours; nothing for the affairs of strangers."""
    match event:
        case e.OrderCreated(id_):
            for name, site in providers.by_name.items():
                if site.session is session:
                    yield OrderKey(name, id_)
            yield from _tenant(tenants, id_.deployment)
        case e.OrderClosed(id_):
            for site in providers.by_name.values():
                if site.session is session and site.stock.reservations.get(str(id_.bid(site.address))) is not None:
                    yield BidKey(id_.bid(site.address))
            yield from _tenant(tenants, id_.deployment)
        case e.BidCreated(id_):
            yield from _tenant(tenants, id_.deployment)
        case e.BidClosed(id_):
            yield from _ours(providers, id_, BidKey(id_))
            yield from _tenant(tenants, id_.deployment)
        case e.LeaseCreated(id_):
            yield from _ours(providers, id_, HostedKey(id_))
            for site in providers.by_name.values():
                if site.session is session and site.address != id_.provider:
                    yield BidKey(id_.order.bid(site.address))
            yield from _tenant(tenants, id_.deployment)
        case e.LeaseClosed(id_, _) | e.LeaseReclaimStarted(id_, _):
            yield from _ours(providers, id_, HostedKey(id_))
            yield from _tenant(tenants, id_.deployment)
        case e.DeploymentCreated(id_) | e.DeploymentUpdated(id_) | e.DeploymentClosed(id_):
            yield from _tenant(tenants, id_)
        case e.GroupChanged(id_):
            yield from _tenant(tenants, id_.deployment)
        case e.ProviderChanged(owner):
            for name, site in providers.by_name.items():
                if site.address == owner:
                    yield ProviderKey(name)


def _tenant(tenants: Tenants, id_: DeploymentId) -> Iterator[WorkKey]:
    name = tenants.by_deployment.get(id_)
    if name is not None:
        yield TenantKey(name)


def _ours(providers: Providers, id_: LeaseId, key: WorkKey) -> Iterator[WorkKey]:
    if providers.by_address(id_.provider) is not None:
        yield key
