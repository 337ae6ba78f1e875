"""Which devices are sick, by whose doing, and when they may be sold again: a table as data and a pure judgement.

Only a node's agent that answers can put a device into quarantine, and only the device it names; silence changes
nothing. What a person or a reset has put right stays right until something new happens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from functools import lru_cache
from importlib import resources
from typing import Any

from gpulease.inventory.facts import DeviceFacts, NodeFacts, XidEvent


class Cause(Enum):
    """Whose doing a sign is; see ``health_policy.json``."""

    TENANT = "tenant"
    NOTE = "note"
    WATCH = "watch"
    HARDWARE = "hardware"


class Heals(Enum):
    """What proves that a device is well again."""

    RESET = "reset"
    REBOOT = "reboot"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Rule:
    cause: Cause
    words: str
    heals: Heals = Heals.RESET
    unless: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class PolicyTable:
    """Rules by XID and by NVML recovery action, and for what has no code."""

    version: str
    xids: Mapping[int, Rule]
    unknown_xid: Rule
    actions: Mapping[int, Rule]
    signs: Mapping[str, Rule]
    unless_within_ms: int

    def xid(self, code: int) -> Rule:
        return self.xids.get(code, self.unknown_xid)


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A device out of sale. ``fault_ms`` on its agent's timeline; ``stops_meter`` False: a running lease goes on.

    ``suspected`` is a first sign that has to be seen once more before anything follows from it.
    """

    node: str
    uuid: str
    sign: str
    words: str
    fault_ms: int
    boot_id: str
    stops_meter: bool
    heals: Heals
    index: int = 0
    asked_reset: bool = False
    clean_since_ms: int | None = None
    suspected: bool = False

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "heals": self.heals.value}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Quarantine:
        return cls(**{**raw, "heals": Heals(raw["heals"])})

    def __str__(self) -> str:
        return f"{self.uuid} on {self.node}: {self.sign}, {self.words}"


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered of one device. Signs up to ``settled_ms`` have been dealt with."""

    quarantine: Quarantine | None = None
    settled_ms: int = 0
    boot_id: str = ""
    ecc_settled: int = 0


@dataclass(frozen=True, slots=True)
class TenantFault:
    """An XID of the application's own doing."""

    uuid: str
    at_ms: int
    code: int
    words: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """``known`` is what to remember from now on; the rest is what is new since the last look."""

    known: Mapping[str, Known]
    quarantined: tuple[Quarantine, ...] = ()
    released: tuple[Quarantine, ...] = ()
    tenant_faults: tuple[TenantFault, ...] = ()


@dataclass(frozen=True, slots=True)
class _Sign:
    name: str
    rule: Rule
    at_ms: int
    certain: bool = True


CLEAN_FOR_MS = 60_000
"""A device has to look well for this long before that counts as proof."""


def judge(
    facts: NodeFacts,
    known: Mapping[str, Known],
    *,
    table: PolicyTable | None = None,
    released: frozenset[str] = frozenset(),
) -> Judgement:
    """One answer of one node's agent against what is remembered of its devices. ``released`` names UUIDs that the
    admin has put back on sale since the last look: what was seen of them up to now is settled."""
    rules = table or policy_table()
    after = dict(known)
    new: list[Quarantine] = []
    gone: list[Quarantine] = []
    faults: list[TenantFault] = []
    for device in facts.devices:
        if not device.uuid:
            # Never seen well since the agent started: nobody knows which one it is. The plugin does not offer it.
            continue
        before = known.get(device.uuid, Known())
        if before.quarantine is not None and device.uuid in released:
            gone.append(before.quarantine)
            after[device.uuid] = _settled(facts, device)
            continue
        found, own = _signs(facts, device, before, rules)
        faults += own
        state = _step(facts, device, before, found)
        if _is_new(before.quarantine, state.quarantine) and state.quarantine is not None:
            new.append(state.quarantine)
        if before.quarantine is not None and not before.quarantine.suspected and state.quarantine is None:
            gone.append(before.quarantine)
        latest = max((x.at_ms for x in device.xids), default=0)
        state = replace(state, settled_ms=max(state.settled_ms, latest), boot_id=facts.boot_id)
        if state != Known(settled_ms=0, boot_id=facts.boot_id) or device.uuid in known:
            after[device.uuid] = state
    return Judgement(after, tuple(new), tuple(gone), tuple(faults))


