"""Following the chain by a height cursor.

Every block between the cursor and the tip is read, in order, end-block events included; the cursor is saved after the
block was applied. The websocket only wakes the loop early: when it goes silent, polling finds the blocks anyway. After
a gap that no node can fill, and every now and then, the caller re-reads its state by query.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from gpulease.chain.client import ChainClient
from gpulease.chain.events import Block
from gpulease.errors import ChainError, ChainPruned, ChainUnreachable, GpuleaseError, StoreError
from gpulease.units import NS_PER_S

log = structlog.get_logger(__name__)
RESYNC_BLOCKS = 50
MAX_BACKLOG_BLOCKS = 5_000
_AVERAGE_BLOCKS = 100
DEFAULT_BLOCK_TIME_NS = 6 * NS_PER_S


class Clock(Protocol):
    def now_ns(self) -> int: ...

    async def sleep(self, seconds: float) -> None: ...


@dataclass(slots=True)
class Tip:
    """Where the chain is, as far as this reader has come. ``problem`` says why it does not move, if it does not."""

    height: int = 0
    time_ns: int = 0
    block_time_ns: int = DEFAULT_BLOCK_TIME_NS
    measured: bool = False
    problem: tuple[str, str] | None = ("ChainUnknown", "The chain has not been read yet.")
    seen_at_ns: int = 0


class BlockReader:
    """Runs until cancelled; never raises for the chain's sake."""

    def __init__(
        self,
        client: ChainClient,
        *,
        clock: Clock,
        load_cursor: Callable[[], int | None],
        save_cursor: Callable[[int], None],
        on_block: Callable[[Block], Awaitable[None]],
        on_resync: Callable[[int], Awaitable[None]],
        poll_s: float = 0.5,
    ) -> None:
        self._client = client
        self._clock = clock
        self._load, self._save = load_cursor, save_cursor
        self._on_block, self._on_resync = on_block, on_resync
        self._poll_s = poll_s
        self._since_resync = 0
        self._times: list[tuple[int, int]] = []
        self._wake = asyncio.Event()
        self.tip = Tip()

    async def run(self) -> None:
        hints = asyncio.create_task(self._listen(), name="chain-hints")
        try:
            while True:
                await self.step()
                # Not wait_for: up to Python 3.11 it loses a cancellation that comes together with the wake-up.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_s):
                        await self._wake.wait()
                self._wake.clear()
        finally:
            hints.cancel()

    async def _listen(self) -> None:
        while True:
            try:
                await self._client.hints(self._wake)
            except GpuleaseError as error:
                log.debug("chain websocket ended", error=str(error))
            await self._clock.sleep(2.0)

    async def step(self) -> None:
        """Read to the tip once; what goes wrong is in ``tip.problem`` and tried again at the next step."""
        try:
            status = await self._client.status()
            await self._follow(status.height)
        except ChainUnreachable as error:
            self._report("ChainUnreachable", f"The chain does not answer ({error}). It is tried again.")
        except ChainError as error:
            self._report(type(error).__name__, f"{error}")
        except StoreError as error:
            # The cursor has not moved: the same block is read again, and everything that it leads to is safe to repeat.
            self._report("StoreRefuses", f"{error}")

    def _report(self, reason: str, words: str) -> None:
        if self.tip.problem is None or self.tip.problem[0] != reason:
            log.warning("chain cannot be read", reason=reason, words=words)
        self.tip.problem = (reason, words)

    async def _follow(self, height: int) -> None:
        cursor = self._load()
        if cursor is None or height - cursor > MAX_BACKLOG_BLOCKS:
            # First start, or so long away that reading every block costs more than asking for the state.
            cursor = await self._jump(height)
        if height < cursor:
            self._report(
                "ChainWentBack",
                f"The best node is at height {height}, below {cursor} which was read already. Waiting.",
            )
            return
        for next_height in range(cursor + 1, height + 1):
            try:
                block = await self._client.block(next_height)
            except ChainPruned:
                log.warning("blocks are pruned, state is read instead", from_height=next_height, to_height=height)
                await self._jump(height)
                break
            self._observe(block)
            await self._on_block(block)
            self._save(next_height)
            self._since_resync += 1
        self.tip.problem = None
        self.tip.seen_at_ns = self._clock.now_ns()
        if self._since_resync >= RESYNC_BLOCKS:
            self._since_resync = 0
            await self._on_resync(self.tip.height)

    async def _jump(self, height: int) -> int:
        """Take ``height`` as read and have the caller read its state as of then."""
        block = await self._client.block(height)
        self._times.clear()
        await self._measure(height)
        self._observe(block)
        await self._on_resync(height)
        self._save(height)
        self._since_resync = 0
        return height

    async def _measure(self, height: int) -> None:
        """An older block's time gives the pace before two blocks were seen here."""
        older = max(height - _AVERAGE_BLOCKS // 2, 1)
        if older < height:
            with contextlib.suppress(ChainError, ChainUnreachable):
                block = await self._client.block(older)
                self._times.append((older, block.time_ns))

    def _observe(self, block: Block) -> None:
        self.tip.height, self.tip.time_ns = block.height, block.time_ns
        self._times.append((block.height, block.time_ns))
        del self._times[:-_AVERAGE_BLOCKS]
        first_height, first_ns = self._times[0]
        if block.height > first_height:
            self.tip.block_time_ns = max((block.time_ns - first_ns) // (block.height - first_height), 1_000_000)
            self.tip.measured = True
