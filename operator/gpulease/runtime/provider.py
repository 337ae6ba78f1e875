"""A GPUProvider: its account, its record and certificate on chain, and what its object's status says.

Record and certificate are read from the chain before anything is sent: what is there as wanted is left alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import structlog

from gpulease.chain import codec
from gpulease.chain.keys import Key
from gpulease.errors import AuthError, ConfigError
from gpulease.gateway import certs
from gpulease.inventory.free import GpuCount
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Ref
from gpulease.market.attributes import missing, storage_attributes
from gpulease.market.gpu import GpuKind, published
from gpulease.market.model import Attribute, ProviderRecord
from gpulease.market.pricing import PriceTable, parse_table
from gpulease.planning import Condition
from gpulease.runtime import fitness, views
from gpulease.runtime import status as statuses
from gpulease.runtime.chains import ChainHub, ChainSession
from gpulease.runtime.clock import Clock
from gpulease.runtime.health import DeviceHealth
from gpulease.runtime.specs import ObjectName, ProviderSpec, parse_provider, released_devices
from gpulease.runtime.stock import Reservations, Stock
from gpulease.runtime.wallets import read_key
from gpulease.store.journal import Journal
from gpulease.units import NS_PER_S

log = structlog.get_logger(__name__)
_RECORD = "provider-record"
_RENEW_BEFORE_S = 30 * 24 * 3600


@dataclass(slots=True)
class ProviderSite:
    """A provider that can act: parsed spec, key, session and stock."""

    spec: ProviderSpec
    key: Key
    session: ChainSession
    table: PriceTable
    stock: Stock
    attributes: tuple[Attribute, ...] = ()
    registered: bool = False
    last_declined: str = ""
    earned_uact: int | None = None
    unsettled_uact: int | None = None
    certificate_expires_s: float | None = None
    """When the gateway's certificate ends, in seconds since 1970; None before it was read."""
    orphans: set[str] = field(default_factory=set)
    """Namespaces of ours whose lease the chain does not know."""

    @property
    def address(self) -> str:
        return self.key.address