def _is_new(before: Quarantine | None, now: Quarantine | None) -> bool:
    if now is None or now.suspected:
        return False
    return before is None or before.suspected or (now.stops_meter and not before.stops_meter)


def _settled(facts: NodeFacts, device: DeviceFacts) -> Known:
    latest = max((x.at_ms for x in device.xids), default=0)
    return Known(None, max(facts.at_ms, latest), facts.boot_id, device.ecc_uncorrected or 0)


def _signs(
    facts: NodeFacts, device: DeviceFacts, before: Known, rules: PolicyTable
) -> tuple[list[_Sign], list[TenantFault]]:
    signs: list[_Sign] = []
    faults: list[TenantFault] = []
    for event in device.xids:
        if event.at_ms <= before.settled_ms:
            continue
        rule = rules.xid(event.code)
        if _excused(event, device, rule, rules):
            continue
        if rule.cause is Cause.TENANT:
            faults.append(TenantFault(device.uuid, event.at_ms, event.code, rule.words))
        elif rule.cause is not Cause.NOTE:
            signs.append(_Sign(f"XID {event.code}", rule, event.at_ms))
    if device.problem is not None:
        signs.append(_Sign("NoAnswer", rules.signs["no_answer"], facts.at_ms, certain=False))
    action = rules.actions.get(device.recovery_action or 0)
    if action is not None and action.cause in (Cause.WATCH, Cause.HARDWARE):
        signs.append(_Sign(f"RecoveryAction {device.recovery_action}", action, facts.at_ms))
    errors = device.ecc_uncorrected or 0
    if errors > (before.ecc_settled if before.boot_id == facts.boot_id else 0):
        signs.append(_Sign("EccUncorrected", rules.signs["ecc_uncorrected"], facts.at_ms))
    if device.row_remap_failed:
        signs.append(_Sign("RowRemapFailed", rules.signs["row_remap_failed"], facts.at_ms))
    return signs, faults


def _excused(event: XidEvent, device: DeviceFacts, rule: Rule, rules: PolicyTable) -> bool:
    """A companion XID says that the matter was contained, and none says the contrary."""
    near = {x.code for x in device.xids if abs(x.at_ms - event.at_ms) <= rules.unless_within_ms and x != event}
    worse = any(rules.xid(code).cause is Cause.HARDWARE for code in near - {event.code})
    return bool(rule.unless & near) and not worse


def _step(facts: NodeFacts, device: DeviceFacts, before: Known, signs: list[_Sign]) -> Known:
    now = before.quarantine
    if signs:
        # The gravest sign gives the reason; among equals the earliest, because the meter stops there.
        worst = min(signs, key=lambda s: (s.rule.cause is not Cause.HARDWARE, not s.certain, s.at_ms))
        return replace(before, quarantine=_put(facts, device, now, worst))
    if now is None:
        return before
    if now.suspected:
        return replace(before, quarantine=None)
    return _heal(facts, device, before, now)


