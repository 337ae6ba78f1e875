"""A tenant's check of a lease's usage records, record by record and offline.

A tenant is given the records of its own lease only, so between two of them the node's chain may hold others' records,
which are not shown. Within a run of consecutive numbers the hash chain is checked and the last signature vouches for
all; across such a jump each run stands on a signature of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from gpulease.meter.records import hash_of, is_signed

MAX_PROBLEMS = 20
"""Sentences kept; the rest is only counted."""
HASH_BYTES = 32
_UNREADABLE = bytes(HASH_BYTES)


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """What the records say of one device on one node; times in milliseconds of the node's timeline."""

    node: str
    device: str
    gpu_ms: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class Findings:
    """Of all records in a file. ``problems`` by kind (``readable``, ``chain``, ``signatures``, ``overlap``, ``lease``).

    ``hashes`` are the records' own hashes, 32 bytes each, in order. ``links`` were checked against the record before,
    ``jumps`` not. ``unexplained_ms`` lies between records of one interval without a gap mark.
    """

    count: int
    hashes: bytes
    links: int
    jumps: int
    gpu_ms: int
    gap_ms: int
    unexplained_ms: int
    energy_mj: int
    devices: tuple[DeviceUse, ...]
    problems: Mapping[str, tuple[str, ...]]
    problem_count: int

    @property
    def first_ms(self) -> int | None:
        return min((d.first_ms for d in self.devices), default=None)

    @property
    def last_ms(self) -> int | None:
        return max((d.last_ms for d in self.devices), default=None)

    def hashes_of(self, first: int, last: int) -> list[bytes]:
        """Hashes of the records numbered ``first`` to ``last``, from 1."""
        return [self.hashes[n * HASH_BYTES : (n + 1) * HASH_BYTES] for n in range(first - 1, min(last, self.count))]


@dataclass(slots=True)
class _Chain:
    """The run a node's records are in: its last record, and the key that signed the runs before it."""

    last: Mapping[str, Any]
    key: str | None = None


@dataclass(slots=True)
class _Device:
    gpu_ms: int
    first_ms: int
    last_ms: int


