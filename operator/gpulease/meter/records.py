"""Usage records: numbered, chained by hash, signed by the node, and checkable by anybody offline.

A record is JSON in canonical form (RFC 8785). Its hash covers everything but ``hash`` and ``sig``; ``prev`` is the
hash of the record before it, so the last signature vouches for all of them. Numbers are integers that every JSON
reader holds exactly, hence milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gpulease.errors import BadInput
from gpulease.meter.evidence import Evidence
from gpulease.meter.intervals import Span

VERSION = 1
GENESIS = "0" * 64
"""``prev`` of the first record."""
MAX_SAFE_INTEGER = 2**53 - 1
_SIGNED_AS = b"gpulease usage record v1\0"
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


def canonical(value: Any) -> bytes:
    """RFC 8785 for objects, lists, text, safe integers, booleans and null; ``ValueError`` for anything else.

    Within these types Python's compact form is the canonical one, save for the order of keys outside the Basic
    Multilingual Plane; keys are ASCII here.
    """
    _check(value)
    return _encode(value).encode()


def _check(value: Any) -> None:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return
    if kind is int:
        if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
            raise ValueError(f"{value} is larger than JSON numbers can hold exactly")
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str or not key.isascii():
                raise ValueError(f"{key!r} is no ASCII key")
            _check(item)
    elif kind is list:
        for item in value:
            _check(item)
    else:
        raise ValueError(f"a {kind.__name__} has no place in a record")


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One record. ``gpu_ms`` is the held time within ``from_ms``…``to_ms``; ``gap_ms`` the unseen time before it.

    Records of one interval share holder, device and ``started_ms``; the last one has ``open`` False.
    ``clock_offset_ms`` is the node's wall clock minus the record's time when it was cut.
    """

    seq: int
    node: str
    boot_id: str
    namespace: str
    pod: str
    container: str
    device_uuid: str
    share: str
    started_ms: int
    from_ms: int
    to_ms: int
    gpu_ms: int
    gap_ms: int
    open: bool
    clock_offset_ms: int
    evidence: Mapping[str, Any]
    dcgm: Mapping[str, Any] | None
    prev: str
    hash: str
    sig: str

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> UsageRecord:
        """Fields a newer agent adds are left out. ``BadInput`` for what is no record."""
        try:
            if raw["v"] != VERSION:
                raise BadInput(f"usage record version {raw['v']} is not known; use a newer gpulease")
            values: dict[str, Any] = {name: str(raw[name]) for name in _TEXTS}
            values.update({name: int(raw[name]) for name in _NUMBERS})
            dcgm = None if raw["dcgm"] is None else dict(raw["dcgm"])
            return cls(open=bool(raw["open"]), evidence=dict(raw["evidence"]), dcgm=dcgm, **values)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"this is no usage record: {type(error).__name__} {error}") from error


_TEXTS = ("node", "boot_id", "namespace", "pod", "container", "device_uuid", "share", "prev", "hash", "sig")
_NUMBERS = ("seq", "started_ms", "from_ms", "to_ms", "gpu_ms", "gap_ms", "clock_offset_ms")


def body_of(
    span: Span, *, node: str, boot_id: str, clock_offset_ms: int, evidence: Evidence, dcgm: Evidence | None
) -> dict[str, Any]:
    """A record before it is numbered. ``dcgm`` None means that no exporter is configured."""
    held = span.allocation
    return {
        "v": VERSION,
        "node": node,
        "boot_id": boot_id,
        "namespace": held.namespace,
        "pod": held.pod,
        "container": held.container,
        "device_uuid": held.device_uuid,
        "share": held.share,
        "started_ms": span.started_ms,
        "from_ms": span.from_ms,
        "to_ms": span.to_ms,
        "gpu_ms": span.to_ms - span.from_ms,
        "gap_ms": span.gap_ms,
        "open": span.open,
        "clock_offset_ms": clock_offset_ms,
        "evidence": evidence.to_json(),
        "dcgm": None if dcgm is None else dcgm.to_json(),
    }


