"""Everything that the tenant's planner looks at, read anew: the object, its wallet, the chain, the winner's gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpulease.chain.keys import Key
from gpulease.errors import ConfigError
from gpulease.ids import DeploymentId
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Json
from gpulease.market.gpu import kinds_offered
from gpulease.market.model import Bid, Deployment, ProviderRecord
from gpulease.planning import Seen
from gpulease.runtime import tenant_spec, views
from gpulease.runtime.chains import ChainHub, ChainSession
from gpulease.runtime.clock import Clock
from gpulease.runtime.talks import Talks
from gpulease.runtime.tenant_spec import TenantSpec
from gpulease.runtime.wallets import read_key
from gpulease.runtime.work import TenantKey
from gpulease.tenancy import bids as choosing
from gpulease.tenancy import states as s
from gpulease.units import NS_PER_S

_MOST_OFFERS = 20


@dataclass(slots=True)
class Round:
    """One look at one GPULease. What could not be had (wallet, chain) is None, and ``seen`` says why."""

    key: TenantKey
    body: Json
    seen: s.ObservedTenant
    spec: TenantSpec | None = None
    chain: ChainSession | None = None
    wallet: Key | None = None

    @property
    def deployment_id(self) -> DeploymentId | None:
        """Ours on chain, or the one to be: it follows from wallet and uid."""
        if self.seen.deployment_id is not None or self.wallet is None:
            return self.seen.deployment_id
        return DeploymentId(self.wallet.address, tenant_spec.dseq_of(self.seen.uid))


class Gatherer:
    def __init__(self, cluster: Cluster, hub: ChainHub, talks: Talks, clock: Clock) -> None:
        self._cluster, self._hub, self._talks, self._clock = cluster, hub, talks, clock
        self._absent: dict[DeploymentId, int] = {}

    def forget(self, id_: DeploymentId) -> None:
        self._absent.pop(id_, None)

    async def gather(self, key: TenantKey, body: Json) -> Round:
        """``ChainUnreachable`` or ``KubeUnreachable`` when a part that decides cannot be known."""
        dseq = dseq_of(body)
        try:
            chain_spec, wallet_spec = tenant_spec.parse_where(body)
        except ConfigError as error:
            return Round(key, body, self._without_wallet(body, dseq, tenant_spec.refused(str(error)), None))
        session = self._hub.session(chain_spec)
        spec = tenant_spec.parse(body, block_time_ns=session.tip.block_time_ns)
        wallet = await read_key(self._cluster, key.name.namespace, wallet_spec)
        if isinstance(wallet, tuple):
            return Round(key, body, self._without_wallet(body, dseq, spec.wanted, wallet), spec, session)
        session.account(wallet)
        seen = self._base(body, spec.wanted, s.WalletView(wallet.address), session.problem)
        round_ = Round(key, body, seen, spec, session, wallet)
        if dseq is not None:
            id_ = DeploymentId(wallet.address, dseq)
            round_.seen = replace(seen, deployment_id=id_, **_transactions(session, id_, spec.wanted))
            if session.problem is None:
                await self._ask_chain(round_, session, id_)
        return round_

    def _base(
        self, body: Json, wanted: s.Wanted, wallet: s.WalletView, problem: tuple[str, str] | None
    ) -> s.ObservedTenant:
        meta = body["metadata"]
        return s.ObservedTenant(
            now_ns=self._clock.now_ns(),
            height=0,
            block_time_ns=NS_PER_S,
            uid=str(meta["uid"]),
            generation=int(meta.get("generation", 1)),
            deleting="deletionTimestamp" in meta,
            finalizer_held=s.FINALIZER in (meta.get("finalizers") or ()),
            abandoned=(meta.get("annotations") or {}).get(s.ABANDON_ANNOTATION) == "true",
            deployment_id=None,
            wanted=wanted,
            wallet=wallet,
            chain_problem=problem,
        )

    def _without_wallet(
        self, body: Json, dseq: int | None, wanted: s.Wanted, problem: tuple[str, str] | None
    ) -> s.ObservedTenant:
        """The address is then known from the status alone, as far as it was written."""
        seen = self._base(body, wanted, s.WalletView(None, problem), None)
        if dseq is None:
            return seen
        address = str((body.get("status") or {}).get("address", ""))
        return replace(seen, deployment_id=DeploymentId(address, dseq))

    async def _ask_chain(self, round_: Round, session: ChainSession, id_: DeploymentId) -> None:
        client, owner, dseq, wanted = session.client, id_.owner, id_.dseq, round_.seen.wanted
        deployment, orders, bids, leases, balances = await asyncio.gather(
            session.see(client.deployment(id_)),
            session.see(client.orders(owner=owner, dseq=dseq)),
            session.see(client.bids(owner=owner, dseq=dseq)),
            session.see(client.leases(owner=owner, dseq=dseq)),
            session.see(client.balances(owner)),
        )
        live = next((x for x in leases.value if x.state in views.LIVE), None)
        providers = await _providers(session, [b for b in bids.value if live is None or b.id == live.id])
        funds = None
        if deployment.value is not None:
            funds = views.funds_view(
                deployment.value,
                leases.value,
                height=deployment.height,
                block_time_ns=session.tip.block_time_ns,
                deposit_uact=wanted.deposit_uact,
                budget_uact=wanted.budget_uact,
            )
        winner = choosing.choose(bids.value, ceiling=wanted.max_uact_per_block, providers=providers).winner
        round_.seen = replace(
            round_.seen,
            height=deployment.height,
            block_time_ns=session.tip.block_time_ns,
            balances=balances,
            lease_tx=views.tx_view(session.outcome(f"lease/{winner}")) if winner is not None else None,
            top_up_tx=views.tx_view(session.outcome(funds.top_up_key)) if funds is not None else None,
            deployment=deployment,
            deployment_absent_height=self._note_absence(id_, deployment),
            orders=Seen(tuple(orders.value), orders.height),
            bids=Seen(tuple(bids.value), bids.height),
            leases=Seen(tuple(leases.value), leases.height),
            providers=providers,
            market_offers=await _offers(session) if not bids.value and live is None else None,
            gateway=self._talks.view(live.id) if live is not None else s.GatewayView(),
            funds=funds,
        )

    def _note_absence(self, id_: DeploymentId, found: Seen[Deployment | None]) -> int | None:
        """The height at which the chain first said that there is no such deployment."""
        if found.value is not None:
            self._absent.pop(id_, None)
            return None
        return self._absent.setdefault(id_, found.height)


def _transactions(session: ChainSession, id_: DeploymentId, wanted: s.Wanted) -> dict[str, Any]:
    return {
        "deploy_tx": views.tx_view(session.outcome(f"deploy/{id_}")),
        "close_tx": views.tx_view(session.outcome(f"close/{id_}")),
        "update_tx": views.tx_view(session.outcome(f"update/{id_}/{wanted.manifest_hash.hex()[:16]}")),
    }


async def _providers(session: ChainSession, bids: Sequence[Bid]) -> dict[str, ProviderRecord]:
    names = sorted({bid.id.provider for bid in bids})
    found = await asyncio.gather(*(session.client.provider(name) for name in names))
    return {record.owner: record for record in found if record is not None}


async def _offers(session: ChainSession) -> str:
    """Which GPUs any provider offers, for the tenant whose order found none."""
    listed = sorted({kind for record in await session.client.providers() for kind in kinds_offered(record.attributes)})
    more = f" and {len(listed) - _MOST_OFFERS} more" if len(listed) > _MOST_OFFERS else ""
    return (", ".join(listed[:_MOST_OFFERS]) or "no GPUs at all") + more


def dseq_of(body: Json) -> int | None:
    """Ours, from the object's annotation; None for an object that is not claimed.

    One that carries our finalizer was claimed: where somebody removed or broke the annotation, the number follows from
    the uid, and no deposit is forgotten.
    """
    meta = body["metadata"]
    text = str((meta.get("annotations") or {}).get(s.DSEQ_ANNOTATION, ""))
    if text.isascii() and text.isdecimal() and len(text) < 20:
        return int(text)
    return tenant_spec.dseq_of(str(meta["uid"])) if s.FINALIZER in (meta.get("finalizers") or ()) else None
