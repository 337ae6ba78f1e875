"""Bech32 addresses and the module accounts derived from names."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import bech32

PREFIX = "akash"
_MAX_LENGTH, _CHECKSUM = 1023, 6


def encode(raw: bytes, prefix: str = PREFIX) -> str:
    words = bech32.convertbits(raw, 8, 5)
    return str(bech32.bech32_encode(prefix, words))


@lru_cache(maxsize=65536)
def decode(address: str) -> bytes | None:
    """The raw bytes, or None when the text is no address of this chain."""
    prefix, words = bech32.bech32_decode(address)
    if prefix != PREFIX or words is None:
        return None
    raw = bech32.convertbits(words, 5, 8, False)
    return bytes(raw) if raw else None


def problem(address: str) -> str:
    """Why a text is no address, in the words of the chain's bech32 decoder."""
    if not address.strip():
        return "empty address string is not allowed"
    words = _bech32_problem(address)
    if words:
        return f"decoding bech32 failed: {words}"
    prefix = address.rpartition("1")[0]
    return f"hrp does not match bech32 prefix: expected '{PREFIX}' got '{prefix}': internal logic error"


def _bech32_problem(text: str) -> str:
    if not 8 <= len(text) <= _MAX_LENGTH:
        return f"invalid bech32 string length {len(text)}"
    odd = next((c for c in text if not 33 <= ord(c) <= 126), None)
    if odd is not None:
        return f"invalid character in string: '{odd}'"
    if text not in (text.lower(), text.upper()):
        return "string not all lowercase or all uppercase"
    prefix, separator, data = text.lower().rpartition("1")
    if not prefix or len(data) < _CHECKSUM:
        return f"invalid separator index {len(prefix) if separator else -1}"
    strange = next((c for c in data if c not in bech32.CHARSET), None)
    if strange is not None:
        return f"invalid character not part of charset: {ord(strange)}"
    words = [bech32.CHARSET.index(c) for c in data[:-_CHECKSUM]]
    expected = "".join(bech32.CHARSET[w] for w in bech32.bech32_create_checksum(prefix, words))
    if expected != data[-_CHECKSUM:]:
        return f"invalid checksum (expected {expected} got {data[-_CHECKSUM:]})"
    return ""


@lru_cache(maxsize=65536)
def of_pubkey(pubkey: bytes) -> str:
    """secp256k1: ripemd160 of sha256 of the compressed key."""
    from Crypto.Hash import RIPEMD160

    return encode(RIPEMD160.new(hashlib.sha256(pubkey).digest()).digest())


@lru_cache(maxsize=64)
def module(name: str) -> str:
    """``authtypes.NewModuleAddress``: the first 20 bytes of sha256 of the name."""
    return encode(hashlib.sha256(name.encode()).digest()[:20])
