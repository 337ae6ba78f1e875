"""The chain itself: a mempool, blocks, and queries over the state they lead to.

``Devnet`` owns no clock and no thread: :meth:`apply_block` and :meth:`advance` move it, the servers or a simulator
decide when.
"""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import structlog

from gpulease.devnet import addresses, ante, auth, bank, bme, errors, feegrant, genesis, oracle, queries, router
from gpulease.devnet.context import Context, Event
from gpulease.devnet.state import Overlay, State, Undo
from gpulease.units import NS_PER_S, Coin, Dec

log = structlog.get_logger(__name__)
MIN_GAS_PRICE = Dec.of("0.0025")
MAX_MEMPOOL_TXS = 5000
ALREADY_IN_CACHE = 19
# A mistake of ours in one message must not stop the chain; the real one recovers from a panic just so.
_UNFORESEEN = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
_GAS_BASE, _GAS_PER_BYTE, _GAS_PER_EVENT = 40_000, 10, 1_500


@dataclass(frozen=True, slots=True)
class TxResult:
    """What a transaction led to; gas figures are an estimate, the only part that is not the real chain's."""

    code: int
    codespace: str
    log: str
    data: bytes
    gas_wanted: int
    gas_used: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class BlockResult:
    height: int
    time_ns: int
    txs: tuple[tuple[bytes, TxResult], ...]
    end_events: tuple[Event, ...]