def seal(body: Mapping[str, Any], *, seq: int, prev: str, sign: Callable[[bytes], bytes]) -> dict[str, Any]:
    """Number, chain and sign a record. ``sign`` returns a 64-byte Ed25519 signature."""
    record = {**body, "seq": seq, "prev": prev}
    digest = hashlib.sha256(canonical(record)).digest()
    return {**record, "hash": digest.hex(), "sig": sign(_SIGNED_AS + digest).hex()}


@dataclass(frozen=True, slots=True)
class ChainReport:
    """``problem`` is None for a sound chain, else a sentence about what follows the last good record (``last_seq``)."""

    count: int
    first_seq: int | None
    last_seq: int | None
    last_hash: str
    gpu_ms: int
    problem: str | None = None


def verify_chain(
    records: Iterable[Mapping[str, Any]],
    public_key: bytes,
    *,
    prev: str | None = None,
    every_signature: bool = False,
) -> ChainReport:
    """Check numbering, hashes, times and signature of consecutive records of one node.

    ``prev`` is the hash before the first record, where it is known. The last signature covers all records through
    the chain; ``every_signature`` checks each one.
    """
    walk = _Walk(prev)
    last: Mapping[str, Any] | None = None
    for record in records:
        problem = walk.take(record)
        if problem is None and every_signature and not is_signed(record, public_key):
            problem = f"record {record['seq']} is not signed by this node's key"
        if problem is not None:
            return walk.report(problem)
        last = record
    if last is not None and not every_signature and not is_signed(last, public_key):
        return walk.report(f"record {last['seq']} is not signed by this node's key")
    return walk.report(None)


class _Walk:
    def __init__(self, prev: str | None) -> None:
        self._prev = prev
        self._first: int | None = None
        self._last: int | None = None
        self._count = 0
        self._gpu_ms = 0
        self._held_to: dict[tuple[str, str], int] = {}

    def report(self, problem: str | None) -> ChainReport:
        return ChainReport(self._count, self._first, self._last, self._prev or GENESIS, self._gpu_ms, problem)

    def take(self, record: Mapping[str, Any]) -> str | None:
        try:
            return self._take(record)
        except (KeyError, TypeError, ValueError) as error:
            return f"the record after {self._last or 'the start'} cannot be read: {type(error).__name__} {error}"

    def _take(self, record: Mapping[str, Any]) -> str | None:
        seq = record["seq"]
        if type(seq) is not int or (self._last is not None and seq != self._last + 1):
            return f"record {seq} follows {self._last}: a record is missing or out of order"
        if self._prev is not None and record["prev"] != self._prev:
            return f"record {seq} does not continue the record before it"
        if hash_of(record) != record["hash"]:
            return f"record {seq} was changed after it was written"
        begin, end, gpu_ms = record["from_ms"], record["to_ms"], record["gpu_ms"]
        device = (record["device_uuid"], record["share"])
        if not type(begin) is type(end) is type(gpu_ms) is int:
            return f"record {seq} has times that are no whole numbers"
        if not 0 <= gpu_ms <= end - begin:
            return f"record {seq} counts {gpu_ms} ms in a span of {end - begin} ms"
        if begin < self._held_to.get(device, begin):
            return f"record {seq} overlaps an earlier one on device {device[0]}"
        self._held_to[device] = end
        self._first = seq if self._first is None else self._first
        self._last, self._prev = seq, record["hash"]
        self._count += 1
        self._gpu_ms += gpu_ms
        return None


def hash_of(record: Mapping[str, Any]) -> str:
    """The hash that a record's content has. ``ValueError`` or ``TypeError`` for what is no JSON."""
    body = {k: v for k, v in record.items() if k not in ("hash", "sig")}
    # Not checked for form again: equal hashes mean the very text that was signed.
    return hashlib.sha256(_encode(body).encode()).hexdigest()


def is_signed(record: Mapping[str, Any], public_key: bytes) -> bool:
    """Whether this key signed the record's ``hash``; that the hash is the record's own is :func:`hash_of`."""
    try:
        signature, digest = bytes.fromhex(record["sig"]), bytes.fromhex(record["hash"])
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _SIGNED_AS + digest)
    except (InvalidSignature, KeyError, TypeError, ValueError):
        return False
    return True
