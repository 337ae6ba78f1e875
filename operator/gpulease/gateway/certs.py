"""Certificates of the market: self-signed P-256, named after their owner's address (gateway reference §3)."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import ssl
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from gpulease.errors import AuthError
from gpulease.market.model import Certificate

_VERSION_OID = ObjectIdentifier("2.23.133.2.6")
_VERSION = "v0.0.1"
LIFETIME_DAYS = 365
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class MadeCertificate:
    """``cert_pem`` and ``pubkey_pem`` go on chain (``MsgCreateCertificate``), ``key_pem`` into the Secret only."""

    serial: str
    cert_pem: bytes
    pubkey_pem: bytes
    key_pem: bytes = field(repr=False)


def make(owner: str, *, hosts: Sequence[str] = (), now_ns: int, days: int = LIFETIME_DAYS) -> MadeCertificate:
    """As the peer's command line makes them, but for one key usage. With ``hosts`` (names, addresses) it serves too.

    The serial is ``now_ns``: the chain never takes one twice for an owner.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, owner), x509.NameAttribute(_VERSION_OID, _VERSION)])
    begin = datetime.datetime.fromtimestamp(now_ns // 10**9, datetime.UTC)
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH] + ([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(now_ns)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=days))
        .add_extension(_KEY_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(h) for h in hosts]), critical=False)
        names = [x509.DNSName(h) for h in hosts if not _is_ip(h)]
        if names:
            builder = builder.add_extension(x509.NameConstraints(names, None), critical=True)
    built = builder.sign(key, hashes.SHA256())
    return MadeCertificate(
        serial=str(now_ns),
        cert_pem=built.public_bytes(serialization.Encoding.PEM),
        pubkey_pem=_public_pem(key.public_key()),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def _public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """The chain wants this block type around what is an ordinary SPKI."""
    spki = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return spki.replace(b" PUBLIC KEY-----", b" EC PUBLIC KEY-----")


# The peer leaves digital signature out; TLS 1.3 signs with the key, and stricter libraries insist on the bit.
_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=True,
    data_encipherment=True,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def read(cert_pem: bytes, key_pem: bytes) -> MadeCertificate:
    """One made earlier, from its PEM texts; ``AuthError`` when they are no certificate and key of each other."""
    try:
        cert = x509.load_pem_x509_certificate(cert_pem)
        key = serialization.load_pem_private_key(key_pem, None)
    except (ValueError, TypeError):
        raise AuthError("the certificate or its key cannot be read") from None
    public = cert.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or key.public_key() != public:
        raise AuthError("the key is not the certificate's")
    return MadeCertificate(
        serial=str(cert.serial_number), cert_pem=cert_pem, pubkey_pem=_public_pem(public), key_pem=key_pem
    )


def load(context: ssl.SSLContext, made: MadeCertificate) -> None:
    """Show this certificate on ``context``'s connections; ``AuthError`` when it cannot be used."""
    # The ssl module reads keys from files only; these are gone before the call returns.
    with tempfile.TemporaryDirectory(prefix="gpulease-tls-") as folder:
        path = os.path.join(folder, "own.pem")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(made.cert_pem + made.key_pem)
        try:
            context.load_cert_chain(path)
        except (ssl.SSLError, ValueError) as error:
            raise AuthError(f"the certificate and its key cannot be used: {error}") from None


def hosts_of(cert_pem: bytes) -> tuple[str, ...]:
    """The names and addresses it serves under, as text; empty when it can not be read or serves none."""
    try:
        names = x509.load_pem_x509_certificate(cert_pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, x509.ExtensionNotFound):
        return ()
    return tuple(str(name.value) for name in names.value)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _general(host: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(host)) if _is_ip(host) else x509.DNSName(host)


def common_name(der: bytes) -> str:
    """The owner that a certificate claims; ``AuthError`` when it cannot be read or claims none."""
    names = _read(der, lambda parsed: parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    if len(names) != 1:
        raise AuthError("the certificate must have one common name, its owner's address")
    return str(names[0].value)


def _read(der: bytes, part: Callable[[x509.Certificate], _T]) -> _T:
    """One part of a certificate that anybody may have made; ``AuthError`` for whatever the parser says of it."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return part(x509.load_der_x509_certificate(der))
    except Exception:
        # The parser has a kind of exception per fault, not all of them ValueErrors.
        raise AuthError("the certificate cannot be read") from None


def check(der: bytes, owner: str, published: Iterable[Certificate], *, serves: bool, now_s: float) -> None:
    """A presented certificate against the chain's valid ones of ``owner``; ``AuthError`` says what does not hold.

    It has to be byte for byte one of them, name its owner, be in its time and allow the use asked for.
    """
    if common_name(der) != owner:
        raise AuthError(f"the certificate is not {owner}'s: it names {common_name(der)!r}")
    if not any(entry.valid and entry.owner == owner and _der(entry.cert_pem) == der for entry in published):
        raise AuthError(f"the certificate is not among the valid ones that {owner} has on chain")
    subject, issuer, begin, end = _read(
        der, lambda c: (c.subject, c.issuer, c.not_valid_before_utc.timestamp(), c.not_valid_after_utc.timestamp())
    )
    if subject != issuer:
        raise AuthError("the certificate is not issued by its owner")
    if not begin <= now_s <= end:
        raise AuthError("the certificate is out of its time; its owner has to publish a new one")
    wanted = ExtendedKeyUsageOID.SERVER_AUTH if serves else ExtendedKeyUsageOID.CLIENT_AUTH
    if wanted not in _read(der, _uses):
        raise AuthError(f"the certificate is not for {'servers' if serves else 'clients'}")


def _uses(parsed: x509.Certificate) -> tuple[ObjectIdentifier, ...]:
    try:
        return tuple(parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return ()


def _der(pem: bytes) -> bytes | None:
    try:
        with warnings.catch_warnings(action="ignore"):
            return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    except Exception:
        return None  # what is on chain was written by anybody, too


def expires_s(pem: bytes) -> float:
    """When it ends, in seconds since 1970, so that its owner can renew it before; ``AuthError`` for no certificate."""
    try:
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
    except ValueError:
        raise AuthError("the certificate cannot be read") from None


def fingerprint(pem: bytes) -> str:
    """sha256 of the certificate's DER in hexadecimal, for logs and status."""
    return hashlib.sha256(_der(pem) or b"").hexdigest()
