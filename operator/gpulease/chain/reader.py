"""Following the chain by a height cursor.

Every block between the cursor and the tip is read, in order, end-block events included; the cursor is saved after the
block was applied. The websocket only wakes the loop early: when it goes silent, polling finds the blocks anyway. After
a long gap the caller re-reads its state by query first, because what is open now cannot wait for what was; the blocks
are read behind that, or skipped where no node keeps them any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from gpulease.chain.client import ChainClient
from gpulease.chain.events import Block
from gpulease.errors import ChainError, ChainPruned, ChainUnreachable, GpuleaseError, StoreError
from gpulease.units import NS_PER_S

log = structlog.get_logger(__name__)
RESYNC_BLOCKS = 50
MAX_BACKLOG_BLOCKS = 20_000
"""Longer gaps (a day and a half at 6 s) are not read block by block any more."""
READ_AHEAD_BLOCKS = 16
SILENT_BLOCKS = 2
"""No new block for so many block times: the feed counts as silent."""
_PROBLEM_BLOCKS, _PROBLEM_NS = 5, 15 * NS_PER_S
_AVERAGE_BLOCKS = 100
DEFAULT_BLOCK_TIME_NS = 6 * NS_PER_S
_LEAST_WAIT_S = 0.25
_FLAPPING_BLOCKS = 3


class Clock(Protocol):
    def now_ns(self) -> int: ...

    async def sleep(self, seconds: float) -> None: ...


@dataclass(slots=True)
class Tip:
    """Where the chain is. ``problem`` says why it cannot be followed, if it cannot.

    ``silent``: no new block for :data:`SILENT_BLOCKS` block times, which a slow round of the validators may cause too;
    it becomes a ``problem`` when it lasts. ``read_height`` trails ``height`` while a gap is being read.
    """

    height: int = 0
    time_ns: int = 0
    block_time_ns: int = DEFAULT_BLOCK_TIME_NS
    measured: bool = False
    problem: tuple[str, str] | None = ("ChainUnknown", "The chain has not been read yet.")
    seen_at_ns: int = 0
    silent: bool = False
    read_height: int = 0


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
        self._client, self._clock = client, clock
        self._load, self._save = load_cursor, save_cursor
        self._on_block, self._on_resync = on_block, on_resync
        self._poll_s = poll_s
        self._since_resync = 0
        self._resynced_at = 0
        self._times: list[tuple[int, int]] = []
        self._moved_ns = 0
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
        # A block time without an answer is as bad as none: two of them are what silence may last.
        within_s = max(self.tip.block_time_ns / NS_PER_S, _LEAST_WAIT_S)
        try:
            try:
                async with asyncio.timeout(within_s):
                    status = await self._client.status()
            except TimeoutError:
                raise ChainUnreachable(f"no endpoint said where it is within {within_s:.1f} s") from None
            await self._follow(status.height)
        except ChainUnreachable as error:
            self._report("ChainUnreachable", f"The chain does not answer ({error}). It is tried again.")
        except ChainError as error:
            self._report(type(error).__name__, f"{error}")
        except StoreError as error:
            # The cursor has not moved: the same block is read again, and everything that it leads to is safe to repeat.
            self._report("StoreRefuses", f"{error}")
        self._listen_for_silence()

    def _report(self, reason: str, words: str) -> None:
        if self.tip.problem is None or self.tip.problem[0] != reason:
            log.warning("chain cannot be read", reason=reason, words=words)
        self.tip.problem = (reason, words)

    @property
    def silent(self) -> bool:
        """As of now, also while a step waits for an answer."""
        return self.tip.measured and self._quiet_ns() > SILENT_BLOCKS * self.tip.block_time_ns

    def _quiet_ns(self) -> int:
        now_ns = self._clock.now_ns()
        # A local clock that was set back must not hide silence for as long as it was set back.
        self._moved_ns = min(self._moved_ns, now_ns)
        return now_ns - self._moved_ns

    def _listen_for_silence(self) -> None:
        if not self.tip.measured:
            return
        quiet_ns, silent = self._quiet_ns(), self.silent
        if silent and not self.tip.silent:
            log.warning("no new block is heard of", height=self.tip.height, seconds=quiet_ns / NS_PER_S)
        self.tip.silent = silent
        if quiet_ns > max(_PROBLEM_BLOCKS * self.tip.block_time_ns, _PROBLEM_NS) and self.tip.problem is None:
            self._report(
                "ChainSilent",
                f"No block after {self.tip.height} for {quiet_ns // NS_PER_S} s, with a block every "
                f"{self.tip.block_time_ns / NS_PER_S:.1f} s before. The chain stands still or its endpoints are stuck.",
            )

    # --- reading -----------------------------------------------------------------------------------------------

    async def _follow(self, height: int) -> None:
        cursor = self._load()
        if cursor is None or height - cursor > MAX_BACKLOG_BLOCKS:
            # First start, or so long away that reading every block costs more than asking for the state.
            await self._present(height, measure=True)
            self._save(height)
            cursor = height
        known = max(cursor, self.tip.height)
        if height < known:
            # Nodes behind one address may differ by a block or two; that is no news.
            if height < known - _FLAPPING_BLOCKS or self.tip.height == 0:
                words = f"The best node is at height {height}, below {known} which was read already. Waiting."
                self._report("ChainWentBack", words)
            return
        if height - cursor > RESYNC_BLOCKS:
            await self._present(height, measure=not self.tip.measured)
        elif self.tip.height == 0:
            # After a restart: the time of the chain is known before its next block.
            await self._measure(height)
            self._observe(await self._client.block(height))
        while cursor < height:
            try:
                async for block in self._read_ahead(cursor + 1, height):
                    await self._apply(block)
                    cursor = block.height
            except ChainPruned:
                cursor = await self._skip_pruned(cursor, height)
        if height == self.tip.height:
            if self.tip.problem is not None and self.tip.problem[0] != "ChainSilent":
                self.tip.problem = None
            self.tip.seen_at_ns = self._clock.now_ns()
        if self._since_resync >= RESYNC_BLOCKS:
            await self._resync(self.tip.height)

    async def _present(self, height: int, *, measure: bool) -> None:
        """Make ``height`` the tip before the blocks up to it are read, and have the caller read its state."""
        if height <= self._resynced_at:
            return
        block = await self._client.block(height)
        if measure:
            self._times.clear()
            await self._measure(height)
        self._observe(block)
        await self._resync(height)

    async def _resync(self, height: int) -> None:
        await self._on_resync(height)
        self._since_resync, self._resynced_at = 0, height

    async def _read_ahead(self, first: int, last: int) -> AsyncIterator[Block]:
        """Blocks in order, some of them fetched before they are asked for; never more than a few are held."""
        fetched: deque[asyncio.Task[Block]] = deque()
        following = first
        try:
            while fetched or following <= last:
                while following <= last and len(fetched) < READ_AHEAD_BLOCKS:
                    fetched.append(asyncio.create_task(self._client.block(following)))
                    following += 1
                yield await fetched[0]
                fetched.popleft()
        finally:
            for task in fetched:
                task.cancel()
            await asyncio.gather(*fetched, return_exceptions=True)

    async def _apply(self, block: Block) -> None:
        self._observe(block)
        await self._on_block(block)
        self._save(block.height)
        self.tip.read_height = block.height
        self._since_resync += 1

    async def _skip_pruned(self, cursor: int, height: int) -> int:
        """Go on with the first block that is still kept; the state stands for those that are not."""
        kept = min(max(self._client.earliest_height, cursor + 2), height + 1)
        log.warning("blocks are pruned, state is read instead", from_height=cursor + 1, to_height=kept - 1)
        await self._present(height, measure=not self.tip.measured)
        self._save(kept - 1)
        return kept - 1

    async def _measure(self, height: int) -> None:
        """An older block's time gives the pace before two blocks were seen here."""
        older = max(height - _AVERAGE_BLOCKS // 2, 1)
        if older < height:
            with contextlib.suppress(ChainError, ChainUnreachable):
                block = await self._client.block(older)
                self._times.append((older, block.time_ns))

    def _observe(self, block: Block) -> None:
        if block.height <= self.tip.height:
            return
        self.tip.height, self.tip.time_ns = block.height, block.time_ns
        self.tip.silent = False
        if self.tip.problem is not None and self.tip.problem[0] == "ChainSilent":
            self.tip.problem = None
        self._moved_ns = self._clock.now_ns()
        self._client.floor_height = max(self._client.floor_height, block.height)
        self._times.append((block.height, block.time_ns))
        del self._times[:-_AVERAGE_BLOCKS]
        first_height, first_ns = self._times[0]
        if block.height > first_height:
            self.tip.block_time_ns = max((block.time_ns - first_ns) // (block.height - first_height), 1_000_000)
            self.tip.measured = True
