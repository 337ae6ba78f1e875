"""What is checked of a transaction before its messages run: form, time, fee, signatures (cosmos-sdk 0.53 ante).

The order of the checks decides which refusal is given; the effects (fee, sequence, nonce) stay even when a message
fails afterwards.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import coincurve
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.devnet import addresses, auth, bank, errors, feegrant, gotext, registry, validate
from gpulease.devnet.context import Context
from gpulease.units import NS_PER_S, UAKT, Coin, Dec

from cosmos.crypto.secp256k1 import keys_pb2
from cosmos.tx.v1beta1 import tx_pb2

MAX_UNORDERED_TTL_NS = 600 * NS_PER_S
MAX_GAS = (1 << 63) - 1
FEE_COLLECTOR = "fee_collector"
_INTEGER = re.compile(r"^-?[0-9]+$")
_NUMBER_FIELDS = {
    "cosmos.base.v1beta1.Coin": "amount",
    "cosmos.base.v1beta1.DecCoin": "amount",
    "akash.base.resources.v1beta4.ResourceValue": "val",
}
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


@lru_cache(maxsize=2048)
def decode(raw: bytes) -> DecodedTx:
    """``sdk`` code 2 for bytes that are no transaction. Cached: checked, executed and searched bytes are the same."""
    _refuse_malleable(raw)
    try:
        tx = tx_pb2.TxRaw.FromString(raw)
        body = tx_pb2.TxBody.FromString(tx.body_bytes)
        info = tx_pb2.AuthInfo.FromString(tx.auth_info_bytes)
    except DecodeError as error:
        raise errors.sdk(2, f"{error}: tx parse error: tx parse error") from error
    messages = tuple(registry.unpack(m) for m in body.messages)
    for message in (info, *messages):
        _check_numbers(message)
    return DecodedTx(tx, body, info, messages)


def _refuse_malleable(raw: bytes) -> None:
    """ADR-027: a transaction has one encoding: only byte fields, in order, their lengths as short as possible."""
    position, before = 0, 0
    while position < len(raw):
        tag, after = _varint(raw, position)
        wire = tag & 7
        if wire != 2:
            raise errors.sdk(2, f"expected 2 wire type, got {wire}: tx parse error: tx parse error")
        number = tag >> 3
        if number < before:
            words = f"txRaw must follow ADR-027, found tagNum({number}) after tagNum({before})"
            raise errors.sdk(2, f"{words}: tx parse error: tx parse error")
        before = number
        length, start = _varint(raw, after)
        needed = max((length.bit_length() + 6) // 7, 1)
        if start - after != needed:
            words = f"length prefix varint for tagNum({number}) is not as short as possible"
            words += f", read {start - after}, only need {needed}"
            raise errors.sdk(2, f"{words}: tx parse error: tx parse error")
        position = start + length
        if position > len(raw):
            raise errors.sdk(2, "invalid length; unexpected EOF: tx parse error: tx parse error")


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(raw):
            raise errors.sdk(2, "invalid length; unexpected EOF: tx parse error: tx parse error")
        byte = raw[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise errors.sdk(2, "invalid length; variable length integer overflow: tx parse error: tx parse error")


def _check_numbers(message: Message) -> None:
    """Amounts travel as text; one that is no integer cannot be decoded."""
    name = message.DESCRIPTOR.full_name
    if name in _NUMBER_FIELDS:
        text = getattr(message, _NUMBER_FIELDS[name])
        text = text.decode(errors="replace") if isinstance(text, bytes) else text
        if text and not _INTEGER.match(text):
            words = f"math/big: cannot unmarshal {gotext.quoted(text)} into a *big.Int"
            raise errors.sdk(2, f"{words}: tx parse error: tx parse error")
        return
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.full_name == "google.protobuf.Any":
            continue
        for item in value if field.label == FieldDescriptor.LABEL_REPEATED else (value,):
            _check_numbers(item)


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
    if name == "cosmos.bank.v1beta1.MsgMultiSend":
        return str(message.inputs[0].address) if message.inputs else ""  # type: ignore[attr-defined]
    for field in _SIGNER_FIELDS:
        if field in fields:
            return str(getattr(message, field))
    if "id" in fields:
        return str(message.id.owner)  # type: ignore[attr-defined]
    raise errors.sdk(2, f"{name} names no signer: tx parse error: tx parse error")


def signers(tx: DecodedTx) -> list[str]:
    """Who has to sign: the messages' signers in order, then the fee payer where it is another one."""
    found: list[str] = []
    for message in tx.messages:
        signer = signer_of(message)
        if signer not in found:
            found.append(signer)
    payer = tx.auth_info.fee.payer
    if payer and payer not in found:
        found.append(payer)
    return found


