"""How many blocks an order waits for our bid. The orders of a round are made by one transaction, so in one block."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from gpulease.chain import codec
from gpulease.chain.client import ChainClient, Endpoint
from gpulease.chain.keys import Key
from gpulease.chain.tx import Fee, Ordering, build, pack
from gpulease.errors import ChainError
from gpulease.ids import DeploymentId
from gpulease.market.model import Attribute, GroupSpec, PlacementRequirements, Resources, ResourceUnit, Storage
from gpulease.units import NS_PER_S, UACT, UAKT, Coin, Dec, DecCoin
from tests.rig.stack import Stack, until

_MIB = 1 << 20
_GAS = 400_000
_DEPOSIT_UACT = 500_000


@dataclass(frozen=True, slots=True)
class Waits:
    """Blocks between order and bid, one number per order; an order that got no bid is not in it."""

    orders: int
    blocks: tuple[int, ...]

    @property
    def next_block(self) -> int:
        return sum(1 for wait in self.blocks if wait <= 1)

    @property
    def share(self) -> float:
        return self.next_block / self.orders if self.orders else 0.0


def group() -> GroupSpec:
    """One GPU of any model and little else."""
    need = Resources(
        id=1,
        cpu_milli=10,
        memory_bytes=16 * _MIB,
        storage=(Storage("default", 16 * _MIB),),
        gpu_units=1,
        gpu_attributes=(Attribute("vendor/nvidia/model/*", "true"),),
    )
    unit = ResourceUnit(need, 1, DecCoin(UACT, Dec.of(10_000)))
    return GroupSpec("bench", PlacementRequirements(), (unit,))


class Tenant:
    """A tenant that makes and closes deployments by the handful."""

    def __init__(self, stack: Stack, account: str = "tenant") -> None:
        self._stack = stack
        self.address, secret = stack.key(account)
        self._key = Key.from_hex(secret)
        # Of one length: see runtime.tenant_spec.
        self._next = 1_000_001

    def wait_for_bids(self, count: int) -> Waits:
        """Make ``count`` orders in one block, wait for their bids, close the deployments again."""
        made = [DeploymentId(self.address, self._next + n) for n in range(count)]
        self._next += count
        deposit = Coin(UACT, _DEPOSIT_UACT)
        asyncio.run(
            self._send([codec.create_deployment(i, (group(),), hash_=bytes(32), deposit=deposit) for i in made])
        )
        dseqs = {str(id_.dseq) for id_ in made}
        provider = self._stack.address("provider")

        def bids() -> dict[str, int] | None:
            found = {
                str(b.id["dseq"]): b.height
                for b in self._stack.chain.bids(self.address)
                if b.id["dseq"] in dseqs and b.id["provider"] == provider
            }
            return found if len(found) == count else None

        bid_at = until(f"{count} bids", bids, timeout_s=60)
        order_at = {str(o.id["dseq"]): o.height for o in self._stack.chain.orders(self.address)}
        asyncio.run(self._send([codec.close_deployment(id_) for id_ in made]))
        return Waits(count, tuple(bid_at[dseq] - order_at[dseq] for dseq in sorted(dseqs)))

    async def _send(self, messages: Sequence[Message]) -> None:
        endpoint = Endpoint(self._stack.chain.rpc, f"127.0.0.1:{self._stack.ports.grpc}")
        async with ChainClient([endpoint], self._stack.chain_id) as chain:
            account = await chain.account(self.address)
            assert account is not None
            status = await chain.status()
            gas = _GAS * len(messages)
            raw = build(
                [pack(message) for message in messages],
                signer=self._key,
                chain_id=self._stack.chain_id,
                account_number=account.number,
                fee=Fee((Coin(UAKT, gas // 40 + 1),), gas),
                ordering=Ordering(timeout_ns=status.time_ns + 60 * NS_PER_S),
            )
            answer = await chain.broadcast(raw)
            if answer.code:
                raise ChainError(answer.log)
            for _ in range(100):
                found = await chain.find_tx(answer.hash)
                if found is not None:
                    if found[1].code:
                        raise ChainError(found[1].log)
                    return
                await asyncio.sleep(0.1)
            raise ChainError("the transaction was not included within 10 s")
