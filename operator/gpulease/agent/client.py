"""The operator's side of the agent's HTTP face: pull records, checked, and ask what is there now.

Silence is :class:`AgentUnreachable`; an answer that breaks the chain of records is :class:`BadInput` and takes
nothing in, because usage that cannot be proved must not reach the books.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from gpulease.errors import AgentUnreachable, BadInput
from gpulease.inventory.facts import NodeFacts, node_facts
from gpulease.meter.records import GENESIS, UsageRecord, verify_chain

MAX_ANSWER_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a node's records have been taken: number and hash of the last one, and whose key signs."""

    seq: int = 0
    hash: str = GENESIS
    public_key: str = ""


@dataclass(frozen=True, slots=True)
class RecordPage:
    """``raw`` is what was signed, ``records`` the same typed; ``cursor`` is to be kept with them, in one write."""

    node: str
    boot_id: str
    raw: tuple[dict[str, Any], ...]
    records: tuple[UsageRecord, ...]
    cursor: Cursor
    more: bool
    lost: int
    """Records between the cursor and the oldest one kept: their time is unknown."""


class AgentClient:
    """One node's agent. ``session`` is shared and closed by the caller."""

    def __init__(
        self, url: str, session: aiohttp.ClientSession, *, token: str | None = None, timeout_s: float = 5.0
    ) -> None:
        self._url = url.rstrip("/")
        self._session = session
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def records(self, cursor: Cursor, *, limit: int = 1000) -> RecordPage:
        """The next page after ``cursor``, its chain and signature checked.

        The agent takes the cursor as a receipt: pass one only when everything up to it is safely stored.
        """
        answer = await self._get(f"/v1/records?after={cursor.seq}&limit={limit}")
        try:
            return _page(answer, cursor)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"the agent {self._url} sent no page of records: {type(error).__name__} {error}") from error

    async def allocations(self) -> list[dict[str, Any]]:
        """Who holds which device now; ``AgentUnreachable`` also when the agent itself does not know."""
        return await self._known("/v1/allocations", "allocations")

    async def devices(self) -> list[dict[str, Any]]:
        """The node's devices; ``AgentUnreachable`` also when NVML did not answer the agent."""
        return await self._known("/v1/devices", "devices")

    async def node_devices(self) -> NodeFacts:
        """The same as facts of the node; ``AgentUnreachable`` also when NVML did not answer the agent."""
        answer = await self._get("/v1/devices")
        if answer.get("known") is not True:
            raise AgentUnreachable(f"the agent {self._url} does not know its devices: {answer.get('problem')}")
        return node_facts(answer)

    async def _known(self, path: str, field: str) -> list[dict[str, Any]]:
        answer = await self._get(path)
        if answer.get("known") is not True:
            raise AgentUnreachable(f"the agent {self._url} does not know its {field}: {answer.get('problem')}")
        found = answer.get(field)
        if not isinstance(found, list):
            raise BadInput(f"the agent {self._url} sent no list of {field}")
        return found

    async def _get(self, path: str) -> dict[str, Any]:
        try:
            async with self._session.get(self._url + path, headers=self._headers, timeout=self._timeout) as answer:
                text = bytearray()
                async for chunk in answer.content.iter_any():
                    text += chunk
                    if len(text) > MAX_ANSWER_BYTES:
                        raise BadInput(f"the agent {self._url} sends more than {MAX_ANSWER_BYTES} bytes")
                body: Any = json.loads(text)
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            words = str(error) or type(error).__name__
            raise AgentUnreachable(f"the agent {self._url} did not answer: {words}") from error
        if not isinstance(body, dict):
            raise BadInput(f"the agent {self._url} did not send an object")
        if status != 200:
            raise AgentUnreachable(f"the agent {self._url} answered {status}: {body.get('error', 'no text')}")
        return body


def _page(answer: dict[str, Any], cursor: Cursor) -> RecordPage:
    node, public_key = str(answer["node"]), str(answer["public_key"])
    if cursor.public_key and public_key != cursor.public_key:
        raise BadInput(
            f"the agent of node {node} signs with another key than before: its store was lost or replaced; "
            "forget the node's cursor to start a new chain"
        )
    first, head = int(answer["first"]), int(answer["head"])
    if head < cursor.seq:
        raise BadInput(
            f"the agent of node {node} is at record {head}, behind {cursor.seq} which was already taken: "
            "its store was restored from an older copy"
        )
    raw = tuple(answer["records"])
    lost = max(first - cursor.seq - 1, 0)
    prev = cursor.hash if not lost else None
    report = verify_chain(raw, bytes.fromhex(public_key), prev=prev)
    if report.problem is not None:
        raise BadInput(f"the usage records of node {node} do not hold: {report.problem}")
    if report.first_seq is not None and report.first_seq != cursor.seq + 1 + lost:
        raise BadInput(f"the agent of node {node} sent record {report.first_seq}, not {cursor.seq + 1 + lost}")
    typed = tuple(UsageRecord.from_json(one) for one in raw)
    if any(record.node != node for record in typed):
        raise BadInput(f"the agent of node {node} sent records of another node")
    end = Cursor(report.last_seq, report.last_hash, public_key) if report.last_seq is not None else cursor
    return RecordPage(node, str(answer["boot_id"]), raw, typed, end, end.seq < head, lost)