class Providers:
    """All GPUProviders of the operator's namespace, by object name and by account."""

    def __init__(
        self,
        cluster: Cluster,
        hub: ChainHub,
        journal: Journal,
        clock: Clock,
        health: DeviceHealth,
        *,
        look_s: float = 15.0,
    ) -> None:
        self._cluster, self._hub, self._journal, self._clock = cluster, hub, journal, clock
        self._health, self._look_s = health, look_s
        self.by_name: dict[ObjectName, ProviderSite] = {}
        self._figures = statuses.Figures()

    def by_address(self, address: str) -> ProviderSite | None:
        return next((site for site in self.by_name.values() if site.address == address), None)

    async def reconcile(self, name: ObjectName) -> float | None:
        """One step; returns seconds until the next look."""
        body = await self._cluster.get(Ref("gpulease.dev/v1alpha1", "GPUProvider", name.name, name.namespace))
        if body is None:
            self.by_name.pop(name, None)
            return None
        site = await self._site(name, body)
        if isinstance(site, Condition):
            await self._write(body, None, (site,), {})
            return 5.0
        self._health.release(str(name), released_devices(body))
        conditions = [*await self._conditions(site), *await self._fitness(site, body)]
        facts: dict[str, Any] = {"address": site.address}
        facts["gpus"] = _gpu_facts(site.stock.count(await site.stock.snapshot()))
        facts["quarantine"] = views.quarantine_list(self._health.quarantines.values(), await self._nodes(site))
        facts["activeLeases"] = len(self._journal.list_open("hosted", owner=site.address))
        facts["openBids"] = site.stock.reservations.open_count()
        await self._write(body, site, tuple(conditions), facts)
        ready = conditions[0].status == "True"
        return self._look_s if ready else 0.5

    async def _nodes(self, site: ProviderSite) -> frozenset[str]:
        return frozenset(node.name for node in (await site.stock.snapshot()).nodes)

    async def _fitness(self, site: ProviderSite, body: Mapping[str, Any]) -> list[Condition]:
        """What is wrong with single nodes, devices and namespaces: none of it stops the sale of the others."""
        snapshot = await site.stock.snapshot()
        own = [q for q in self._health.quarantines.values() if any(n.name == q.node for n in snapshot.nodes)]
        conditions = [
            fitness.nodes_fit(
                site.stock.free(snapshot),
                snapshot.old_versions,
                snapshot.unknown_versions,
                dra_forbidden=snapshot.dra_forbidden,
            ),
            fitness.devices_healthy(own),
        ]
        told = {str(c.get("type")) for c in (body.get("status") or {}).get("conditions") or ()}
        if site.orphans or "Orphans" in told:
            conditions.append(fitness.orphans(sorted(site.orphans)))
        return conditions

    async def _site(self, name: ObjectName, body: Mapping[str, Any]) -> ProviderSite | Condition:
        try:
            spec = parse_provider(body)
            table = parse_table(spec.pricing)
        except (ConfigError, KeyError, ValueError) as error:
            return Condition.false("Ready", "SpecRefused", f"{error}")
        key = await read_key(self._cluster, name.namespace, spec.wallet)
        if isinstance(key, tuple):
            return Condition.false("Ready", *key)
        known = self.by_name.get(name)
        if known is not None and known.spec == spec and known.address == key.address:
            return known
        stock = Stock(
            self._cluster,
            Reservations(self._journal, key.address),
            spec=spec,
            devices=self._health,
        )
        site = ProviderSite(spec, key, self._hub.session(spec.chain), table, stock)
        site.session.account(key)
        self.by_name[name] = site
        return site

    async def _conditions(self, site: ProviderSite) -> tuple[Condition, ...]:
        problem = site.session.problem
        if problem is not None:
            return (Condition.false("Ready", *problem), Condition.false("ChainReady", *problem))
        chain = Condition.true("ChainReady", "Following", f"Following {site.spec.chain.chain_id}.")
        snapshot = await site.stock.snapshot()
        kinds = snapshot.kinds()
        inventory = fitness.inventory(kinds, snapshot.nodes)
        record = await self._record(site, kinds)
        certificate = await self._certificate(site)
        problems = [c for c in (record, certificate, inventory) if c.status != "True"]
        sender = site.session.account(site.key)
        if sender.problem is not None:
            problems.insert(0, Condition.false("Ready", "TransactionsBlocked", sender.problem))
        site.registered = record.status == "True" and certificate.status == "True"
        ready = (
            Condition.false("Ready", problems[0].reason, problems[0].message)
            if problems
            else Condition.true("Ready", "Bidding", "Orders that fit are being bid on.")
        )
        return (ready, chain, record, certificate, inventory)

    async def _record(self, site: ProviderSite, kinds: tuple[GpuKind, ...]) -> Condition:
        spec = site.spec
        offered = (*published(kinds), *storage_attributes(spec.storage_classes), *spec.attributes)
        own = {a.key: a for a in offered}
        wanted = ProviderRecord(site.address, spec.host_uri, tuple(sorted(own.values())), spec.email, spec.website)
        live = await site.session.client.provider(site.address)
        if live is not None and not kinds and live.host_uri == wanted.host_uri:
            # No GPU is visible now: that is no reason to tell the chain that there never was one.
            site.attributes = live.attributes
            return Condition.true("Registered", "OnChain", "The provider record is on chain.")
        same = (
            live is not None
            and live.host_uri == wanted.host_uri
            and not missing(wanted.attributes, live.attributes)
            and not missing(live.attributes, wanted.attributes)
            and (live.email, live.website) == (wanted.email, wanted.website)
        )
        if same and live is not None:
            site.attributes = live.attributes
            return Condition.true("Registered", "OnChain", "The provider record is on chain.")
        entry = site.session.send(
            site.key,
            self._record_key(site, wanted, live),
            "provider",
            codec.provider_record(wanted, exists=live is not None),
        )
        if entry.problem is not None:
            return Condition.false(
                "Registered", "RecordRefused", f"The chain refused the provider record: {entry.problem}."
            )
        return Condition.false("Registered", "RecordPending", "The provider record is being written on chain.")

    def _record_key(self, site: ProviderSite, wanted: ProviderRecord, live: ProviderRecord | None) -> str:
        """Hardware comes and goes: the same change is due again once an earlier one of its kind is through."""
        base = f"provider/{site.address}/{_digest(wanted, live)}"
        body = self._journal.get(_RECORD, base)
        count = int(body["count"]) if body is not None else 0
        key = f"{base}/{count}" if count else base
        entry = site.session.outcome(key)
        done = entry is not None and entry.state.final and entry.problem is None
        if done and entry is not None and site.session.tip.height > entry.height:
            self._journal.put(_RECORD, base, {"count": count + 1}, is_open=False)
            return f"{base}/{count + 1}"
        return key

    async def _certificate(self, site: ProviderSite) -> Condition:
        name = f"{site.spec.name.name}-gateway-cert"
        ref = Ref("v1", "Secret", name, site.spec.name.namespace)
        secret = await self._cluster.get(ref)
        host = urlsplit(site.spec.host_uri).hostname or ""
        cert = _from_secret(secret, host)
        now_ns = self._clock.now_ns()
        if cert is None or certs.expires_s(cert.cert_pem) - now_ns / NS_PER_S < _RENEW_BEFORE_S:
            cert = certs.make(site.address, hosts=[host], now_ns=now_ns)
            await self._cluster.apply(_secret_body(ref, cert))
        site.certificate_expires_s = certs.expires_s(cert.cert_pem)
        live = await site.session.client.certificates(site.address, serial=cert.serial, state="valid")
        if any(entry.cert_pem == cert.cert_pem for entry in live):
            return Condition.true("CertificatePublished", "OnChain", "The gateway's certificate is on chain.")
        entry = site.session.send(
            site.key,
            f"certificate/{site.address}/{cert.serial}",
            "certificate",
            codec.create_certificate(site.address, cert_pem=cert.cert_pem, pubkey_pem=cert.pubkey_pem),
        )
        if entry.problem is not None:
            words = f"The chain refused the gateway's certificate: {entry.problem}."
            return Condition.false("CertificatePublished", "CertificateRefused", words)
        return Condition.false("CertificatePublished", "CertificatePending", "The certificate is being published.")

    async def _write(
        self,
        body: Mapping[str, Any],
        site: ProviderSite | None,
        conditions: tuple[Condition, ...],
        facts: dict[str, Any],
    ) -> None:
        along: dict[str, Any] = {}
        if site is not None:
            height = site.session.tip.height or None
            along = {"earnedUact": site.earned_uact, "unsettledUact": site.unsettled_uact, "chainHeight": height}
        await statuses.publish(
            self._cluster,
            body,
            self._figures,
            state=None,
            conditions=conditions,
            facts=facts,
            along=along,
            now_ns=self._clock.now_ns(),
        )


def _gpu_facts(count: GpuCount) -> dict[str, int]:
    return {
        "total": count.total,
        "leased": count.leased,
        "reserved": count.reserved,
        "free": count.free,
        "quarantined": count.quarantined,
    }


def _digest(wanted: ProviderRecord, live: ProviderRecord | None) -> str:
    return hashlib.sha256(repr((wanted, live)).encode()).hexdigest()[:16]


def _from_secret(secret: Mapping[str, Any] | None, host: str) -> certs.MadeCertificate | None:
    data = (secret or {}).get("data") or {}
    try:
        cert_pem, key_pem = base64.b64decode(data["tls.crt"]), base64.b64decode(data["tls.key"])
        return certs.read(cert_pem, key_pem) if host in certs.hosts_of(cert_pem) else None
    except (KeyError, ValueError, AuthError):
        return None


def _secret_body(ref: Ref, cert: certs.MadeCertificate) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {
            "name": ref.name,
            "namespace": ref.namespace,
            "labels": {"app.kubernetes.io/managed-by": "gpulease"},
        },
        "data": {
            "tls.crt": base64.b64encode(cert.cert_pem).decode(),
            "tls.key": base64.b64encode(cert.key_pem).decode(),
        },
    }
