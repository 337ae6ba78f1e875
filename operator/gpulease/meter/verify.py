"""What a tenant may believe of usage records, after they were held against the chain; and what it may not.

Three answers per question: it holds, it is broken, or it stays open because nothing shown so far decides it. Only
broken ones make the whole fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from gpulease.meter.audit import Findings
from gpulease.meter.merkle import Anchor, merkle_root, parse_memo

CLOCK_MS = 120_000
"""A node's clock may differ this much from the chain's before a record counts as out of the lease's time."""


class Verdict(Enum):
    HOLDS = "holds"
    OPEN = "open"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer; ``problems`` names places, at most a few."""

    name: str
    verdict: Verdict
    words: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A withdraw transaction of the lease, in a block with code 0. ``leases`` is how many it withdrew from."""

    height: int
    tx: str
    memo: str
    leases: int = 1


@dataclass(frozen=True, slots=True)
class LeaseFacts:
    """The lease as the chain tells it; times in ms, None where the node no longer knows. ``ended_ms`` is now if live.

    ``height_range`` is what was searched for withdrawals; ``searched_all`` False when older blocks are gone.
    """

    state: str
    price: str
    withdrawn: str
    created_ms: int | None
    ended_ms: int | None
    live: bool
    height_range: tuple[int, int]
    searched_all: bool = True

    @property
    def length_ms(self) -> int | None:
        """How long the lease lasted or lasts."""
        return None if self.created_ms is None or self.ended_ms is None else self.ended_ms - self.created_ms


@dataclass(frozen=True, slots=True)
class Settlement:
    """A root found on chain, held against the records."""

    height: int
    tx: str
    root: str
    first: int
    last: int
    verdict: Verdict
    words: str