def run(
    ctx: Context, tx: DecodedTx, *, checking: bool, min_gas_price: Dec, simulate: bool = False, verify: bool = True
) -> None:
    """The whole chain of checks; raises the first refusal.

    ``checking`` adds the node's own minimum fee; without ``verify`` signatures are taken as checked before.
    """
    if not tx.messages:
        raise errors.sdk(18, "must contain at least one message: invalid request")
    for message in tx.messages:
        validate.check(message)
    if tx.body.extension_options:
        raise errors.sdk(31, "unknown extension options")
    who = signers(tx)
    _form(tx, who)
    _timeouts(ctx, tx)
    _memo(ctx, tx)
    _deduct_fee(ctx, tx, who, min_gas_price if checking and not simulate else None, simulate=simulate)
    _set_pubkeys(ctx, tx, who, simulate=simulate)
    _verify(ctx, tx, who, simulate=simulate, verify=verify)
    if not tx.body.unordered:
        for address in who:
            auth.bump(ctx, address)


def _form(tx: DecodedTx, who: list[str]) -> None:
    """The transaction's own ValidateBasic."""
    if tx.gas_wanted > MAX_GAS:
        raise errors.sdk(18, f"invalid gas supplied; {tx.gas_wanted} > {MAX_GAS}: invalid request")
    if not tx.raw.signatures:
        raise errors.sdk(15, "no signatures supplied")
    if len(tx.raw.signatures) != len(who) or len(tx.auth_info.signer_infos) != len(who):
        raise errors.sdk(4, f"wrong number of signers; expected {len(who)}, got {len(tx.raw.signatures)}: unauthorized")


def _memo(ctx: Context, tx: DecodedTx) -> None:
    """The limit counts bytes, as its text does, which calls them characters."""
    limit, length = int(ctx.params["auth"]["params"]["max_memo_characters"]), len(tx.body.memo.encode())
    if length > limit:
        words = f"maximum number of characters is {limit} but received {length} characters: memo too large"
        raise errors.sdk(12, words)


def timeout_ns(tx: DecodedTx) -> int:
    stamp = tx.body.timeout_timestamp
    return int(stamp.seconds) * NS_PER_S + int(stamp.nanos)


def _has_timeout(tx: DecodedTx) -> bool:
    """A timestamp within the first second of 1970 counts as none."""
    return bool(tx.body.HasField("timeout_timestamp") and tx.body.timeout_timestamp.seconds)


def _timeouts(ctx: Context, tx: DecodedTx) -> None:
    height = int(tx.body.timeout_height)
    if height and ctx.height > height:
        raise errors.sdk(30, f"block height: {ctx.height}, timeout height: {height}: tx timeout height")
    deadline_ns = timeout_ns(tx)
    if _has_timeout(tx) and deadline_ns < ctx.time_ns:
        now, late = gotext.time_text(ctx.time_ns), gotext.time_text(deadline_ns)
        raise errors.sdk(42, f"block time: {now}, timeout timestamp: {late}: tx timeout")


def _deduct_fee(ctx: Context, tx: DecodedTx, who: list[str], min_gas_price: Dec | None, *, simulate: bool) -> None:
    """Fee rules and the fee itself; ``min_gas_price`` is the node's own, None where only the chain's rules count."""
    if not simulate and not tx.gas_wanted:
        raise errors.sdk(41, "must provide positive gas: invalid gas limit")
    fee = tx.fee
    if min_gas_price is not None:
        _min_fee(tx, fee, min_gas_price)
    part = tx.auth_info.fee
    payer = source = part.payer or who[0]
    if part.granter:
        if part.granter != payer:
            feegrant.use(ctx, part.granter, payer, fee, tx.messages)
        source = part.granter
    if auth.get(ctx, source) is None:
        raise errors.sdk(9, f"fee payer address: {source} does not exist: unknown address")
    if any(coin.amount for coin in fee):
        if not bank.valid(fee):
            raise errors.sdk(13, f"invalid fee amount: {bank.text(fee)}: insufficient fee")
        try:
            bank.send(ctx, source, addresses.module(FEE_COLLECTOR), fee)
        except errors.ModuleError as error:
            raise errors.sdk(5, f"{error.text}: insufficient funds") from error
    ctx.emit("tx", (("fee", bank.text(fee)), ("fee_payer", source)))


