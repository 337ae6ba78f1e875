"""Bech32 addresses and the module accounts derived from names."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import bech32

PREFIX = "akash"


def encode(raw: bytes) -> str:
    words = bech32.convertbits(raw, 8, 5)
    return str(bech32.bech32_encode(PREFIX, words))


@lru_cache(maxsize=65536)
def decode(address: str) -> bytes | None:
    """The raw bytes, or None when the text is no address of this chain."""
    prefix, words = bech32.bech32_decode(address)
    if prefix != PREFIX or words is None:
        return None
    raw = bech32.convertbits(words, 5, 8, False)
    return bytes(raw) if raw else None


def of_pubkey(pubkey: bytes) -> str:
    """secp256k1: ripemd160 of sha256 of the compressed key."""
    from Crypto.Hash import RIPEMD160

    return encode(RIPEMD160.new(hashlib.sha256(pubkey).digest()).digest())


@lru_cache(maxsize=64)
def module(name: str) -> str:
    """``authtypes.NewModuleAddress``: the first 20 bytes of sha256 of the name."""
    return encode(hashlib.sha256(name.encode()).digest()[:20])
