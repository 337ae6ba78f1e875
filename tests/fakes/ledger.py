"""People with test keys on an embedded chain in step mode: signed transactions in, results out.

Signs by itself, so that what the chain accepts is not what our own client happens to write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import coincurve
from google.protobuf.message import Message

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.devnet import addresses, auth, genesis, registry
from gpulease.devnet.chain import Devnet, TxResult
from gpulease.pb.akash.deployment.v1 import deployment_pb2
from gpulease.pb.akash.deployment.v1beta4 import deploymentmsg_pb2, groupspec_pb2
from gpulease.pb.akash.escrow.id.v1 import id_pb2
from gpulease.pb.akash.escrow.v1 import msg_pb2 as escrow_msg
from gpulease.pb.akash.market.v1 import bid_pb2, lease_pb2
from gpulease.pb.akash.market.v1beta5 import bidmsg_pb2, leasemsg_pb2
from gpulease.pb.akash.provider.v1beta4 import msg_pb2 as provider_msg
from gpulease.units import NS_PER_S, UACT, UAKT, Coin, Dec

from cosmos.base.v1beta1 import coin_pb2
from cosmos.crypto.secp256k1 import keys_pb2
from cosmos.tx.signing.v1beta1 import signing_pb2
from cosmos.tx.v1beta1 import tx_pb2

START_NS = 1_800_000_000 * NS_PER_S
FUNDS = (Coin(UACT, 10**12), Coin(UAKT, 10**12))
BALANCE, GRANT = 1, 2
GPU_KEY = "vendor/nvidia/model/a100"


class Person:
    """A key pair, made from a number."""

    def __init__(self, number: int) -> None:
        self.key = coincurve.PrivateKey(number.to_bytes(32, "big"))
        self.pubkey = self.key.public_key.format()
        self.address = addresses.of_pubkey(self.pubkey)

    def sign(self, document: bytes) -> bytes:
        """64 bytes r || s over the document's sha256, s in the lower half."""
        return self.key.sign_recoverable(document)[:64]


def coin(denom: str, amount: int) -> Any:
    return coin_pb2.Coin(denom=denom, amount=str(amount))


def deposit(amount: int, denom: str = UACT, sources: Iterable[int] = (BALANCE,)) -> dict[str, Any]:
    return {"amount": coin(denom, amount), "sources": list(sources)}


def group(name: str = "g", *, price: str = "100", denom: str = UACT, count: int = 1) -> Any:
    """One GPU unit at ``price`` a block."""
    spec = groupspec_pb2.GroupSpec(name=name)
    unit = spec.resources.add(count=count)
    unit.price.denom, unit.price.amount = denom, str(Dec.of(price).raw)
    unit.resource.id = 1
    unit.resource.cpu.units.val = b"1000"
    unit.resource.memory.quantity.val = b"536870912"
    unit.resource.storage.add(name="default").quantity.val = b"1073741824"
    unit.resource.gpu.units.val = b"1"
    unit.resource.gpu.attributes.add(key=GPU_KEY, value="true")
    return spec


