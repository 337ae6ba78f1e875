"""A chain client without a network: a devnet in step mode, asked directly, each call after a hook.

The hook is where tests put what networks and machines do: silence, stale answers, and the end of the process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gpulease.chain.client import Account
from gpulease.chain.events import Block, RawEvent, TxOutcome
from gpulease.chain.rpc import Broadcast, NodeStatus, Simulated
from gpulease.devnet import auth
from gpulease.devnet.chain import BlockResult, Devnet, TxResult, tx_hash
from gpulease.errors import ChainError, ChainPruned
from gpulease.units import NS_PER_S


def _outcome(raw: bytes, result: TxResult) -> TxOutcome:
    return TxOutcome(
        tx_hash(raw).hex().upper(),
        result.code,
        result.codespace,
        result.log,
        result.gas_used,
        tuple(RawEvent(e.type, e.attributes) for e in result.events),
    )


def as_block(block: BlockResult) -> Block:
    return Block(
        block.height,
        block.time_ns,
        tuple(_outcome(raw, result) for raw, result in block.txs),
        tuple(RawEvent(e.type, e.attributes) for e in block.end_events),
    )


def quiet(_: str) -> None:
    return None


@dataclass(slots=True)
class StepChain:
    """What :class:`gpulease.chain.client.ChainClient` offers reader and broadcaster, on a devnet in this process."""

    chain: Devnet
    hook: Callable[[str], None] = quiet
    after: Callable[[str], None] = quiet
    floor_height: int = 0
    calls: dict[str, int] = field(default_factory=dict)

    @property
    def chain_id(self) -> str:
        return self.chain.chain_id

    @property
    def earliest_height(self) -> int:
        return max(self.chain.earliest_height, 1)

    def _enter(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        self.hook(name)

    async def status(self) -> NodeStatus:
        self._enter("status")
        chain = self.chain
        answer = NodeStatus(chain.chain_id, chain.height, self.earliest_height, chain.time_ns, False)
        self.after("status")
        return answer

    async def block(self, height: int) -> Block:
        self._enter("block")
        found = self.chain.block(height)
        if found is None and height <= self.chain.height:
            raise ChainPruned(f"height {height} is not available, lowest height is {self.chain.earliest_height}")
        if found is None:
            raise ChainError(f"height {height} must be less than or equal to the current height {self.chain.height}")
        self.after("block")
        return as_block(found)

    async def broadcast(self, raw: bytes) -> Broadcast:
        self._enter("broadcast")
        result = self.chain.add_to_mempool(raw)
        self.after("broadcast")
        return Broadcast(result.code, result.codespace, result.log, tx_hash(raw).hex().upper())

    async def find_tx(
        self, hash_: str, *, at_least_height: int = 0, after_height: int | None = None
    ) -> tuple[int, TxOutcome] | None:
        self._enter("find_tx")
        found = self.chain.tx(bytes.fromhex(hash_))
        self.after("find_tx")
        if found is None:
            if after_height is not None and self.earliest_height > after_height + 1:
                raise ChainPruned(f"blocks are kept from {self.earliest_height} on only")
            return None
        block, index = found
        return block.height, _outcome(*block.txs[index])

    async def account(self, address: str) -> Account | None:
        self._enter("account")
        found = auth.get(self.chain.context(), address)
        self.after("account")
        return None if found is None else Account(found.number, found.sequence, found.pubkey)

    async def simulate(self, raw: bytes) -> Simulated:
        self._enter("simulate")
        result = self.chain.simulate(raw)
        self.after("simulate")
        return Simulated(None if result.code == 0 else result.log or "failed", result.gas_used)


@dataclass(slots=True)
class StepClock:
    """A local clock that shows what it is set to."""

    ns: int = 1_700_000_000 * NS_PER_S

    def now_ns(self) -> int:
        return self.ns

    async def sleep(self, seconds: float) -> None:
        self.ns += int(seconds * NS_PER_S)