def _put(facts: NodeFacts, device: DeviceFacts, now: Quarantine | None, sign: _Sign) -> Quarantine:
    hardware = sign.rule.cause is Cause.HARDWARE
    asked = bool(device.recovery_action)
    if now is not None and not now.suspected and (now.stops_meter or not hardware):
        heals = sign.rule.heals if _stricter(sign.rule.heals, now.heals) else now.heals
        boot_id = facts.boot_id if sign.certain else now.boot_id
        return replace(now, heals=heals, asked_reset=now.asked_reset or asked, clean_since_ms=None, boot_id=boot_id)
    first_ms = min(sign.at_ms, now.fault_ms) if now is not None and now.suspected else sign.at_ms
    return Quarantine(
        node=facts.node,
        uuid=device.uuid,
        sign=sign.name,
        words=sign.rule.words,
        fault_ms=first_ms,
        boot_id=facts.boot_id,
        stops_meter=hardware,
        heals=sign.rule.heals,
        index=device.index,
        asked_reset=asked,
        # A call that failed once may have hit a moment; the next answer tells.
        suspected=not sign.certain and (now is None or (now.suspected and now.fault_ms == facts.at_ms)),
    )


def _stricter(one: Heals, other: Heals) -> bool:
    order = (Heals.RESET, Heals.REBOOT, Heals.NEVER)
    return order.index(one) > order.index(other)


def _heal(facts: NodeFacts, device: DeviceFacts, before: Known, now: Quarantine) -> Known:
    """No sign is left: with proof of a reset or reboot, and after a while of calm, the device is well."""
    rebooted = facts.boot_id != now.boot_id
    reset = now.asked_reset and device.recovery_action == 0
    proved = rebooted or (now.heals is Heals.RESET and reset)
    if now.heals is Heals.NEVER or not proved:
        return replace(before, quarantine=replace(now, clean_since_ms=None))
    if now.clean_since_ms is None:
        return replace(before, quarantine=replace(now, clean_since_ms=facts.at_ms))
    if facts.at_ms - now.clean_since_ms < CLEAN_FOR_MS:
        return before
    return _settled(facts, device)


@lru_cache(maxsize=1)
def policy_table() -> PolicyTable:
    """The table that is shipped."""
    return parse_table(json.loads(resources.files("gpulease.inventory").joinpath("health_policy.json").read_text()))


def parse_table(raw: Mapping[str, Any]) -> PolicyTable:
    """``ValueError`` or ``KeyError`` for a table that names an unknown cause or a code twice."""

    def rule(entry: Mapping[str, Any]) -> Rule:
        heals = Heals(entry.get("heals", Heals.RESET.value))
        return Rule(Cause(entry["cause"]), str(entry["words"]), heals, frozenset(entry.get("unless", ())))

    def by_code(entries: list[Mapping[str, Any]]) -> dict[int, Rule]:
        found: dict[int, Rule] = {}
        for entry in entries:
            for code in entry["codes"]:
                if code in found:
                    raise ValueError(f"code {code} is named twice in the health policy")
                found[int(code)] = rule(entry)
        return found

    return PolicyTable(
        str(raw["version"]),
        by_code(raw["xids"]),
        rule(raw["unknown_xid"]),
        by_code(raw["recovery_actions"]),
        {str(name): rule(entry) for name, entry in raw["signs"].items()},
        int(raw["unless_within_ms"]),
    )


@dataclass(frozen=True, slots=True)
class DeviceTrouble:
    """What a lease has to be told of one of its devices."""

    uuid: str
    sign: str
    words: str
    at_ms: int
    tenant: bool
    stops_meter: bool


def troubles_of(
    devices: tuple[str, ...], quarantined: Mapping[str, Quarantine], faults: Mapping[str, TenantFault]
) -> tuple[DeviceTrouble, ...]:
    """Of the devices a lease holds, by UUID as held (whole or MIG), in order."""
    found: list[DeviceTrouble] = []
    for uuid in devices:
        q, fault = quarantined.get(uuid), faults.get(uuid)
        if q is not None and not q.suspected:
            found.append(DeviceTrouble(uuid, q.sign, q.words, q.fault_ms, False, q.stops_meter))
        elif fault is not None:
            found.append(DeviceTrouble(uuid, f"XID {fault.code}", fault.words, fault.at_ms, True, False))
    return tuple(found)