@dataclass(frozen=True, slots=True)
class Report:
    """``believe`` and ``do_not_believe`` are sentences for the tenant."""

    lease: str
    checks: tuple[Check, ...]
    settlements: tuple[Settlement, ...]
    records: int
    anchored: int
    gpu_ms: int
    gap_ms: int
    devices: tuple[dict[str, Any], ...]
    believe: tuple[str, ...] = ()
    do_not_believe: tuple[str, ...] = field(default=())

    @property
    def holds(self) -> bool:
        return all(check.verdict is not Verdict.BROKEN for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """As ``-o json`` prints it."""
        return {
            "lease": self.lease,
            "holds": self.holds,
            "records": self.records,
            "anchoredRecords": self.anchored,
            "gpuMilliseconds": self.gpu_ms,
            "gapMilliseconds": self.gap_ms,
            "devices": list(self.devices),
            "checks": [{**asdict(c), "verdict": c.verdict.value, "problems": list(c.problems)} for c in self.checks],
            "settlements": [{**asdict(s), "verdict": s.verdict.value} for s in self.settlements],
            "believe": list(self.believe),
            "doNotBelieve": list(self.do_not_believe),
        }


def verify(
    lease: str,
    findings: Findings,
    *,
    facts: LeaseFacts | None,
    withdrawals: Sequence[Withdrawal],
    pinned: bool,
) -> Report:
    """``facts`` None: the chain says that there is no such lease. ``pinned``: the node keys came from elsewhere."""
    settlements, anchored = _settlements(findings, withdrawals, facts)
    checks = (
        _of_records(findings, "readable", "Every line is a usage record.", "Some lines are no usage records."),
        _of_records(findings, "lease", "Every record is of this lease.", "There are records of something else."),
        _chain(findings),
        _of_records(findings, "signatures", "A key of its node stands behind each hash.", "Signatures are wrong."),
        _of_records(
            findings,
            "overlap",
            "No device is counted twice: per device, held time is at most the time that passed.",
            "Some device is counted twice, or for longer than time passed.",
        ),
        _lifetime(findings, facts),
        _anchors(findings, settlements, withdrawals, facts, anchored),
    )
    report = Report(
        lease=lease,
        checks=checks,
        settlements=settlements,
        records=findings.count,
        anchored=anchored,
        gpu_ms=findings.gpu_ms,
        gap_ms=findings.gap_ms,
        devices=tuple(asdict(device) for device in findings.devices),
    )
    believe, doubt = _sentences(report, findings, facts, pinned)
    return Report(
        **{name: getattr(report, name) for name in Report.__dataclass_fields__ if "believe" not in name},
        believe=believe,
        do_not_believe=doubt,
    )


def _of_records(findings: Findings, kind: str, good: str, bad: str) -> Check:
    problems = findings.problems.get(kind, ())
    if findings.count == 0:
        return Check(kind, Verdict.OPEN, "There are no records.")
    return Check(kind, Verdict.BROKEN if problems else Verdict.HOLDS, bad if problems else good, tuple(problems))


def _chain(findings: Findings) -> Check:
    words = f"{findings.links} links of the hash chain hold"
    if findings.jumps:
        words += f"; at {findings.jumps} places the node has records that are not shown here (of other leases)"
    return _of_records(findings, "chain", f"{words}.", "The hash chain is broken.")


def _lifetime(findings: Findings, facts: LeaseFacts | None) -> Check:
    name = "lifetime"
    if facts is None:
        return Check(name, Verdict.BROKEN, "The chain knows no such lease.")
    first, last = findings.first_ms, findings.last_ms
    if first is None or last is None:
        return Check(name, Verdict.OPEN, "There are no records.")
    if facts.created_ms is None or facts.ended_ms is None:
        return Check(
            name, Verdict.OPEN, "The node no longer knows when the lease began; ask one that keeps all blocks."
        )
    if first < facts.created_ms - CLOCK_MS:
        early_s = (facts.created_ms - first) // 1000
        return Check(name, Verdict.BROKEN, f"Records begin {early_s} s before the lease did.")
    if last > facts.ended_ms + CLOCK_MS:
        late_s = (last - facts.ended_ms) // 1000
        if facts.live:
            return Check(name, Verdict.BROKEN, f"Records end {late_s} s in the future.")
        return Check(name, Verdict.OPEN, f"Records go on for {late_s} s after the lease ended; that time is not paid.")
    return Check(name, Verdict.HOLDS, "All records lie within the lease's time on chain.")


def _settlements(
    findings: Findings, withdrawals: Sequence[Withdrawal], facts: LeaseFacts | None
) -> tuple[tuple[Settlement, ...], int]:
    """Each root on chain against the records; and how many records are under a root that fits."""
    found: list[Settlement] = []
    covered = anchored = 0
    unsure = facts is not None and not facts.searched_all
    for paid in sorted(withdrawals, key=lambda w: w.height):
        anchor = parse_memo(paid.memo)
        if anchor is None or paid.leases != 1:
            continue
        verdict, words = _held_against(anchor, findings)
        if anchor.first > covered + 1:
            words = f"Records {covered + 1} to {anchor.first - 1} are in no settlement before it. {words}"
            if verdict is Verdict.HOLDS:
                verdict = Verdict.OPEN if unsure else Verdict.BROKEN
        found.append(Settlement(paid.height, paid.tx, anchor.root, anchor.first, anchor.last, verdict, words))
        if verdict is not Verdict.BROKEN:
            anchored += max(anchor.last - max(anchor.first - 1, covered), 0)
        covered = max(covered, anchor.last)
    return tuple(found), anchored


def _held_against(anchor: Anchor, findings: Findings) -> tuple[Verdict, str]:
    if anchor.last > findings.count:
        words = (
            f"The file ends at record {findings.count}; ask the provider for records {findings.count + 1} and later."
        )
        return Verdict.BROKEN, words
    if merkle_root(findings.hashes_of(anchor.first, anchor.last)).hex() != anchor.root:
        return Verdict.BROKEN, "The records are not those that were committed to."
    return Verdict.HOLDS, "The records are those that were committed to."


def _anchors(
    findings: Findings,
    settlements: Sequence[Settlement],
    withdrawals: Sequence[Withdrawal],
    facts: LeaseFacts | None,
    anchored: int,
) -> Check:
    name = "anchors"
    wrong = tuple(f"height {s.height}: {s.words}" for s in settlements if s.verdict is Verdict.BROKEN)
    if wrong:
        return Check(name, Verdict.BROKEN, "The records differ from what the chain holds.", wrong)
    if findings.count == 0:
        return Check(name, Verdict.OPEN, "There are no records.")
    if settlements:
        words = f"{anchored} of {findings.count} records are those under {len(settlements)} roots on chain."
        unsure = any(s.verdict is Verdict.OPEN for s in settlements)
        return Check(name, Verdict.OPEN if unsure else Verdict.HOLDS, words)
    if not withdrawals:
        words = "The provider has not withdrawn yet, so nothing is on chain to compare with."
        if facts is not None and not facts.searched_all:
            words = "No withdrawal was found, but the node no longer keeps the lease's first blocks."
        return Check(name, Verdict.OPEN, words)
    words = f"The provider withdrew {len(withdrawals)} times and committed to no records."
    return Check(name, Verdict.BROKEN, words)


def _sentences(
    report: Report, findings: Findings, facts: LeaseFacts | None, pinned: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    verdicts = {check.name: check.verdict for check in report.checks}
    good = {name for name, verdict in verdicts.items() if verdict is Verdict.HOLDS}
    believe, doubt = [], []
    if {"readable", "chain", "signatures"} <= good:
        believe.append("The records are as the nodes' keys signed them; nobody without these keys changed them.")
    else:
        doubt.append("The records themselves: see the checks that are broken or open.")
    if report.anchored and verdicts["anchors"] is not Verdict.BROKEN:
        believe.append(
            f"{report.anchored} records have not been changed, added to or thinned out since the withdrawals "
            "that commit to them, not even by the provider."
        )
    if {"overlap", "lease"} <= good:
        believe.append(f"They claim {report.gpu_ms // 1000} GPU-seconds, device by device, none counted twice.")
    if facts is not None:
        believe.append(
            f"On chain the lease is {facts.state} at {facts.price} per block and {facts.withdrawn} was withdrawn, "
            "as far as this one endpoint can be believed. The chain pays by block, whatever was used."
        )
        if facts.length_ms is not None and findings.devices and "overlap" in good:
            share = report.gpu_ms * 1000 // max(facts.length_ms * len(findings.devices), 1)
            believe.append(f"Recorded use covers {share / 10:.1f} % of the lease's time on these devices.")
    doubt.append("That the nodes measured rightly: nodes, keys and software are the provider's.")
    if not pinned:
        doubt.append("That the keys are the nodes': they came with the records. Compare them, or give --node-key.")
    if report.anchored < report.records and verdicts["anchors"] is not Verdict.BROKEN:
        doubt.append(
            f"{report.records - report.anchored} records are under no root on chain yet: the provider could still "
            "replace them."
        )
    if findings.jumps:
        doubt.append("That nobody else held the same devices meanwhile: others' records are not shown to you.")
    if findings.unexplained_ms:
        doubt.append(
            f"{findings.unexplained_ms // 1000} s within intervals that no record explains: the node's clock was set, "
            "or records are missing."
        )
    if findings.gap_ms:
        doubt.append(f"{findings.gap_ms // 1000} s marked as unseen: not counted, and not shown to have been idle.")
    doubt.append("Utilisation, memory and energy: they are what the provider's driver told, for disputes only.")
    return tuple(believe), tuple(doubt)
