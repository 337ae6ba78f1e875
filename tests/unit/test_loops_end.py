"""A loop that is cancelled ends, also when it is woken in the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gpulease.chain.broadcaster import Broadcaster
from gpulease.chain.keys import Key
from gpulease.chain.reader import BlockReader
from gpulease.errors import ChainUnreachable
from gpulease.units import Dec

pytestmark = pytest.mark.unit


class Mute:
    async def status(self) -> Any:
        raise ChainUnreachable("mute")

    async def hints(self, _: asyncio.Event) -> None:
        await asyncio.Event().wait()


async def nothing(*_: object) -> None:
    return None


def reader() -> tuple[asyncio.Event, Callable[[], Awaitable[None]]]:
    built = BlockReader(
        Mute(),  # type: ignore[arg-type]
        clock=SimpleNamespace(sleep=nothing),  # type: ignore[arg-type]
        load_cursor=lambda: None,
        save_cursor=lambda _: None,
        on_block=nothing,
        on_resync=nothing,
        poll_s=60,
    )
    return built._wake, built.run


def broadcaster() -> tuple[asyncio.Event, Callable[[], Awaitable[None]]]:
    built = Broadcaster(
        client=Mute(),  # type: ignore[arg-type]
        outbox=SimpleNamespace(outbox_open=lambda _: []),  # type: ignore[arg-type]
        signer=Key(b"\x11" * 32),
        clock=SimpleNamespace(sleep=nothing),  # type: ignore[arg-type]
        chain_time_ns=lambda: 0,
        gas_price_uakt=Dec.of("0.025"),
    )
    built.step = nothing  # type: ignore[method-assign]
    return built._wake, lambda: built.run(idle_s=60)


@pytest.mark.parametrize("build", [reader, broadcaster])
async def test_cancelled_while_woken(build: Callable[[], tuple[asyncio.Event, Callable[[], Awaitable[None]]]]) -> None:
    wake, run = build()
    task = asyncio.ensure_future(run())
    for _ in range(20):
        await asyncio.sleep(0)
    wake.set()
    await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=1)
    task.cancel()
    assert done
    assert task.cancelled()
