"""Certificates of accounts (akash x/cert): checked, unique per owner and serial, revocable."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import NameOID

from gpulease.devnet import addresses, errors
from gpulease.devnet.context import Context
from gpulease.pb.akash.cert.v1 import cert_pb2

_CERTS = "cert/certificates"


def _der(pem: bytes, label: str) -> bytes | None:
    import base64
    import binascii

    head, tail = f"-----BEGIN {label}-----".encode(), f"-----END {label}-----".encode()
    start, end = pem.find(head), pem.find(tail)
    if start != 0 or end < 0 or pem[end + len(tail) :].strip():
        return None
    try:
        return base64.b64decode(pem[len(head) : end].replace(b"\n", b"").replace(b"\r", b""), validate=True)
    except binascii.Error:
        return None


def check(owner: str, cert_pem: bytes, pubkey_pem: bytes) -> int:
    """The certificate's serial; raises the module's error for one that breaks a rule."""
    der = _der(cert_pem, "CERTIFICATE")
    if der is None:
        raise errors.cert(6, "invalid certificate value")
    try:
        parsed = x509.load_der_x509_certificate(der)
    except ValueError:
        raise errors.cert(6, "invalid certificate value") from None
    key_der = _der(pubkey_pem, "EC PUBLIC KEY")
    if key_der is None:
        raise errors.cert(7, "invalid pubkey value")
    try:
        key = load_der_public_key(key_der)
    except ValueError:
        raise errors.cert(7, "invalid pubkey value") from None
    algorithm = parsed.signature_hash_algorithm
    if not isinstance(key, ec.EllipticCurvePublicKey) or algorithm is None:
        raise errors.cert(7, "invalid pubkey value")
    try:
        key.verify(parsed.signature, parsed.tbs_certificate_bytes, ec.ECDSA(algorithm))
    except InvalidSignature:
        raise errors.cert(6, "invalid certificate value") from None
    names = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not names or str(names[0].value) != owner:
        raise errors.undefined("invalid certificate value: CommonName does not match owner")
    return parsed.serial_number


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
    try:
        key = _key(msg.id.owner, int(msg.id.serial))
    except ValueError:
        raise errors.cert(5, "invalid serial") from None
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
