"""What is checked of a transaction before its messages run: form, time, fee, signatures (cosmos-sdk 0.53 ante).

The order of the checks decides which refusal is given; the effects (fee, sequence, nonce) stay even when a message
fails afterwards.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import coincurve
from google.protobuf.message import DecodeError, Message

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.devnet import addresses, auth, bank, errors, feegrant, registry, validate
from gpulease.devnet.context import Context
from gpulease.units import NS_PER_S, Coin, Dec

from cosmos.crypto.secp256k1 import keys_pb2
from cosmos.tx.v1beta1 import tx_pb2

MAX_UNORDERED_TTL_NS = 600 * NS_PER_S
FEE_COLLECTOR = "fee_collector"
_SIGNER_FIELDS = ("signer", "from_address", "granter", "grantee", "owner", "auditor", "authority")


@dataclass(frozen=True, slots=True)
class DecodedTx:
    raw: tx_pb2.TxRaw
    body: tx_pb2.TxBody
    auth_info: tx_pb2.AuthInfo
    messages: tuple[Message, ...]

    @property
    def fee(self) -> list[Coin]:
        return [Coin(c.denom, int(c.amount)) for c in self.auth_info.fee.amount]

    @property
    def gas_wanted(self) -> int:
        return int(self.auth_info.fee.gas_limit)


def decode(raw: bytes) -> DecodedTx:
    """``sdk`` code 2 for bytes that are no transaction."""
    try:
        tx = tx_pb2.TxRaw.FromString(raw)
        body = tx_pb2.TxBody.FromString(tx.body_bytes)
        info = tx_pb2.AuthInfo.FromString(tx.auth_info_bytes)
    except DecodeError as error:
        raise errors.sdk(2, f"{error}: tx parse error") from error
    if not tx.auth_info_bytes:
        raise errors.sdk(2, "expected 2 wire type, got 7: tx parse error: tx parse error")
    return DecodedTx(tx, body, info, tuple(registry.unpack(m) for m in body.messages))


def signer_of(message: Message) -> str:
    """The address that has to sign a message."""
    name = message.DESCRIPTOR.full_name
    fields = message.DESCRIPTOR.fields_by_name
    if name == "cosmos.authz.v1beta1.MsgExec":
        return str(message.grantee)  # type: ignore[attr-defined]
    if name.startswith("akash.audit."):
        return str(message.auditor)  # type: ignore[attr-defined]
    if name in ("akash.market.v1beta5.MsgCreateBid", "akash.market.v1beta5.MsgCloseBid"):
        return str(message.id.provider)  # type: ignore[attr-defined]
    if name in ("akash.market.v1beta5.MsgWithdrawLease", "akash.market.v1beta5.MsgLeaseStartReclaim"):
        return str(message.id.provider)  # type: ignore[attr-defined]
    if name == "akash.market.v1beta5.MsgCreateLease":
        return str(message.bid_id.owner)  # type: ignore[attr-defined]
    for field in _SIGNER_FIELDS:
        if field in fields:
            return str(getattr(message, field))
    if "id" in fields:
        return str(message.id.owner)  # type: ignore[attr-defined]
    raise errors.sdk(2, f"{name} names no signer: tx parse error")


def signers(tx: DecodedTx) -> list[str]:
    found: list[str] = []
    for message in tx.messages:
        signer = signer_of(message)
        if signer not in found:
            found.append(signer)
    return found


def run(ctx: Context, tx: DecodedTx, *, checking: bool, min_gas_price: Dec, simulate: bool = False) -> None:
    """The whole chain of checks; raises the first refusal. ``checking`` adds the node's own minimum fee."""
    if not tx.messages:
        raise errors.sdk(18, "must contain at least one message: invalid request")
    for message in tx.messages:
        validate.check(message)
    if checking and not simulate:
        _min_fee(tx, min_gas_price)
    _timeouts(ctx, tx)
    limit = int(ctx.params["auth"]["params"]["max_memo_characters"])
    if len(tx.body.memo) > limit:
        words = f"maximum number of characters is {limit} but received {len(tx.body.memo)} characters: memo too large"
        raise errors.sdk(12, words)
    who = signers(tx)
    _deduct_fee(ctx, tx, who)
    _verify(ctx, tx, who, simulate=simulate)
    if not tx.body.unordered:
        for address, info in zip(who, tx.auth_info.signer_infos, strict=False):
            ctx.emit("tx", (("acc_seq", f"{address}/{info.sequence}"),))
    for signature in tx.raw.signatures:
        ctx.emit("tx", (("signature", base64.b64encode(signature).decode()),))
    if tx.body.unordered:
        _use_nonces(ctx, tx, who)
    else:
        for address in who:
            auth.bump(ctx, address)


def _min_fee(tx: DecodedTx, min_gas_price: Dec) -> None:
    required = (min_gas_price * tx.gas_wanted).ceil()
    paid = sum(coin.amount for coin in tx.fee if coin.denom == "uakt")
    if paid < required:
        got = bank.text(tx.fee)
        raise errors.sdk(13, f"insufficient fees; got: {got} required: {required}uakt: insufficient fee")


def _go_time(time_ns: int) -> str:
    seconds, nanos = divmod(time_ns, NS_PER_S)
    text = datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
    fraction = f"{nanos:09d}".rstrip("0")
    return f"{text}{'.' + fraction if fraction else ''} +0000 UTC"


def timeout_ns(tx: DecodedTx) -> int:
    stamp = tx.body.timeout_timestamp
    return int(stamp.seconds) * NS_PER_S + int(stamp.nanos)


