"""A node that signs usage records, and the agent's face of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gpulease.agent.client import Cursor, RecordPage
from gpulease.meter.evidence import Window
from gpulease.meter.intervals import Allocation, Span
from gpulease.meter.records import GENESIS, UsageRecord, body_of, seal, verify_chain


@dataclass(slots=True)
class UsageNode:
    """Its own time starts at ``now_ms`` and moves with what it records."""

    name: str = "n1"
    secret: bytes = b"\7" * 32
    now_ms: int = 1_000_000
    records_kept: list[dict[str, Any]] = field(default_factory=list)

    @property
    def key(self) -> str:
        return Ed25519PrivateKey.from_private_bytes(self.secret).public_key().public_bytes_raw().hex()

    def hold(
        self, namespace: str, *, count: int = 1, device: str = "GPU-0", step_ms: int = 1000, last: bool = False
    ) -> list[dict[str, Any]]:
        """``count`` records of one new interval, ``step_ms`` each; ``last`` ends it."""
        held, started_ms = Allocation(namespace, "pod", "web", device), self.now_ms
        return [self._add(held, started_ms, step_ms, still=not (last and n + 1 == count)) for n in range(count)]

    def _add(self, held: Allocation, started_ms: int, step_ms: int, *, still: bool) -> dict[str, Any]:
        span = Span(held, started_ms, self.now_ms, self.now_ms + step_ms, open=still)
        self.now_ms += step_ms
        evidence = Window(from_ms=span.from_ms, max_gap_ms=1).close(span.to_ms)
        body = body_of(span, node=self.name, boot_id="b", clock_offset_ms=0, evidence=evidence, dcgm=None)
        return self.sign(body)

    def sign(self, body: dict[str, Any]) -> dict[str, Any]:
        """Add any record body to this node's chain."""
        prev = self.records_kept[-1]["hash"] if self.records_kept else GENESIS
        sign = Ed25519PrivateKey.from_private_bytes(self.secret).sign
        record = seal(body, seq=len(self.records_kept) + 1, prev=prev, sign=sign)
        self.records_kept.append(record)
        return record

    async def records(self, cursor: Cursor, *, limit: int = 1000) -> RecordPage:
        raw = tuple(self.records_kept[cursor.seq : cursor.seq + limit])
        report = verify_chain(raw, bytes.fromhex(self.key), prev=cursor.hash)
        assert report.problem is None, report.problem
        end = Cursor(cursor.seq + len(raw), report.last_hash if raw else cursor.hash, self.key)
        typed = tuple(UsageRecord.from_json(one) for one in raw)
        return RecordPage(self.name, "b", raw, typed, end, end.seq < len(self.records_kept), 0)
