"""The slow comparison of everything with everything: what an event did not tell is found here.

Cheap in itself: it only lists and puts keys on the queue, at low priority; each key is then looked at as after an
event.
"""

from __future__ import annotations

import structlog

from gpulease.ids import LeaseId
from gpulease.inventory.devices import LEASE_LABEL
from gpulease.kube.client import Cluster
from gpulease.market.model import Lease
from gpulease.runtime.chains import ChainSession
from gpulease.runtime.hosted_view import API, lease_of
from gpulease.runtime.provider import Providers, ProviderSite
from gpulease.runtime.specs import object_name
from gpulease.runtime.views import LIVE
from gpulease.runtime.work import BidKey, HostedKey, OrderKey, ProviderKey, TenantKey, WorkKey
from gpulease.store.journal import Journal
from gpulease.workload.objects import LEASE_ID_ANNOTATION, MANAGED_BY

log = structlog.get_logger(__name__)


async def chain_keys(session: ChainSession, providers: Providers, journal: Journal) -> list[WorkKey]:
    """Open orders, our bids and our leases. ``ChainUnreachable`` when the chain does not say."""
    sites = [(name, site) for name, site in providers.by_name.items() if site.session is session]
    if not sites or session.problem is not None:
        return []
    keys: list[WorkKey] = []
    orders = await session.client.orders(state="open")
    for name, site in sites:
        keys += [OrderKey(name, order.id) for order in orders]
        keys += [BidKey(LeaseId.parse(held.key)) for held in site.stock.reservations.all()]
        leases = await session.client.leases(provider=site.address)
        _count_money(site, session, leases)
        live = {lease.id for lease in leases if lease.state in LIVE}
        live |= {LeaseId.parse(key) for key, _ in journal.list_open("hosted", owner=site.address)}
        keys += [HostedKey(lease) for lease in sorted(live)]
    return keys


def _count_money(site: ProviderSite, session: ChainSession, leases: list[Lease]) -> None:
    payments = [lease.payment for lease in leases if lease.payment is not None]
    site.earned_uact = sum(p.withdrawn.amount for p in payments)
    site.unsettled_uact = sum(max(p.balance.amount.truncate(), 0) for p in payments)


async def cluster_keys(cluster: Cluster, *, namespace: str, roles: set[str]) -> list[WorkKey]:
    """Our objects, and namespaces that carry our label whatever we remember of them."""
    keys: list[WorkKey] = []
    if "tenant" in roles:
        keys += [TenantKey(object_name(body)) for body in (await cluster.list(API, "GPULease")).items]
    if "provider" not in roles:
        return keys
    providers = await cluster.list(API, "GPUProvider", namespace=namespace)
    keys += [ProviderKey(object_name(body)) for body in providers.items]
    for body in (await cluster.list(API, "HostedLease", namespace=namespace)).items:
        try:
            keys.append(HostedKey(lease_of(body)))
        except (KeyError, ValueError):
            log.warning("HostedLease with an unusable id", name=body["metadata"]["name"])
    labels = ",".join((LEASE_LABEL, *(f"{key}={value}" for key, value in MANAGED_BY.items())))
    for body in (await cluster.list("v1", "Namespace", labels=labels)).items:
        try:
            keys.append(HostedKey(LeaseId.parse(body["metadata"]["annotations"][LEASE_ID_ANNOTATION])))
        except (KeyError, ValueError):
            log.warning("namespace without a lease id", name=body["metadata"]["name"])
    return keys
