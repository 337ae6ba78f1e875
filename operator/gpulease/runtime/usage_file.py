"""The file in which a provider hands a lease's usage records to its tenant.

JSON Lines: one head (whose lease, and the public keys of the nodes), then the lease's records as signed, in the order
the operator took them in, each one once. The first record is number 1: settlements on chain refer to these numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gpulease.agent.collector import UsageCollector, lease_stream, node_stream
from gpulease.errors import BadInput, StoreError
from gpulease.ids import LeaseId
from gpulease.meter.records import canonical
from gpulease.store.journal import Journal
from gpulease.workload.names import lease_namespace

FORMAT = "gpulease usage records v1"
MAX_LINE_BYTES = 64 * 1024
MAX_RECORDS = 50_000_000
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Head:
    """``keys`` are the nodes' public keys, hexadecimal, oldest first."""

    lease: LeaseId
    keys: Mapping[str, Sequence[str]]


def export(journal: Journal, lease: LeaseId, out: IO[str]) -> int:
    """Write head and records; how many records. ``StoreError`` for a store that contradicts itself."""
    namespace = lease_namespace(lease)
    collector = UsageCollector(journal)
    keys = {node: list(collector.keys(node)) for node in sorted(_nodes(journal, namespace))}
    head = {"format": FORMAT, "lease": str(lease), "namespace": namespace, "keys": keys}
    out.write(canonical(head).decode() + "\n")
    count = 0
    for record in _records(journal, namespace):
        out.write(canonical(record).decode() + "\n")
        count += 1
    return count


def _numbered(journal: Journal, namespace: str) -> Iterator[tuple[str, str]]:
    for row in journal.read_all(lease_stream(namespace)):
        yield row.key, str(row.body["node"])


def _nodes(journal: Journal, namespace: str) -> set[str]:
    return {node for _, node in _numbered(journal, namespace)}


def _records(journal: Journal, namespace: str) -> Iterator[Mapping[str, Any]]:
    for hash_, node in _numbered(journal, namespace):
        row = journal.find(node_stream(node), hash_)
        if row is None:
            raise StoreError(f"the store numbers record {hash_} of node {node} but does not hold it; restore the store")
        yield row.body


def read(path: Path) -> tuple[Head, Iterator[Mapping[str, Any]]]:
    """The head, and the records one by one. ``BadInput`` says which line to look at.

    A line that is JSON but no record is passed on: the check counts it.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise BadInput(f"--records {path} cannot be read: {error.strerror}") from error
    lines = _lines(stream, path)
    head = _head(next(lines, (1, {}))[1], path)
    return head, (body for _, body in lines)


def _lines(stream: IO[bytes], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with stream:
        for number in range(1, MAX_RECORDS + 2):
            line = stream.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                raise BadInput(f"{path}, line {number}: longer than {MAX_LINE_BYTES} bytes; this is no usage record")
            if not line.strip():
                continue
            try:
                body = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadInput(f"{path}, line {number}: not JSON ({error}); ask for a new export") from error
            if not isinstance(body, dict):
                raise BadInput(f"{path}, line {number}: not a JSON object; ask for a new export")
            yield number, body
    raise BadInput(f"{path} has more than {MAX_RECORDS} records")


def _head(body: Mapping[str, Any], path: Path) -> Head:
    if body.get("format") != FORMAT:
        raise BadInput(f"{path} does not begin with the head of {FORMAT!r}; make it with gpulease records export")
    keys = body.get("keys")
    try:
        lease = LeaseId.parse(str(body["lease"]))
    except (KeyError, ValueError) as error:
        raise BadInput(f"{path}, line 1: {error}") from error
    if not isinstance(keys, dict) or not all(_is_key_list(found) for found in keys.values()):
        raise BadInput(f"{path}, line 1: keys must map node names to lists of 64 hexadecimal digits")
    return Head(lease, {str(node): tuple(found) for node, found in keys.items()})


def _is_key_list(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(key, str) and is_key(key) for key in found)


def is_key(text: str) -> bool:
    """An Ed25519 public key in hexadecimal."""
    return len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)


def pinned_keys(options: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """From ``NODE=HEX`` options; ``BadInput`` otherwise. A node may be named several times."""
    found: dict[str, tuple[str, ...]] = {}
    for text in options:
        node, _, key = text.partition("=")
        if not node or not is_key(key.lower()):
            raise BadInput(f"--node-key {text!r} is not NODE=KEY with a key of 64 hexadecimal digits")
        found[node] = (*found.get(node, ()), key.lower())
    return found