def _timeouts(ctx: Context, tx: DecodedTx) -> None:
    height = int(tx.body.timeout_height)
    if height and ctx.height > height:
        raise errors.sdk(30, f"block height: {ctx.height}, timeout height: {height}: tx timeout height")
    if not tx.body.HasField("timeout_timestamp"):
        if tx.body.unordered:
            raise errors.sdk(18, "unordered transaction must have timeout_timestamp set: invalid request")
        return
    deadline = timeout_ns(tx)
    if tx.body.unordered and ctx.time_ns > deadline:
        words = f"block time: {_go_time(ctx.time_ns)}, timeout timestamp: {_go_time(deadline)}: tx timeout"
        raise errors.sdk(42, words)
    if ctx.time_ns > deadline:
        words = f"block time: {_go_time(ctx.time_ns)}, timeout timestamp: {_go_time(deadline)}: tx timeout"
        raise errors.sdk(42, words)


def _deduct_fee(ctx: Context, tx: DecodedTx, who: list[str]) -> None:
    fee_part = tx.auth_info.fee
    payer = fee_part.payer or who[0]
    if fee_part.granter:
        granter = fee_part.granter
        if granter != payer:
            feegrant.use(ctx, granter, payer, tx.fee)
        source = granter
    else:
        source = payer
    if auth.get(ctx, source) is None:
        raise errors.sdk(9, f"fee payer address: {source} does not exist: unknown address")
    if tx.fee:
        try:
            bank.send(ctx, source, addresses.module(FEE_COLLECTOR), tx.fee)
        except errors.ModuleError as error:
            raise errors.sdk(5, f"{error.text}: insufficient funds") from error
    ctx.emit("tx", (("fee", bank.text(tx.fee)), ("fee_payer", source)))


def _verify(ctx: Context, tx: DecodedTx, who: list[str], *, simulate: bool) -> None:
    infos = tx.auth_info.signer_infos
    if len(infos) != len(who) or len(tx.raw.signatures) != len(who):
        raise errors.sdk(4, f"wrong number of signers; expected {len(who)}, got {len(tx.raw.signatures)}: unauthorized")
    for index, address in enumerate(who):
        account = auth.get(ctx, address)
        if account is None:
            raise errors.sdk(9, f"account {address} does not exist: unknown address")
        pubkey = _pubkey(infos[index], account)
        if pubkey is not None and addresses.of_pubkey(pubkey) != address:
            words = f"pubKey does not match signer address {address} with signer index: {index}: invalid pubkey"
            raise errors.sdk(8, words)
        if pubkey is None:
            raise errors.sdk(8, "pubkey on account is not set: invalid pubkey")
        if account.pubkey is None:
            auth.put(ctx, replace(account, pubkey=pubkey))
        _check_sequence(tx, account, int(infos[index].sequence))
        if tx.body.unordered:
            _check_nonce(ctx, tx, address)
        if not simulate:
            _check_signature(ctx, tx, account, pubkey, tx.raw.signatures[index])


def _pubkey(info: Any, account: auth.Account) -> bytes | None:
    if info.HasField("public_key"):
        inner = registry.unpack(info.public_key)
        if isinstance(inner, keys_pb2.PubKey):
            return bytes(inner.key)
    return account.pubkey


def _check_sequence(tx: DecodedTx, account: auth.Account, sequence: int) -> None:
    if tx.body.unordered:
        if sequence != 0:
            raise errors.sdk(18, "sequence is not allowed for unordered transactions: invalid request")
        return
    if sequence != account.sequence:
        words = f"account sequence mismatch, expected {account.sequence}, got {sequence}: incorrect account sequence"
        raise errors.sdk(32, words)


def _check_nonce(ctx: Context, tx: DecodedTx, address: str) -> None:
    deadline = timeout_ns(tx)
    if deadline > ctx.time_ns + MAX_UNORDERED_TTL_NS:
        raise errors.sdk(18, "unordered tx ttl exceeds 10m0s: invalid request")
    if auth.nonce_used(ctx, address, deadline):
        words = f"failed to add unordered nonce: sender {address} has already used timeout {deadline}: invalid request"
        raise errors.sdk(18, words)


def _check_signature(ctx: Context, tx: DecodedTx, account: auth.Account, pubkey: bytes, signature: bytes) -> None:
    doc = tx_pb2.SignDoc(
        body_bytes=tx.raw.body_bytes,
        auth_info_bytes=tx.raw.auth_info_bytes,
        chain_id=ctx.chain_id,
        account_number=account.number,
    ).SerializeToString()
    if len(signature) == 64 and _valid(pubkey, doc, signature):
        return
    words = (
        f"signature verification failed; please verify account number ({account.number}) and chain-id "
        f"({ctx.chain_id}): (unable to verify single signer signature): unauthorized"
    )
    raise errors.sdk(4, words)


def _valid(pubkey: bytes, message: bytes, signature: bytes) -> bool:
    try:
        key = coincurve.PublicKey(pubkey)
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        return bool(key.verify(_der(r, s), message))
    except (ValueError, Exception):
        return False


def _der(r: int, s: int) -> bytes:
    def integer(value: int) -> bytes:
        body = value.to_bytes((value.bit_length() + 8) // 8 or 1, "big")
        return b"\x02" + bytes([len(body)]) + body

    content = integer(r) + integer(s)
    return b"\x30" + bytes([len(content)]) + content


def _use_nonces(ctx: Context, tx: DecodedTx, who: list[str]) -> None:
    for address in who:
        auth.use_nonce(ctx, address, timeout_ns(tx))
