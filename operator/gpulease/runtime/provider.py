"""A GPUProvider: its account, its record and certificate on chain, and what its object's status says.

Record and certificate are read from the chain before anything is sent: what is there as wanted is left alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import structlog

from gpulease.chain import codec
from gpulease.chain.keys import Key
from gpulease.errors import AuthError, ConfigError
from gpulease.gateway import certs
from gpulease.inventory.devices import Amounts
from gpulease.inventory.free import GpuCount
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Ref
from gpulease.market.attributes import missing
from gpulease.market.gpu import GpuKind, published
from gpulease.market.model import Attribute, ProviderRecord
from gpulease.market.pricing import PriceTable, parse_table
from gpulease.planning import Condition
from gpulease.runtime import status as statuses
from gpulease.runtime.chains import ChainHub, ChainSession
from gpulease.runtime.clock import Clock
from gpulease.runtime.specs import ObjectName, ProviderSpec, parse_provider
from gpulease.runtime.stock import Reservations, Stock
from gpulease.runtime.wallets import read_key
from gpulease.store.journal import Journal
from gpulease.units import NS_PER_S

log = structlog.get_logger(__name__)
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

    @property
    def address(self) -> str:
        return self.key.address


class Providers:
    """All GPUProviders of the operator's namespace, by object name and by account."""

    def __init__(
        self, cluster: Cluster, hub: ChainHub, journal: Journal, clock: Clock, *, look_s: float = 15.0
    ) -> None:
        self._cluster, self._hub, self._journal, self._clock = cluster, hub, journal, clock
        self._look_s = look_s
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
        conditions = list(await self._conditions(site))
        facts: dict[str, Any] = {"address": site.address}
        facts["gpus"] = _gpu_facts(site.stock.count(await site.stock.snapshot()))
        facts["activeLeases"] = len(self._journal.list_open("hosted", owner=site.address))
        facts["openBids"] = site.stock.reservations.open_count()
        await self._write(body, site, tuple(conditions), facts)
        ready = conditions[0].status == "True"
        return self._look_s if ready else 0.5

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
            selector=spec.node_selector,
            keep=Amounts(spec.reserve_cpu_milli, spec.reserve_memory_bytes),
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
        inventory = _inventory_condition(kinds, [n.product for n in snapshot.nodes if n.product and n.kind is None])
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
        own = {a.key: a for a in (*published(kinds), *spec.attributes)}
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
            f"provider/{site.address}/{_digest(wanted, live)}",
            "provider",
            codec.provider_record(wanted, exists=live is not None),
        )
        if entry.problem is not None:
            return Condition.false(
                "Registered", "RecordRefused", f"The chain refused the provider record: {entry.problem}."
            )
        return Condition.false("Registered", "RecordPending", "The provider record is being written on chain.")

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


def _inventory_condition(kinds: tuple[GpuKind, ...], unknown: list[str]) -> Condition:
    if kinds:
        return Condition.true("InventoryReady", "GPUsFound", "On offer: " + ", ".join(map(str, kinds)) + ".")
    if unknown:
        words = f"The products {', '.join(sorted(set(unknown)))} are not in the model table, so they cannot be sold."
        return Condition.false("InventoryReady", "UnknownModel", words)
    words = (
        "No usable node has GPUs: check that NVIDIA's device plugin runs and that GPU feature discovery labels the "
        "nodes with nvidia.com/gpu.product."
    )
    return Condition.false("InventoryReady", "NoGPUs", words)


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
