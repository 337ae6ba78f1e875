"""A store that refuses: loops go on, nothing is forgotten, and a part that fails for good is not mourned in silence."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gpulease.chain.broadcaster import Broadcaster
from gpulease.chain.events import Block, RawEvent, TxOutcome
from gpulease.chain.keys import Key
from gpulease.chain.reader import BlockReader
from gpulease.errors import ChainError, StoreError
from gpulease.runtime.books import Books
from gpulease.runtime.chains import Failed
from gpulease.runtime.talks import Talks
from gpulease.store.journal import Journal
from gpulease.units import Dec

pytestmark = pytest.mark.unit
US, THEM = "akash1us", "akash1them"


async def nothing(*_: object) -> None:
    return None


class Full:
    """A store that takes nothing until ``room``."""

    room = False

    def check(self, *_: object) -> None:
        if not self.room:
            raise StoreError("the store refused a write: disk full")


class Chain:
    """A chain at one height; ``balances`` only knows that one."""

    def __init__(self, height: int, balances: dict[str, int] | None = None) -> None:
        self.height, self._balances = height, balances or {}
        self.floor_height, self.earliest_height = 0, 1

    async def status(self) -> Any:
        return SimpleNamespace(height=self.height)

    async def block(self, height: int) -> Block:
        return Block(height, height * 10**9, (), ())

    async def balances(self, address: str, *, height: int | None = None) -> dict[str, int]:
        if height != self.height:
            raise ChainError("failed to load state at that height")
        return self._balances


def transfer(height: int, amount: str) -> Block:
    event = RawEvent("transfer", (("sender", THEM), ("recipient", US), ("amount", amount)))
    return Block(height, height * 10**9, (TxOutcome(f"HASH{height}", 0, "", "", 1, (event,)),), ())


async def test_reader_reads_a_block_again_when_its_cursor_was_refused() -> None:
    store, seen, cursor = Full(), list[int](), [1]

    def save(height: int) -> None:
        store.check()
        cursor[0] = height

    async def on_block(block: Block) -> None:
        seen.append(block.height)

    reader = BlockReader(
        Chain(2),  # type: ignore[arg-type]
        clock=SimpleNamespace(now_ns=lambda: 0, sleep=nothing),
        load_cursor=lambda: cursor[0],
        save_cursor=save,
        on_block=on_block,
        on_resync=nothing,
    )
    await reader.step()
    assert reader.tip.problem is not None
    assert reader.tip.problem[0] == "StoreRefuses"
    store.room = True
    await reader.step()
    assert reader.tip.problem is None
    assert (seen, cursor[0]) == ([2, 2], 2)


class Refusing:
    """An outbox none of whose calls the store will have."""

    def __getattr__(self, _: str) -> Any:
        def refuse(*_: object) -> Any:
            raise StoreError("disk full")

        return refuse


async def test_broadcaster_survives_a_refused_write() -> None:
    sender = Broadcaster(
        client=Chain(1),  # type: ignore[arg-type]
        outbox=Refusing(),  # type: ignore[arg-type]
        signer=Key(b"\x11" * 32),
        clock=SimpleNamespace(now_ns=lambda: 0, sleep=nothing),
        chain_time_ns=lambda: 1,
        gas_price_uakt=Dec.of("0.025"),
    )
    task = asyncio.ensure_future(sender.run(idle_s=0.001))
    for _ in range(5):
        await asyncio.sleep(0.002)
    assert not task.done()
    assert sender.problem == "disk full"
    task.cancel()


async def test_a_block_whose_entries_were_refused_is_booked_when_it_is_read_again() -> None:
    journal = Journal(":memory:")
    books = Books(journal, "chain", height=4)
    assert await books.open_account(Chain(4, {"uact": 10}), US)  # type: ignore[arg-type]
    real, store = journal.append, Full()

    def append(*args: Any) -> int:
        store.check()
        return real(*args)

    journal.append = append  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        books.read_block(transfer(5, "7uact"))
    store.room = True
    books.read_block(transfer(5, "7uact"))
    assert books.ledger.balances(US) == {"uact": 17}
    assert Books(journal, "chain", height=5).ledger.balances(US) == {"uact": 17}


async def test_books_take_no_balance_of_another_height() -> None:
    books = Books(Journal(":memory:"), "chain", height=4)
    assert not await books.open_account(Chain(3, {"uact": 10}), US)  # type: ignore[arg-type]
    assert books.accounts == frozenset()
    assert await books.open_account(Chain(4, {"uact": 10}), US)  # type: ignore[arg-type]
    assert await books.difference(Chain(3, {"uact": 2})) is None  # type: ignore[arg-type]
    assert await books.difference(Chain(4, {"uact": 12})) == {US: {"uact": 2}}  # type: ignore[arg-type]


async def test_books_go_on_after_blocks_that_were_never_read() -> None:
    journal = Journal(":memory:")
    books = Books(journal, "chain", height=4)
    assert await books.open_account(Chain(4, {"uact": 10}), US)  # type: ignore[arg-type]
    books.skip_to(9000)
    assert books.accounts == frozenset()
    assert await books.open_account(Chain(9000, {"uact": 3}), US)  # type: ignore[arg-type]
    books.read_block(transfer(9001, "1uact"))
    assert await books.difference(Chain(9001, {"uact": 4})) == {US: {}}  # type: ignore[arg-type]
    assert Books(journal, "chain", height=9001).ledger.balances(US) == {"uact": 4}


async def test_a_task_that_fails_is_heard_of() -> None:
    failed = Failed()

    async def broken() -> None:
        raise ValueError("gone")

    failed.watch(asyncio.ensure_future(broken()))
    failed.watch(asyncio.ensure_future(nothing()))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gone"):
        await failed.raised()


def test_unready_answers_are_counted_until_one_is_ready() -> None:
    from gpulease.ids import LeaseId

    talks = Talks(Journal(":memory:"))
    lease = LeaseId("o", 1, 1, 1, "p")
    assert [talks.unready(lease) for _ in range(3)] == [1, 2, 3]
    talks.ready(lease)
    assert talks.unready(lease) == 1