def _min_fee(tx: DecodedTx, fee: list[Coin], min_gas_price: Dec) -> None:
    required = (min_gas_price * tx.gas_wanted).ceil()
    paid = sum(coin.amount for coin in fee if coin.denom == UAKT)
    if paid < required:
        got = bank.text(fee)
        raise errors.sdk(13, f"insufficient fees; got: {got} required: {required}{UAKT}: insufficient fee")


def _set_pubkeys(ctx: Context, tx: DecodedTx, who: list[str], *, simulate: bool) -> None:
    """Keys named by the transaction must belong to the signers; a signer's first one is kept."""
    infos = tx.auth_info.signer_infos
    for index, address in enumerate(who):
        pubkey = _pubkey(infos[index])
        if pubkey is None:
            continue
        if not simulate and addresses.of_pubkey(pubkey) != address:
            words = f"pubKey does not match signer address {address} with signer index: {index}: invalid pubkey"
            raise errors.sdk(8, words)
        account = _account(ctx, address)
        if account.pubkey is None:
            auth.put(ctx, replace(account, pubkey=pubkey))
    limit = int(ctx.params["auth"]["params"]["tx_sig_limit"])
    if len(infos) > limit:
        words = f"signatures: {limit + 1}, limit: {limit}: maximum number of signatures exceeded"
        raise errors.sdk(14, words)
    for address, info, signature in zip(who, infos, tx.raw.signatures, strict=True):
        if not tx.body.unordered:
            ctx.emit("tx", (("acc_seq", f"{address}/{info.sequence}"),))
        ctx.emit("tx", (("signature", base64.b64encode(signature).decode()),))


def _account(ctx: Context, address: str) -> auth.Account:
    found = auth.get(ctx, address)
    if found is None:
        raise errors.sdk(9, f"account {address} does not exist: unknown address")
    return found


def _verify(ctx: Context, tx: DecodedTx, who: list[str], *, simulate: bool, verify: bool) -> None:
    if tx.body.unordered:
        _take_nonces(ctx, tx, who, simulate=simulate)
    for index, address in enumerate(who):
        account = _account(ctx, address)
        sequence = int(tx.auth_info.signer_infos[index].sequence)
        if tx.body.unordered and sequence:
            raise errors.sdk(18, "sequence is not allowed for unordered transactions: invalid request")
        if account.pubkey is None and not simulate:
            raise errors.sdk(8, "pubkey on account is not set: invalid pubkey")
        if not tx.body.unordered and sequence != account.sequence:
            words = f"account sequence mismatch, expected {account.sequence}, got {sequence}"
            raise errors.sdk(32, f"{words}: incorrect account sequence")
        if verify and not simulate and account.pubkey is not None:
            _check_signature(ctx, tx, account, account.pubkey, tx.raw.signatures[index])


def _take_nonces(ctx: Context, tx: DecodedTx, who: list[str], *, simulate: bool) -> None:
    """An unordered transaction is known by its signers and its timeout, each pair usable once."""
    if not _has_timeout(tx):
        raise errors.sdk(18, "unordered transaction must have timeout_timestamp set: invalid request")
    deadline_ns = timeout_ns(tx)
    if deadline_ns > ctx.time_ns + MAX_UNORDERED_TTL_NS:
        raise errors.sdk(18, "unordered tx ttl exceeds 10m0s: invalid request")
    if simulate:
        return
    for address in who:
        if auth.nonce_used(ctx, address, deadline_ns):
            words = f"failed to add unordered nonce: sender {address} has already used timeout {deadline_ns}"
            raise errors.sdk(18, f"{words}: invalid request")
        auth.use_nonce(ctx, address, deadline_ns)


def _pubkey(info: Any) -> bytes | None:
    if info.HasField("public_key"):
        inner = registry.unpack(info.public_key)
        if isinstance(inner, keys_pb2.PubKey):
            return bytes(inner.key)
    return None


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
    except Exception:  # whatever libsecp256k1 says about bytes a stranger chose: it is no signature
        return False


def _der(r: int, s: int) -> bytes:
    def integer(value: int) -> bytes:
        body = value.to_bytes((value.bit_length() + 8) // 8 or 1, "big")
        return b"\x02" + bytes([len(body)]) + body

    content = integer(r) + integer(s)
    return b"\x30" + bytes([len(content)]) + content
