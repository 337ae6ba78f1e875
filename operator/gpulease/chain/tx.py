"""Building and signing transactions.

Unordered transactions (sequence 0, a unique ``timeout_timestamp``) are the default: nothing queues behind anything,
and the same bytes can be sent again until they are included or provably dead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.any_pb2 import Any as PbAny
from google.protobuf.message import Message

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.units import NS_PER_S, Coin

from cosmos.crypto.secp256k1 import keys_pb2
from cosmos.tx.signing.v1beta1 import signing_pb2
from cosmos.tx.v1beta1 import tx_pb2


class Signer(Protocol):
    """What signs: a :class:`gpulease.chain.keys.Key`, or a remote signer of the same shape."""

    @property
    def address(self) -> str: ...

    @property
    def pubkey_bytes(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Fee:
    """``granter`` pays when set (fee grant)."""

    amount: tuple[Coin, ...]
    gas: int
    granter: str = ""


@dataclass(frozen=True, slots=True)
class Ordering:
    """Unordered when ``timeout_ns`` is set and ``ordered`` is not, else ordered by ``sequence``.

    An ordered transaction may have a deadline too: past it the chain refuses it, whatever the sequence is by then.
    """

    timeout_ns: int | None = None
    sequence: int = 0
    ordered: bool = False

    @property
    def unordered(self) -> bool:
        return self.timeout_ns is not None and not self.ordered


def pack(message: Message) -> tuple[str, bytes]:
    """A message as (type URL, bytes): the form intents are stored in."""
    return "/" + message.DESCRIPTOR.full_name, message.SerializeToString(deterministic=True)


def tx_hash(raw: bytes) -> str:
    """The transaction's id: upper-case hexadecimal sha256."""
    return hashlib.sha256(raw).hexdigest().upper()


def build(
    messages: Sequence[tuple[str, bytes]],
    *,
    signer: Signer,
    chain_id: str,
    account_number: int,
    fee: Fee,
    ordering: Ordering,
    memo: str = "",
    dry: bool = False,
) -> bytes:
    """Signed TxRaw bytes (SIGN_MODE_DIRECT); ``dry`` puts zeroes for the signature: good for a simulation only."""
    body = tx_pb2.TxBody(memo=memo, messages=[PbAny(type_url=url, value=value) for url, value in messages])
    if ordering.timeout_ns is not None:
        body.unordered = ordering.unordered
        body.timeout_timestamp.seconds, body.timeout_timestamp.nanos = divmod(ordering.timeout_ns, NS_PER_S)
    info = tx_pb2.AuthInfo()
    public = keys_pb2.PubKey(key=signer.pubkey_bytes)
    entry = info.signer_infos.add(sequence=0 if ordering.unordered else ordering.sequence)
    entry.public_key.type_url, entry.public_key.value = pack(public)
    entry.mode_info.single.mode = signing_pb2.SIGN_MODE_DIRECT
    for coin in fee.amount:
        info.fee.amount.add(denom=coin.denom, amount=str(coin.amount))
    info.fee.gas_limit = fee.gas
    info.fee.granter = fee.granter
    body_bytes = body.SerializeToString(deterministic=True)
    info_bytes = info.SerializeToString(deterministic=True)
    doc = tx_pb2.SignDoc(
        body_bytes=body_bytes, auth_info_bytes=info_bytes, chain_id=chain_id, account_number=account_number
    )
    signature = bytes(64) if dry else signer.sign(doc.SerializeToString(deterministic=True))
    raw = tx_pb2.TxRaw(body_bytes=body_bytes, auth_info_bytes=info_bytes, signatures=[signature])
    return bytes(raw.SerializeToString(deterministic=True))
