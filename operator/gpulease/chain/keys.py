"""Account keys: secp256k1, signed by libsecp256k1 (cosmpy's pure-Python signing leaks timing, CVE-2024-23342)."""

from __future__ import annotations

import hashlib

import bech32
import coincurve
from Crypto.Hash import RIPEMD160

from gpulease.errors import ConfigError

PREFIX = "akash"
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_HEX_DIGITS = 64


def address_of(pubkey: bytes) -> str:
    """The bech32 address of a compressed public key."""
    raw = RIPEMD160.new(hashlib.sha256(pubkey).digest()).digest()
    return str(bech32.bech32_encode(PREFIX, bech32.convertbits(raw, 8, 5)))


def is_address(text: str) -> bool:
    prefix, words = bech32.bech32_decode(text)
    return prefix == PREFIX and words is not None


def verify(pubkey: bytes, message: bytes, signature: bytes) -> bool:
    """A 64-byte r‖s signature over sha256(message); high-S is refused, as the chain and JWT verifiers do."""
    if len(signature) != 64:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not (0 < r < _ORDER and 0 < s <= _ORDER // 2):
        return False
    try:
        return bool(coincurve.PublicKey(pubkey).verify(_der(r, s), message))
    except ValueError:
        return False


def _der(r: int, s: int) -> bytes:
    def integer(value: int) -> bytes:
        body = value.to_bytes(value.bit_length() // 8 + 1, "big")
        return b"\x02" + bytes([len(body)]) + body

    content = integer(r) + integer(s)
    return b"\x30" + bytes([len(content)]) + content


class Key:
    """One account's signing key. Its text form never shows the secret."""

    __slots__ = ("_private", "address", "pubkey_bytes")

    def __init__(self, secret: bytes) -> None:
        self._private = coincurve.PrivateKey(secret)
        self.pubkey_bytes: bytes = self._private.public_key.format()
        self.address = address_of(self.pubkey_bytes)

    @classmethod
    def from_hex(cls, text: str) -> Key:
        """``ConfigError`` for anything but 64 hexadecimal digits of a valid scalar."""
        try:
            if len(text) != _HEX_DIGITS:
                raise ValueError
            return cls(bytes.fromhex(text))
        except ValueError:
            raise ConfigError("the key must be 64 hexadecimal digits (a secp256k1 private key)") from None

    @classmethod
    def from_mnemonic(cls, words: str) -> Key:
        """BIP-39 words, derived on m/44'/118'/0'/0/0 as every Cosmos wallet does."""
        from cosmpy.aerial.wallet import LocalWallet

        try:
            wallet = LocalWallet.from_mnemonic(words, prefix=PREFIX)
        except Exception:
            # The library's error texts may carry the words themselves.
            raise ConfigError("the mnemonic is not a valid list of BIP-39 words") from None
        return cls(wallet.signer().private_key_bytes)

    @classmethod
    def from_secret_text(cls, text: str) -> Key:
        """What a wallet Secret may hold: a private key in hexadecimal, or a mnemonic."""
        stripped = text.strip().removeprefix("0x")
        if not stripped:
            raise ConfigError("the wallet key is empty; put a private key in hexadecimal or a mnemonic there")
        return cls.from_mnemonic(stripped) if " " in stripped else cls.from_hex(stripped)

    def sign(self, message: bytes) -> bytes:
        """64 bytes r‖s, low-S, deterministic (RFC 6979), over sha256(message)."""
        return bytes(self._private.sign_recoverable(message)[:64])

    def __repr__(self) -> str:
        return f"Key({self.address})"
