"""The health of single devices at work: the agents' answers judged, remembered, and told to those they concern.

What is known lives in the journal, so that a restart neither forgets a quarantine nor repeats a credit. A node whose
agent is silent keeps what was last known of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog

from gpulease.agent.collector import UsageCollector
from gpulease.inventory.facts import DeviceFacts, NodeFacts
from gpulease.inventory.health import (
    DeviceTrouble,
    Judgement,
    Known,
    Quarantine,
    TenantFault,
    judge,
    troubles_of,
)
from gpulease.store.journal import Journal

log = structlog.get_logger(__name__)
_DEVICE, _FACTS, _RELEASE = "device-health", "node-devices", "device-release"
_MOST_FAULTS = 1024
_FAULT_TOLD_MS = 3_600_000
"""An application's own fault is told for an hour; the records keep it for good."""


@dataclass(frozen=True, slots=True)
class Affected:
    """Lease namespaces that hold a device of which there is news."""

    namespaces: frozenset[str] = frozenset()
    changed: bool = False


@dataclass(slots=True)
class DeviceHealth:
    """All nodes' devices; who holds which is as the usage records tell."""

    journal: Journal
    usage: UsageCollector
    _known: dict[str, dict[str, Known]] = field(default_factory=dict)
    _facts: dict[str, NodeFacts] = field(default_factory=dict)
    _faults: dict[str, TenantFault] = field(default_factory=dict)
    _released: dict[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, body in self.journal.list_open(_DEVICE):
            node, _, uuid = key.partition("/")
            self._known.setdefault(node, {})[uuid] = _known(body)
        for node, body in self.journal.list_open(_FACTS):
            self._facts[node] = _facts(body)

    @property
    def facts(self) -> Mapping[str, NodeFacts]:
        return self._facts

    @property
    def quarantines(self) -> dict[str, Quarantine]:
        """By UUID, without those that are only suspected."""
        found = (k.quarantine for devices in self._known.values() for k in devices.values())
        return {q.uuid: q for q in found if q is not None and not q.suspected}

    @property
    def sick(self) -> frozenset[str]:
        return frozenset(self.quarantines)

    def held(self) -> frozenset[str]:
        return frozenset(uuid for devices in self.usage.running().values() for uuid in devices)

    def take(self, facts: NodeFacts) -> Affected:
        """One answer of a node's agent."""
        before = self._facts.get(facts.node)
        self._facts[facts.node] = facts
        if before is None or _identity(before) != _identity(facts):
            self.journal.put(_FACTS, facts.node, _facts_json(facts))
        known = self._known.get(facts.node, {})
        verdict = judge(facts, known, released=frozenset(self._to_release(known)))
        with self.journal.transaction():
            self._remember(facts, known, verdict)
            touched = self._apply(facts, verdict)
            for quarantine in self.quarantines.values():
                if quarantine.node == facts.node and quarantine.stops_meter:
                    # Also for a lease that got the device after its fault.
                    uuids = _uuids(facts, quarantine.uuid)
                    touched |= self.usage.stop_meter(facts.node, uuids, at_ms=quarantine.fault_ms)
        changed = before is None or bool(verdict.quarantined or verdict.released)
        return Affected(frozenset(touched), changed)

    def _to_release(self, known: Mapping[str, Known]) -> Iterable[str]:
        for uuid, one in known.items():
            if one.quarantine is not None and any(
                uuid in named and self.journal.get(_RELEASE, f"{provider}/{uuid}") is None
                for provider, named in self._released.items()
            ):
                yield uuid

    def _remember(self, facts: NodeFacts, before: Mapping[str, Known], verdict: Judgement) -> None:
        for uuid, known in verdict.known.items():
            if before.get(uuid) != known:
                self.journal.put(_DEVICE, f"{facts.node}/{uuid}", _known_json(known))
        self._known[facts.node] = dict(verdict.known)

    def _apply(self, facts: NodeFacts, verdict: Judgement) -> set[str]:
        touched: set[str] = set()
        for quarantine in verdict.quarantined:
            log.error("device quarantined", node=facts.node, device=quarantine.uuid, sign=quarantine.sign)
            uuids = _uuids(facts, quarantine.uuid)
            touched |= self._holding(uuids)
        for quarantine in verdict.released:
            log.warning("device released", node=facts.node, device=quarantine.uuid, sign=quarantine.sign)
            uuids = _uuids(facts, quarantine.uuid)
            for uuid in uuids:
                self._faults.pop(uuid, None)
            touched |= self._holding(uuids)
            if quarantine.stops_meter:
                touched |= self.usage.start_meter(uuids, at_ms=facts.at_ms)
            for provider, named in self._released.items():
                if quarantine.uuid in named:
                    # Used up: the annotation may stay, and the device's next fault counts all the same.
                    self.journal.put(_RELEASE, f"{provider}/{quarantine.uuid}", {"at_ms": facts.at_ms}, owner=provider)
        for fault in verdict.tenant_faults:
            log.info("device fault of the tenant's own doing", node=facts.node, device=fault.uuid, xid=fault.code)
            for uuid in _uuids(facts, fault.uuid):
                self._faults.pop(uuid, None)
                self._faults[uuid] = fault
                if len(self._faults) > _MOST_FAULTS:
                    self._faults.pop(next(iter(self._faults)))
            touched |= self._holding(_uuids(facts, fault.uuid))
        return touched

    def _holding(self, uuids: frozenset[str]) -> set[str]:
        return {namespace for namespace, held in self.usage.running().items() if held & uuids}

    def release(self, provider: str, uuids: Iterable[str]) -> None:
        """What the annotation of one GPUProvider names now; it takes effect with the node's next answer."""
        named = frozenset(uuids)
        if self._released.get(provider) == named:
            return
        for key, _ in self.journal.list_open(_RELEASE, owner=provider):
            if key.removeprefix(f"{provider}/") not in named:
                self.journal.delete(_RELEASE, key)
        self._released[provider] = named

    def troubles(self, devices: Iterable[str], *, since_ms: int | None) -> tuple[DeviceTrouble, ...]:
        """Of a lease's devices; faults from before it held them are not its own."""
        quarantined = {}
        for quarantine in self.quarantines.values():
            facts = self._facts.get(quarantine.node)
            for uuid in _uuids(facts, quarantine.uuid) if facts is not None else {quarantine.uuid}:
                quarantined[uuid] = quarantine
        now_ms = max((facts.at_ms for facts in self._facts.values()), default=0)
        oldest_ms = max(since_ms or 0, now_ms - _FAULT_TOLD_MS)
        faults = {uuid: fault for uuid, fault in self._faults.items() if fault.at_ms >= oldest_ms}
        return troubles_of(tuple(sorted(devices)), quarantined, faults)


def _uuids(facts: NodeFacts, uuid: str) -> frozenset[str]:
    """The GPU and its MIG instances: a fault of the chip is one of each of its parts."""
    device = facts.device(uuid)
    return frozenset({uuid, *(device.mig if device is not None else ())})


def _identity(facts: NodeFacts) -> tuple[Any, ...]:
    return tuple((d.uuid, d.product, d.memory_bytes, d.mig_enabled, d.mig) for d in facts.devices)


def _facts_json(facts: NodeFacts) -> dict[str, Any]:
    """Who is there, without what moves."""
    devices = [
        {"uuid": u, "product": p, "memory_bytes": m, "mig_enabled": e, "mig": list(g)}
        for u, p, m, e, g in _identity(facts)
    ]
    return {"node": facts.node, "boot_id": facts.boot_id, "driver": facts.driver_version, "devices": devices}


def _facts(body: Mapping[str, Any]) -> NodeFacts:
    devices = tuple(DeviceFacts(**{**d, "mig": tuple(d["mig"])}) for d in body["devices"])
    return NodeFacts(str(body["node"]), str(body["boot_id"]), 0, str(body["driver"]), devices)


def _known_json(known: Known) -> dict[str, Any]:
    quarantine = None if known.quarantine is None else known.quarantine.to_json()
    return {**asdict(known), "quarantine": quarantine}


def _known(body: Mapping[str, Any]) -> Known:
    raw = body["quarantine"]
    return Known(**{**body, "quarantine": None if raw is None else Quarantine.from_json(raw)})