def tx_hash(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()


class Devnet:
    """One chain in memory. Blocks older than ``keep_blocks`` are pruned, states older than ``keep_states`` blocks."""

    def __init__(
        self,
        *,
        chain_id: str,
        params: dict[str, dict[str, Any]],
        keep_blocks: int = 100_000,
        keep_states: int = 100,
    ) -> None:
        self.chain_id = chain_id
        self.height = 0
        self.time_ns = 0
        self.params = params
        self.state = State()
        self.keep_blocks = keep_blocks
        self._undo: deque[list[Undo]] = deque(maxlen=keep_states)  # what each of the last blocks has written
        self.mempool: OrderedDict[bytes, bytes] = OrderedDict()
        self._blocks: dict[int, BlockResult] = {}
        self._first = 1
        self._txs: dict[bytes, tuple[int, int]] = {}
        self._checked: Overlay = Overlay(self.state)

    @classmethod
    def from_genesis(cls, raw: Mapping[str, Any], *, keep_blocks: int = 100_000) -> Devnet:
        """From the genesis document's form in the recordings."""
        chain = cls(chain_id=str(raw["chain_id"]), params=genesis.params(raw), keep_blocks=keep_blocks)
        chain.time_ns = genesis.time_ns(str(raw["genesis_time"]))
        chain._first = int(raw.get("initial_height", 1))
        chain.height = chain._first - 1
        genesis.load(chain.context(), raw)
        return chain

    def context(self, *, height: int | None = None, time_ns: int | None = None) -> Context:
        return Context(
            self.state,
            self.chain_id,
            self.height if height is None else height,
            self.time_ns if time_ns is None else time_ns,
            self.params,
        )

    # --- transactions ------------------------------------------------------------------------------------------

    def check_tx(self, raw: bytes) -> TxResult:
        """CheckTx: against the tip's state, in which waiting transactions have paid and used their sequences."""
        result = self._check(raw)
        self._checked.rollback()
        self._checked.end()
        return result

    def _check(self, raw: bytes) -> TxResult:
        """Leaves the check's journal open, for the caller to keep or undo its effects."""
        self._checked.begin()
        ctx = Context(self._checked, self.chain_id, self.height, self.time_ns, self.params)
        return self._run(ctx, raw, checking=True, deliver=False)

    def add_to_mempool(self, raw: bytes) -> TxResult:
        """CheckTx and, when it passes, wait for the next block. The same bytes again: code 19 of ``sdk``."""
        key = tx_hash(raw)
        if key in self.mempool or key in self._txs:
            return TxResult(ALREADY_IN_CACHE, "sdk", "tx already in mempool", b"", 0, 0, ())
        if len(self.mempool) >= MAX_MEMPOOL_TXS:
            return TxResult(20, "sdk", "mempool is full", b"", 0, 0, ())
        result = self._check(raw)
        if result.code == 0:
            self.mempool[key] = raw
        else:
            self._checked.rollback()
        self._checked.end()
        return result

    def forget_waiting(self) -> None:
        """Empty the mempool, as a node that restarts without its own."""
        self.mempool.clear()
        self._checked = Overlay(self.state)

    def _recheck(self) -> None:
        """After a block, or any other change of the state: what waits must still pass, in its order."""
        self._checked = Overlay(self.state)
        for key, raw in list(self.mempool.items()):
            self._checked.begin()
            ctx = Context(self._checked, self.chain_id, self.height, self.time_ns, self.params)
            try:
                ante.run(ctx, ante.decode(raw), checking=True, min_gas_price=MIN_GAS_PRICE, verify=False)
            except errors.ModuleError:
                self._checked.rollback()
                del self.mempool[key]
            self._checked.end()

    def simulate(self, raw: bytes) -> TxResult:
        self.state.begin()
        try:
            return self._run(self.context(), raw, checking=True, deliver=True, simulate=True)
        finally:
            self.state.rollback()
            self.state.end()

    def _run(self, ctx: Context, raw: bytes, *, checking: bool, deliver: bool, simulate: bool = False) -> TxResult:
        wanted = 0
        kept: list[Event] = []
        try:
            tx = ante.decode(raw)
            wanted = tx.gas_wanted
            ante.run(ctx, tx, checking=checking, min_gas_price=MIN_GAS_PRICE, simulate=simulate)
        except errors.ModuleError as error:
            return TxResult(error.code, error.codespace, error.text, b"", wanted, 0, ())
        kept = list(ctx.events)
        if not deliver:
            return TxResult(0, "", "", b"", wanted, self._gas(raw, kept), tuple(kept))
        mark = self.state.mark()
        try:
            responses = router.run_all(ctx, tx.messages)
        except errors.ModuleError as error:
            self.state.rollback(mark)
            return TxResult(error.code, error.codespace, error.text, b"", wanted, self._gas(raw, kept), tuple(kept))
        except (errors.Panic, *_UNFORESEEN) as error:
            self.state.rollback(mark)
            text = f"recovered: {error}"
            if not isinstance(error, errors.Panic):
                log.error("a message failed in a way that the chain has no words for", exc_info=error)
            return TxResult(111222, "undefined", text, b"", wanted, self._gas(raw, kept), tuple(kept))
        data = queries.tx_data(responses)
        return TxResult(0, "", "", data, wanted, self._gas(raw, ctx.events), tuple(ctx.events))

    @staticmethod
    def _gas(raw: bytes, events: Sequence[Event]) -> int:
        return _GAS_BASE + _GAS_PER_BYTE * len(raw) + _GAS_PER_EVENT * len(events)

    # --- blocks ------------------------------------------------------------------------------------------------

    def apply_block(
        self,
        txs: Sequence[bytes],
        *,
        time_ns: int,
        out_of_gas: frozenset[bytes] = frozenset(),
        unpaid: frozenset[bytes] = frozenset(),
    ) -> BlockResult:
        """Execute one block at the next height; the chain's tip moves to it.

        ``out_of_gas`` holds hashes of transactions that a recording says ran out of gas, which this machine cannot
        find out by itself: their messages are not run. ``unpaid`` are those among them that ran out before their fee
        was taken: nothing of them stays.
        """
        height = self.height + 1
        self.state.begin()
        auth.prune_nonces(self.context(height=height, time_ns=time_ns))
        results: list[tuple[bytes, TxResult]] = []
        for index, raw in enumerate(txs):
            ctx = self.context(height=height, time_ns=time_ns)
            mark = self.state.mark()
            key = tx_hash(raw)
            result = self._run(ctx, raw, checking=False, deliver=key not in out_of_gas)
            if (result.code != 0 and not result.events) or key in unpaid:
                self.state.rollback(mark)
            results.append((raw, result))
            self._txs[key] = (height, index)
            self.mempool.pop(key, None)
        ending = self.context(height=height, time_ns=time_ns)
        bme.end_block(ending)
        oracle.end_block(ending)
        feegrant.end_block(ending)
        self._undo.append(self.state.end())
        ended = tuple(event.with_attribute("mode", "EndBlock") for event in ending.events)
        block = BlockResult(height, time_ns, tuple(results), ended)
        self.height, self.time_ns = height, time_ns
        self._blocks[height] = block
        self._prune()
        self._recheck()
        return block

    def advance(self, blocks: int = 1, *, block_time_ns: int = NS_PER_S) -> None:
        """Step mode: make blocks from the mempool at a fixed pace of the virtual clock."""
        for _ in range(blocks):
            self.apply_block(list(self.mempool.values()), time_ns=self.time_ns + block_time_ns)

    def _prune(self) -> None:
        old = self._blocks.pop(self.height - self.keep_blocks, None)
        if old is not None:
            for raw, _ in old.txs:
                self._txs.pop(tx_hash(raw), None)

    @property
    def earliest_height(self) -> int:
        return max(self.height - self.keep_blocks + 1, self._first)

    def block(self, height: int) -> BlockResult | None:
        return self._blocks.get(height)

    def tx(self, hash_: bytes) -> tuple[BlockResult, int] | None:
        """The block and index of an included transaction."""
        place = self._txs.get(hash_)
        if place is None or place[0] not in self._blocks:
            return None
        return self._blocks[place[0]], place[1]

    # --- reading -----------------------------------------------------------------------------------------------

    def query(self, method: str, request: bytes, *, height: int | None = None) -> bytes:
        """One gRPC query, at the tip or at a height whose state is still kept; ``QueryError`` otherwise."""
        if height in (None, 0, self.height):
            return queries.run(self.context(), method, request)
        assert height is not None
        back = self.height - height
        if back < 0:
            words = "cannot query with height in the future; please provide a valid height: invalid height"
            raise errors.HeightError(errors.sdk(26, words))
        block = self._blocks.get(height)
        if back > len(self._undo) or block is None:
            words = f"failed to load state at height {height}; version does not exist (latest height: {self.height})"
            raise errors.HeightError(errors.sdk(38, f"{words}: not found"))
        self.state.begin()
        try:
            for journal in islice(reversed(self._undo), back):
                self.state.undo(journal)
            return queries.run(self.context(height=height, time_ns=block.time_ns), method, request)
        finally:
            self.state.rollback()
            self.state.end()

    def balance(self, address: str, denom: str) -> int:
        return bank.balance(self.context(), address, denom)

    def faucet(self, address: str, coins: Sequence[Coin]) -> None:
        """Credit coins out of nothing: test chains only."""
        ctx = self.context()
        self.state.begin()
        auth.ensure(ctx, address)
        for coin in coins:
            bank.issue(ctx, address, coin)
        written = self.state.end()
        if self._undo:
            self._undo[-1].extend(written)
        self._recheck()

    def module_balance(self, module: str) -> list[Coin]:
        return bank.balances(self.context(), addresses.module(module))

    def snapshot(self) -> bytes:
        """Everything but older states, as bytes that :meth:`restore` reads back."""
        return pickle.dumps(
            (
                self.chain_id,
                self.height,
                self.time_ns,
                self.params,
                self.state.dump(),
                list(self.mempool.items()),
                self._blocks,
                self._txs,
                self._first,
            )
        )

    def restore(self, blob: bytes) -> None:
        """From :meth:`snapshot`'s bytes, which must come from a trusted place: they are unpickled."""
        (chain_id, self.height, self.time_ns, self.params, dump, waiting, blocks, txs, first) = pickle.loads(blob)
        self.chain_id = chain_id
        self.state.load(dump)
        self.mempool = OrderedDict(waiting)
        self._blocks, self._txs, self._first = blocks, txs, first
        self._undo.clear()
        self._recheck()