@dataclass
class Ledger:
    """A chain and what its people do on it. Every :meth:`run` is one block."""

    people: Sequence[Person]
    order_max_bids: int = 20
    price_sources: Sequence[str] = ()
    chain: Devnet = field(init=False)

    def __post_init__(self) -> None:
        raw = genesis.default(
            chain_id="ledger",
            accounts={p.address: list(FUNDS) for p in self.people},
            now_ns=START_NS,
            order_max_bids=self.order_max_bids,
            price_sources=self.price_sources,
        )
        raw["app_state"]["market"]["params"]["min_reclamation_window"] = "5s"
        self.chain = Devnet.from_genesis(raw)

    # --- transactions ------------------------------------------------------------------------------------------

    def signed(
        self,
        signers: Person | Sequence[Person],
        *messages: Message,
        memo: str = "",
        gas: int = 500_000,
        fee: Sequence[Coin] = (Coin(UAKT, 12_500),),
        payer: str = "",
        granter: str = "",
        timeout_height: int = 0,
        timeout_ns: int = 0,
        unordered: bool = False,
        sequences: Sequence[int] | None = None,
        chain_id: str = "ledger",
    ) -> bytes:
        """The bytes of a transaction, signed directly with the accounts' present sequences."""
        people = [signers] if isinstance(signers, Person) else list(signers)
        body = tx_pb2.TxBody(
            messages=[registry.pack(m) for m in messages], memo=memo, timeout_height=timeout_height, unordered=unordered
        )
        if timeout_ns:
            body.timeout_timestamp.FromNanoseconds(timeout_ns)
        info = tx_pb2.AuthInfo(
            fee=tx_pb2.Fee(amount=[coin(c.denom, c.amount) for c in fee], gas_limit=gas, payer=payer, granter=granter)
        )
        accounts = [auth.get(self.chain.context(), p.address) for p in people]
        for index, person in enumerate(people):
            account = accounts[index]
            entry = info.signer_infos.add(public_key=registry.pack(keys_pb2.PubKey(key=person.pubkey)))
            entry.mode_info.single.mode = signing_pb2.SIGN_MODE_DIRECT
            present = account.sequence if account is not None else 0
            entry.sequence = sequences[index] if sequences is not None else 0 if unordered else present
        raw = tx_pb2.TxRaw(body_bytes=body.SerializeToString(), auth_info_bytes=info.SerializeToString())
        for person, account in zip(people, accounts, strict=True):
            document = tx_pb2.SignDoc(
                body_bytes=raw.body_bytes,
                auth_info_bytes=raw.auth_info_bytes,
                chain_id=chain_id,
                account_number=account.number if account is not None else 0,
            )
            raw.signatures.append(person.sign(document.SerializeToString()))
        return raw.SerializeToString()

    def block(self, *raws: bytes, seconds: float = 1) -> list[TxResult]:
        """One block of these transactions, without a mempool's say."""
        time_ns = self.chain.time_ns + int(seconds * NS_PER_S)
        return [result for _, result in self.chain.apply_block(raws, time_ns=time_ns).txs]

    def run(self, signer: Person | Sequence[Person], *messages: Message, **how: Any) -> TxResult:
        (result,) = self.block(self.signed(signer, *messages, **how))
        return result

    def ok(self, signer: Person | Sequence[Person], *messages: Message, **how: Any) -> TxResult:
        result = self.run(signer, *messages, **how)
        assert result.code == 0, f"{result.codespace}/{result.code}: {result.log}"
        return result

    def check(self, signer: Person | Sequence[Person], *messages: Message, **how: Any) -> TxResult:
        return self.chain.check_tx(self.signed(signer, *messages, **how))

    def balance(self, who: Person, denom: str = UACT) -> int:
        return self.chain.balance(who.address, denom)


# --- messages ------------------------------------------------------------------------------------------------------


def did(owner: Person, dseq: int = 1) -> Any:
    return deployment_pb2.DeploymentID(owner=owner.address, dseq=dseq)


def bid_id(owner: Person, provider: Person, dseq: int = 1, gseq: int = 1, oseq: int = 1) -> Any:
    return bid_pb2.BidID(owner=owner.address, dseq=dseq, gseq=gseq, oseq=oseq, provider=provider.address)


def lease_id(owner: Person, provider: Person, dseq: int = 1, gseq: int = 1, oseq: int = 1) -> Any:
    return lease_pb2.LeaseID(owner=owner.address, dseq=dseq, gseq=gseq, oseq=oseq, provider=provider.address)


def create_provider(provider: Person) -> Message:
    msg = provider_msg.MsgCreateProvider(owner=provider.address, host_uri="https://provider.example.test:8443")
    msg.attributes.add(key=f"capabilities/gpu/{GPU_KEY}", value="true")
    return msg


def create_deployment(
    owner: Person, dseq: int = 1, *, amount: int = 500_000, groups: Sequence[Any] | None = None, **more: Any
) -> Message:
    return deploymentmsg_pb2.MsgCreateDeployment(
        id=did(owner, dseq),
        groups=[group()] if groups is None else list(groups),
        hash=b"\7" * 32,
        deposit=more.pop("deposit", deposit(amount)),
        **more,
    )


def create_bid(owner: Person, provider: Person, dseq: int = 1, *, price: str = "10", **more: Any) -> Message:
    where = {name: more.pop(name) for name in ("gseq", "oseq") if name in more}
    return bidmsg_pb2.MsgCreateBid(
        id=bid_id(owner, provider, dseq, **where),
        price={"denom": more.pop("denom", UACT), "amount": str(Dec.of(price).raw)},
        deposit=more.pop("deposit", deposit(500_000)),
        **more,
    )


def create_lease(owner: Person, provider: Person, dseq: int = 1, **where: int) -> Message:
    return leasemsg_pb2.MsgCreateLease(bid_id=bid_id(owner, provider, dseq, **where))


def withdraw(owner: Person, provider: Person, dseq: int = 1, **where: int) -> Message:
    return leasemsg_pb2.MsgWithdrawLease(id=lease_id(owner, provider, dseq, **where))


def top_up(signer: Person, owner: Person, dseq: int = 1, *, amount: int, denom: str = UACT, **more: Any) -> Message:
    return escrow_msg.MsgAccountDeposit(
        signer=signer.address,
        id=id_pb2.Account(scope=id_pb2.deployment, xid=f"{owner.address}/{dseq}"),
        deposit=deposit(amount, denom, more.pop("sources", (BALANCE,))),
    )
