"""Certificates of accounts (akash x/cert): checked, unique per owner and serial, revocable."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import NameOID

from gpulease.devnet import addresses, errors
from gpulease.devnet.context import Context
from gpulease.pb.akash.cert.v1 import cert_pb2

_CERTS = "cert/certificates"
_BAD_KEY, _BAD_CERT = "invalid pubkey value", "invalid certificate value"


_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n(.*?)-----END \1-----[ \t]*\r?\n?", re.DOTALL)


def _block(pem: bytes, value: str, label: str, code: int) -> bytes:
    """The one PEM block of ``pem``; ``value`` and ``code`` are the module's words for what it should have been."""
    match = _PEM.search(pem)
    if match is None or match.end() != len(pem):
        raise errors.cert(code, value)
    try:
        der = base64.b64decode(re.sub(rb"\s", b"", match[2]), validate=True)
    except binascii.Error:
        raise errors.cert(code, value) from None
    if match[1] != label.encode():
        raise errors.undefined(f"{value}: invalid pem block type")
    return der


def check(owner: str, cert_pem: bytes, pubkey_pem: bytes) -> int:
    """The certificate's serial; raises the module's error for one that breaks a rule. The key is looked at first."""
    key_der = _block(pubkey_pem, _BAD_KEY, "EC PUBLIC KEY", 7)
    try:
        key = load_der_public_key(key_der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise errors.undefined(f"{_BAD_KEY}: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise errors.undefined(f"{_BAD_KEY}: invalid public key type")
    cert_der = _block(cert_pem, _BAD_CERT, "CERTIFICATE", 6)
    try:
        parsed = x509.load_der_x509_certificate(cert_der)
    except ValueError as error:
        raise errors.undefined(f"x509: {error}") from None
    try:
        key.verify(parsed.signature, parsed.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise errors.undefined(f"{_BAD_CERT}: invalid certificate signature") from None
    names = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[-1].value) if names else ""
    if addresses.decode(name) is None:
        raise errors.undefined(f"{_BAD_CERT}: {addresses.problem(name)}")
    if name != owner:
        raise errors.undefined(f"{_BAD_CERT}: CommonName does not match owner")
    return parsed.serial_number


def serial_number(text: str) -> int | None:
    """A serial in decimal digits, None for anything else."""
    return int(text) if re.match(r"^[+-]?[0-9]+\Z", text) else None


def _key(owner: str, serial: int) -> tuple[bytes, bytes]:
    raw = serial.to_bytes((serial.bit_length() + 7) // 8 or 1, "big")
    return (addresses.decode(owner) or b"", raw)


def msg_create(ctx: Context, msg: Any) -> None:
    serial = check(msg.owner, bytes(msg.cert), bytes(msg.pubkey))
    key = _key(msg.owner, serial)
    if ctx.state.get(_CERTS, key) is not None:
        raise errors.cert(3, "certificate exists")
    entry = cert_pb2.Certificate(state=cert_pb2.valid, cert=msg.cert, pubkey=msg.pubkey)
    ctx.state.put(_CERTS, key, (msg.owner, str(serial), entry))


def msg_revoke(ctx: Context, msg: Any) -> None:
    key = _key(msg.id.owner, abs(int(msg.id.serial)))
    found = ctx.state.get(_CERTS, key)
    if found is None:
        raise errors.cert(1, "certificate not found")
    owner, serial, entry = found
    if entry.state == cert_pb2.revoked:
        raise errors.cert(4, "certificate already revoked")
    revoked = cert_pb2.Certificate(state=cert_pb2.revoked, cert=entry.cert, pubkey=entry.pubkey)
    ctx.state.put(_CERTS, key, (owner, serial, revoked))


def certificates(ctx: Context) -> list[tuple[str, str, cert_pb2.Certificate]]:
    """(owner, serial, certificate) in store order."""
    return list(ctx.state.values(_CERTS))
