"""What the tenant's plan asks for, done: transactions, talks with the winner's gateway, the object itself.

Each action is safe to repeat: transactions by their intent keys, the rest by what it says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

import structlog
from google.protobuf.message import Message

from gpulease.chain import codec
from gpulease.chain.outbox import Priority
from gpulease.errors import AuthError, ConfigError, GatewayRefused, GatewayUnreachable
from gpulease.gateway import client as gateway
from gpulease.ids import LeaseId
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Ref
from gpulease.market.model import Certificate
from gpulease.runtime import status as statuses
from gpulease.runtime import trouble
from gpulease.runtime.clock import Clock
from gpulease.runtime.outside import Outside
from gpulease.runtime.talks import Talks, is_ready
from gpulease.runtime.tenant_gather import Round
from gpulease.tenancy import states as s
from gpulease.units import NS_PER_S, UACT, Coin

log = structlog.get_logger(__name__)
_ASK_STARTING_S = 1.0
_ASK_SOON = 30
"""So many answers are asked for at the starting pace."""
_ASK_FAILED_S = 5.0
_PATIENCE = 5
"""Services that are not ready after so many answers are asked about in the provider's events."""


class Actor:
    def __init__(self, cluster: Cluster, talks: Talks, clock: Clock, outside: Outside) -> None:
        self._cluster, self._talks, self._clock = cluster, talks, clock
        self._gateways, self._pace = outside.gateways, outside.pace
        self._figures = statuses.Figures()

    async def execute(self, round_: Round, plan: s.Plan) -> LeaseId | None:
        """Do what the plan says; the lease whose gateway has just been spoken to, if any."""
        spoken_to: LeaseId | None = None
        released = False
        for action in plan.actions:
            match action:
                case s.Claim():
                    await self._claim(round_)
                case s.Release():
                    released = True
                case s.SendManifest(lease, uri):
                    await self._send_manifest(round_, lease, uri)
                    spoken_to = lease
                case s.AskStatus(lease, uri):
                    await self._ask_status(round_, lease, uri)
                    spoken_to = lease
                case _:
                    self._transact(round_, action)
        if spoken_to is None:
            await self._write_status(round_, plan)
        if released:
            await self._release(round_)
            self._figures.forget(round_.seen.uid)
        return spoken_to

    # --- the object --------------------------------------------------------------------------------------------------

    async def _claim(self, round_: Round) -> None:
        assert round_.deployment_id is not None
        await self._cluster.patch_metadata(
            round_.body,
            add_finalizers=[s.FINALIZER],
            annotations={s.DSEQ_ANNOTATION: str(round_.deployment_id.dseq)},
        )

    async def _release(self, round_: Round) -> None:
        """Only the newest version is released: one that somebody wrote meanwhile is looked at again."""
        body = await self._cluster.get(Ref.of(round_.body))
        if body is None or str(body["metadata"]["uid"]) != round_.seen.uid:
            return
        await self._cluster.patch_finalizers(body, remove=s.FINALIZER)

    async def _write_status(self, round_: Round, plan: s.Plan) -> None:
        facts: dict[str, Any] = dict(plan.facts)
        if round_.seen.deployment_id is not None and round_.wallet is not None:
            facts |= {"dseq": str(round_.seen.deployment_id.dseq), "address": round_.wallet.address}
        if not (plan.conditions or plan.state):
            return
        written = await statuses.publish(
            self._cluster,
            round_.body,
            self._figures,
            state=plan.state.value if plan.state is not None else None,
            conditions=plan.conditions,
            facts=facts,
            along=plan.figures,
            now_ns=self._clock.now_ns(),
        )
        if written is not None:
            await self._tell(round_, plan)
            round_.body = {**round_.body, "status": written}

    async def _tell(self, round_: Round, plan: s.Plan) -> None:
        """Trouble is worth an event; that all goes well is in the conditions."""
        ready = next((c for c in plan.conditions if c.type == "Ready" and c.status == "False"), None)
        if ready is not None and plan.state in (s.TenantState.FAILED, s.TenantState.PENDING):
            await self._cluster.event(round_.body, ready.reason, ready.message, type_="Warning")

    # --- transactions ------------------------------------------------------------------------------------------------

    def _transact(self, round_: Round, action: s.Action) -> None:
        id_ = round_.seen.deployment_id
        assert id_ is not None
        assert round_.spec is not None
        wanted = round_.spec.wanted
        match action:
            case s.CreateDeployment(key):
                deposit = Coin(UACT, wanted.deposit_uact)
                message = codec.create_deployment(id_, round_.spec.groups, hash_=wanted.manifest_hash, deposit=deposit)
                self._send(round_, key, "deploy", message)
            case s.UpdateDeployment(key):
                self._send(round_, key, "update", codec.update_deployment(id_, hash_=wanted.manifest_hash))
            case s.CreateLease(bid, key):
                self._send(round_, key, "lease", codec.create_lease(bid), priority=Priority.MARKET)
            case s.TopUp(amount, key):
                message = codec.deposit_deployment(id_.owner, id_, amount=Coin(UACT, amount))
                self._send(round_, key, "top-up", message, priority=Priority.MARKET)
            case s.CloseDeployment(key):
                self._send(round_, key, "close", codec.close_deployment(id_), priority=Priority.MARKET)

    def _send(
        self, round_: Round, key: str, kind: str, message: Message, *, priority: Priority = Priority.LIFECYCLE
    ) -> None:
        assert round_.chain is not None
        assert round_.wallet is not None
        round_.chain.send(round_.wallet, key, kind, message, priority=priority, then=round_.key)

    # --- the winner's gateway ----------------------------------------------------------------------------------------

    async def _send_manifest(self, round_: Round, lease: LeaseId, uri: str) -> None:
        assert round_.spec is not None
        assert round_.wallet is not None
        sent = self._gateways.send_manifest(
            host_uri=uri,
            provider=lease.provider,
            dseq=lease.dseq,
            manifest=round_.spec.manifest,
            key=round_.wallet,
            certificates=_certificates(round_),
            now_s=self._clock.now_ns() / NS_PER_S,
        )
        if await self._told(sent, lease):
            self._talks.accepted(lease, round_.spec.wanted.manifest_hash)
            log.info("manifest accepted", lease=str(lease), gateway=uri)

    async def _told(self, call: Awaitable[None], lease: LeaseId) -> bool:
        try:
            await call
        except (GatewayRefused, GatewayUnreachable, AuthError, ConfigError) as error:
            log.warning("manifest not accepted", lease=str(lease), problem=str(error))
            self._talks.failed(lease, _sentence(error), retry_at_ns=self._in(_ASK_FAILED_S))
            return False
        return True

    async def _ask_status(self, round_: Round, lease: LeaseId, uri: str) -> None:
        assert round_.wallet is not None
        try:
            body: Any = await self._gateways.lease_status(
                host_uri=uri,
                lease=lease,
                key=round_.wallet,
                certificates=_certificates(round_),
                now_s=self._clock.now_ns() / NS_PER_S,
            )
        except GatewayRefused as error:
            if error.status != 404:
                self._talks.failed(lease, _sentence(error), retry_at_ns=self._in(_ASK_FAILED_S))
                return
            body = None
        except (GatewayUnreachable, AuthError, ConfigError) as error:
            self._talks.failed(lease, _sentence(error), retry_at_ns=self._in(_ASK_FAILED_S))
            return
        view = self._talks.answered(lease, body, retry_at_ns=self._in(self._pace.gateway_s))
        if is_ready(view):
            self._talks.ready(lease)
            return
        # Soon at first; what has not come up for long is asked for as seldom as what runs.
        asked = self._talks.unready(lease)
        pause_s = min(_ASK_STARTING_S * 2 ** min(max(asked - _ASK_SOON, 0), 30), self._pace.gateway_s)
        self._talks.answered(lease, body, retry_at_ns=self._in(pause_s))
        if asked > _PATIENCE:
            self._talks.troubled(lease, await self._trouble(round_, lease, uri))

    async def _trouble(self, round_: Round, lease: LeaseId, uri: str) -> tuple[str, str] | None:
        assert round_.wallet is not None
        events = self._gateways.lease_events(
            host_uri=uri,
            lease=lease,
            key=round_.wallet,
            certificates=_certificates(round_),
            now_s=self._clock.now_ns() / NS_PER_S,
        )
        return await trouble.read(events)

    def _in(self, seconds: float) -> int:
        return self._clock.now_ns() + int(seconds * NS_PER_S)


def _certificates(round_: Round) -> gateway.Certificates:
    assert round_.chain is not None
    client = round_.chain.client

    async def read(owner: str) -> Sequence[Certificate]:
        return await client.certificates(owner, state="valid")

    return read


def _sentence(error: Exception) -> str:
    return str(error).rstrip(". ")[:400]
