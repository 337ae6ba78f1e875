"""Several nodes as one: which to ask first, when to ask the next as well, and whom not to believe.

Nodes are ranked by what they last said of themselves and by how that held: right chain, not caught on a false claim,
not catching up, no failures, highest, fastest. A call goes to the best one; when that is silent for a while the next
is asked beside it, and the first answer wins. Silence never counts as an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc.aio

from gpulease.chain.rpc import NodeStatus, RpcEndpoint
from gpulease.errors import ChainError, ChainMismatch, ChainUnreachable

T = TypeVar("T")
PENALTY_S = 10.0
"""A node that could not show the block it claimed to have is asked last for so long."""
_MOST_FAILURES = 10
_LATE_S = 0.25
"""Once one node has answered, the others are waited for no longer than this."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A node: CometBFT RPC as a URL, gRPC as host:port."""

    rpc: str
    grpc: str


@dataclass(slots=True)
class Node:
    """One endpoint and what is known of it."""

    endpoint: Endpoint
    rpc: RpcEndpoint
    channel: grpc.aio.Channel
    status: NodeStatus | None = None
    latency_s: float = 0.0
    problem: str = ""
    foreign: bool = False
    failures: int = 0
    caught_until_s: float = 0.0

    def failed(self, problem: str) -> None:
        self.problem = problem
        self.failures = min(self.failures + 1, _MOST_FAILURES)

    def caught(self, now_s: float) -> None:
        """It claims a height whose block it cannot show."""
        self.caught_until_s = now_s + PENALTY_S

    def rank(self, now_s: float) -> tuple[int, int, int, float]:
        caught = int(now_s < self.caught_until_s)
        if self.status is None:
            return (2 + 2 * caught, self.failures, 0, self.latency_s)
        return (int(self.status.catching_up) + 2 * caught, self.failures, -self.status.height, self.latency_s)


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """``sole``: no other node was asked in the same call."""

    value: T
    sole: bool


class Nodes:
    """The nodes of one chain. ``patience_s`` is how long one may be silent before the next is asked as well."""

    def __init__(self, nodes: Sequence[Node], *, chain_id: str, patience_s: float) -> None:
        self.all = list(nodes)
        self.patience_s = patience_s
        self._chain_id = chain_id

    def best_first(self) -> list[Node]:
        now_s = asyncio.get_running_loop().time()
        return sorted((n for n in self.all if not n.foreign), key=lambda n: n.rank(now_s))

    async def status(self) -> NodeStatus:
        """Ask every node; the best usable one's answer, without waiting long for the slow ones.

        ``ChainMismatch`` when all that answer speak for another chain, ``ChainUnreachable`` when none can be used.
        """
        asked = {asyncio.create_task(self._ask(node)): node for node in self.all}
        pending = set(asked)
        try:
            while pending:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if pending and any(not node.catching_up for node in self._heard(asked, pending)):
                    _, pending = await asyncio.wait(pending, timeout=min(self.patience_s / 2, _LATE_S))
                    break
        finally:
            for task in pending:
                task.cancel()
                asked[task].status = None
                asked[task].failed(f"{asked[task].endpoint.rpc} is slow to answer")
            if pending:
                await asyncio.gather(*pending, return_exceptions=True)
        usable = self._usable()
        if usable:
            assert usable[0].status is not None
            return usable[0].status
        raise self._none_usable()

    @staticmethod
    def _heard(asked: Mapping[asyncio.Task[None], Node], pending: Set[asyncio.Task[None]]) -> list[NodeStatus]:
        """What was said in this round."""
        return [node.status for task, node in asked.items() if task not in pending and node.status is not None]

    def _usable(self) -> list[Node]:
        return [n for n in self.best_first() if n.status is not None and not n.status.catching_up]

    def _none_usable(self) -> ChainError | ChainUnreachable:
        foreign = [n.problem for n in self.all if n.foreign]
        if foreign and len(foreign) == len([n for n in self.all if n.problem]):
            return ChainMismatch(foreign[0])
        problems = "; ".join(n.problem or f"{n.endpoint.rpc} is catching up" for n in self.all)
        return ChainUnreachable(problems or "no chain endpoint is configured")

    async def _ask(self, node: Node) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            status = await node.rpc.status()
        except (ChainUnreachable, ChainError) as error:
            node.status = None
            node.failed(str(error))
            return
        node.latency_s = loop.time() - began
        node.foreign = status.chain_id != self._chain_id
        if node.foreign:
            node.status = None
            node.problem = (
                f"{node.endpoint.rpc} speaks for chain {status.chain_id!r}, not {self._chain_id!r}; "
                "correct spec.chain.chainID or its endpoints"
            )
            return
        node.status, node.problem, node.failures = status, "", 0

    async def first(self, call: Callable[[Node], Awaitable[T]]) -> Answer[T]:
        """The first answer, from best to worst; silence moves on, an answer (also an error answer) ends it."""
        if all(node.status is None for node in self.all):
            await self.status()
        waiting = self.best_first()
        running: dict[asyncio.Future[T], Node] = {}
        last: ChainUnreachable | None = None
        started = 0
        try:
            while waiting or running:
                if waiting:
                    node = waiting.pop(0)
                    running[asyncio.ensure_future(call(node))] = node
                    started += 1
                done, _ = await asyncio.wait(
                    running, timeout=self.patience_s if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    for slow in running.values():
                        slow.failed(f"{slow.endpoint.rpc} is slow to answer")
                for task in done:
                    node = running.pop(task)
                    error = task.exception()
                    if error is None:
                        return Answer(task.result(), started == 1)
                    if not isinstance(error, ChainUnreachable):
                        raise error
                    node.failed(str(error))
                    last = error
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.gather(*running, return_exceptions=True)
        raise last or ChainUnreachable("no chain endpoint can be used")