@dataclass(slots=True)
class RecordAudit:
    """Feed it records in file order with :meth:`take`, then ask for :meth:`findings`. Memory: 32 bytes a record.

    ``keys`` are each node's public keys (hexadecimal) as far as they are known.
    """

    namespace: str
    keys: Mapping[str, Sequence[str]]
    _count: int = 0
    _hashes: bytearray = field(default_factory=bytearray)
    _links: int = 0
    _jumps: int = 0
    _gap_ms: int = 0
    _unexplained_ms: int = 0
    _energy_mj: int = 0
    _chains: dict[str, _Chain] = field(default_factory=dict)
    _devices: dict[tuple[str, str], _Device] = field(default_factory=dict)
    _reached: dict[tuple[str, ...], int] = field(default_factory=dict)
    _problems: dict[str, list[str]] = field(default_factory=dict)
    _problem_count: int = 0

    def take(self, record: Mapping[str, Any]) -> None:
        """Never raises: what cannot be read is a problem."""
        self._count += 1
        try:
            own = bytes.fromhex(hash_of(record))
            self._hashes += own
        except (TypeError, ValueError, RecursionError):
            self._hashes += _UNREADABLE
            self._problem("readable", f"line {self._count} is no usage record")
            return
        try:
            self._check(record, own.hex())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            words = f"record {self._count} cannot be read: {type(error).__name__} {error}"
            self._problem("readable", words)

    def findings(self) -> Findings:
        """What was found; the last runs' signatures are checked now."""
        for chain in self._chains.values():
            self._vouch(chain)
        self._chains.clear()
        self._one_place_each()
        devices = tuple(
            DeviceUse(node, device, use.gpu_ms, use.first_ms, use.last_ms)
            for (node, device), use in sorted(self._devices.items())
        )
        return Findings(
            count=self._count,
            hashes=bytes(self._hashes),
            links=self._links,
            jumps=self._jumps,
            gpu_ms=sum(use.gpu_ms for use in devices),
            gap_ms=self._gap_ms,
            unexplained_ms=self._unexplained_ms,
            energy_mj=self._energy_mj,
            devices=devices,
            problems={kind: tuple(found) for kind, found in self._problems.items()},
            problem_count=self._problem_count,
        )

    def _problem(self, kind: str, words: str) -> None:
        self._problem_count += 1
        if sum(map(len, self._problems.values())) < MAX_PROBLEMS or kind not in self._problems:
            self._problems.setdefault(kind, []).append(words)

    def _check(self, record: Mapping[str, Any], own_hash: str) -> None:
        number = self._count
        seq, begin, end, gpu_ms, gap_ms = (record[k] for k in ("seq", "from_ms", "to_ms", "gpu_ms", "gap_ms"))
        if not all(type(value) is int for value in (seq, begin, end, gpu_ms, gap_ms, record["started_ms"])):
            raise ValueError("numbers that are not whole")
        if record["hash"] != own_hash:
            self._problem("chain", f"record {number} was changed after it was written")
        if record["namespace"] != self.namespace:
            self._problem("lease", f"record {number} is of namespace {record['namespace']!r}, not of this lease")
        self._follow(record, seq)
        if not 0 <= gpu_ms <= end - begin or gap_ms < 0:
            self._problem("overlap", f"record {number} counts {gpu_ms} ms in a span of {end - begin} ms")
            return
        self._hold(record, begin, end, gpu_ms)
        self._continue_interval(record, begin, end, gap_ms)
        self._gap_ms += gap_ms
        energy = record["evidence"].get("energy_mj")
        self._energy_mj += energy if type(energy) is int else 0

    def _follow(self, record: Mapping[str, Any], seq: int) -> None:
        node = str(record["node"])
        chain = self._chains.get(node)
        if chain is None:
            self._chains[node] = _Chain(record)
            return
        before = int(chain.last["seq"])
        if seq == before + 1:
            if record["prev"] == chain.last["hash"]:
                self._links += 1
            else:
                self._problem("chain", f"record {self._count} does not continue the record before it on node {node}")
                self._vouch(chain)
        else:
            self._vouch(chain)
            self._jumps += 1
            # Numbers begin anew only with a new key: the agent lost its store.
            if seq <= before and (chain.key is None or self._signer(record) in (None, chain.key)):
                self._problem("chain", f"record {self._count} is number {seq} of node {node}, after {before}")
        chain.last = record

    def _vouch(self, chain: _Chain) -> None:
        """The last record of a run must be signed: through the hashes it stands for the whole run."""
        node, key = str(chain.last["node"]), self._signer(chain.last)
        if key is None:
            words = f"record {chain.last['seq']} of node {node} is not signed by a known key of that node"
            self._problem("signatures", words if self.keys.get(node) else f"no key of node {node} is known")
        chain.key = key

    def _signer(self, record: Mapping[str, Any]) -> str | None:
        for key in self.keys.get(str(record["node"]), ()):
            try:
                public = bytes.fromhex(key)
            except ValueError:
                continue
            if is_signed(record, public):
                return key
        return None

    def _hold(self, record: Mapping[str, Any], begin: int, end: int, gpu_ms: int) -> None:
        node, device = str(record["node"]), str(record["device_uuid"])
        if record["share"]:
            device = f"{device}::{record['share']}"
        use = self._devices.get((node, device))
        if use is None:
            self._devices[node, device] = _Device(gpu_ms, begin, end)
            return
        if begin < use.last_ms:
            self._problem("overlap", f"record {self._count} overlaps an earlier one on device {device}")
        use.gpu_ms += gpu_ms
        use.first_ms, use.last_ms = min(use.first_ms, begin), max(use.last_ms, end)

    def _one_place_each(self) -> None:
        """One device on two nodes at once: somebody counted it twice."""
        places: dict[str, list[tuple[int, int, str]]] = {}
        for (node, device), use in self._devices.items():
            places.setdefault(device, []).append((use.first_ms, use.last_ms, node))
            if use.gpu_ms > use.last_ms - use.first_ms:
                self._problem("overlap", f"device {device} was held longer than time passed on node {node}")
        for device, found in places.items():
            found.sort()
            for earlier, later in pairwise(found):
                if later[0] < earlier[1]:
                    words = f"device {device} is claimed by node {earlier[2]} and node {later[2]} at the same time"
                    self._problem("overlap", words)

    def _continue_interval(self, record: Mapping[str, Any], begin: int, end: int, gap_ms: int) -> None:
        interval = tuple(str(record[k]) for k in ("node", "pod", "container", "device_uuid", "share", "started_ms"))
        reached = self._reached.get(interval, int(record["started_ms"]))
        self._unexplained_ms += max(begin - gap_ms - reached, 0)
        self._reached[interval] = end
        if not record["open"]:
            del self._reached[interval]
