"""A devnet with a market on it: a provider, a tenant, leases and open orders, made by applying signed transactions."""

from __future__ import annotations

from google.protobuf.message import Message

from gpulease.chain import codec
from gpulease.chain.keys import Key
from gpulease.chain.tx import Fee, Ordering, build, pack
from gpulease.devnet import auth, genesis
from gpulease.devnet.chain import BlockResult, Devnet
from gpulease.ids import DeploymentId, LeaseId
from gpulease.market import model as m
from gpulease.units import NS_PER_S, UACT, UAKT, Coin, Dec, DecCoin

CHAIN_ID = "step"
PROVIDER, TENANT = Key(b"\x11" * 32), Key(b"\x22" * 32)
SINK = Key(b"\x33" * 32).address
START_NS = 1_700_000_000 * NS_PER_S
FUNDS = 10**12
DEPOSIT_UACT = 500_000


def group(name: str = "g", price: str = "1000000") -> m.GroupSpec:
    unit = m.Resources(
        1, 1000, 1 << 29, (m.Storage("default", 1 << 30),), endpoints=(m.Endpoint(m.EndpointKind.SHARED_HTTP),)
    )
    return m.GroupSpec(name, m.PlacementRequirements(), (m.ResourceUnit(unit, 1, DecCoin(UACT, Dec.of(price))),))


class LeaseChain:
    """Applies messages straight into blocks; each helper makes one block."""

    def __init__(self, *, keep_blocks: int = 100_000, extra: tuple[str, ...] = ()) -> None:
        funds = [Coin(UACT, FUNDS), Coin(UAKT, FUNDS)]
        accounts = dict.fromkeys((PROVIDER.address, TENANT.address, *extra), funds)
        accounts[SINK] = [Coin(UAKT, 1)]
        raw = genesis.default(chain_id=CHAIN_ID, accounts=accounts, now_ns=START_NS)
        self.chain = Devnet.from_genesis(raw, keep_blocks=keep_blocks)
        self._nonce = 0
        self.made: list[BlockResult] = []
        self.block()

    def raw(self, key: Key, *messages: Message, fee_uakt: int = 0) -> bytes:
        """Signed bytes that any block of the next ten minutes may hold."""
        self._nonce += 1
        account = auth.get(self.chain.context(), key.address)
        assert account is not None
        return build(
            [pack(message) for message in messages],
            signer=key,
            chain_id=CHAIN_ID,
            account_number=account.number,
            fee=Fee((Coin(UAKT, fee_uakt),) if fee_uakt else (), 10_000_000),
            ordering=Ordering(self.chain.time_ns + 300 * NS_PER_S + self._nonce),
        )

    def block(self, *raws: bytes, seconds: float = 1.0) -> BlockResult:
        waiting = list(self.chain.mempool.values())
        block = self.chain.apply_block([*waiting, *raws], time_ns=self.chain.time_ns + int(seconds * NS_PER_S))
        self.made.append(block)
        return block

    def do(self, key: Key, *messages: Message) -> BlockResult:
        """In a block of their own, in one transaction that must succeed."""
        block = self.block(self.raw(key, *messages))
        result = block.txs[-1][1]
        assert result.code == 0, result.log
        return block

    def register(self) -> None:
        record = m.ProviderRecord(PROVIDER.address, "https://p.example.test:8443", ())
        self.do(PROVIDER, codec.provider_record(record, exists=False))

    def order(self, dseq: int, *, groups: int = 1, deposit: int = DEPOSIT_UACT, owner: Key = TENANT) -> DeploymentId:
        did = DeploymentId(owner.address, dseq)
        specs = tuple(group(f"g{i}") for i in range(groups))
        self.do(owner, codec.create_deployment(did, specs, hash_=bytes(32), deposit=Coin(UACT, deposit)))
        return did

    def lease(
        self, dseq: int, price: str, *, deposit: int = DEPOSIT_UACT, groups: int = 1, provider: Key = PROVIDER
    ) -> list[LeaseId]:
        """A deployment with a lease for each of its groups, all created in one block."""
        did = self.order(dseq, deposit=deposit, groups=groups)
        ids = [LeaseId(did.owner, did.dseq, gseq, 1, provider.address) for gseq in range(1, groups + 1)]
        bids = [codec.create_bid(i, price=DecCoin(UACT, Dec.of(price)), deposit=Coin(UACT, DEPOSIT_UACT)) for i in ids]
        self.do(provider, *bids)
        self.do(TENANT, *(codec.create_lease(i) for i in ids))
        return ids
