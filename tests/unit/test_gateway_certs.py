"""Certificates: what is made is what the chain and the peers take; what differs by a byte is refused."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from gpulease.chain.keys import Key
from gpulease.errors import AuthError, ConfigError
from gpulease.gateway import certs, tls
from gpulease.market.model import Certificate

pytestmark = pytest.mark.unit

OWNER = Key(b"\x11" * 32).address
OTHER = Key(b"\x22" * 32).address
NOW_NS = 1_800_000_000 * 10**9
NOW_S = NOW_NS / 10**9 + 60
YEAR_S = 366 * 86400.0


def der(made: certs.MadeCertificate) -> bytes:
    return x509.load_pem_x509_certificate(made.cert_pem).public_bytes(serialization.Encoding.DER)


def published(made: certs.MadeCertificate, *, owner: str = OWNER, valid: bool = True) -> Certificate:
    return Certificate(owner, made.serial, valid, made.cert_pem, made.pubkey_pem)


MADE = certs.make(OWNER, hosts=("gpu.example.test", "10.0.0.1"), now_ns=NOW_NS)
CLIENT = certs.make(OWNER, now_ns=NOW_NS + 1)


def test_the_certificate_has_the_form_of_the_peers() -> None:
    parsed = x509.load_pem_x509_certificate(MADE.cert_pem)
    assert parsed.serial_number == NOW_NS == int(MADE.serial)
    assert parsed.subject == parsed.issuer
    assert [(a.oid.dotted_string, a.value) for a in parsed.subject] == [("2.5.4.3", OWNER), ("2.23.133.2.6", "v0.0.1")]
    names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gpu.example.test"]
    usage = parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    assert (parsed.not_valid_after_utc - parsed.not_valid_before_utc).days == 365
    assert MADE.pubkey_pem.startswith(b"-----BEGIN EC PUBLIC KEY-----\n")
    assert b"PRIVATE" not in repr(MADE).encode()


def test_a_published_certificate_is_believed() -> None:
    certs.check(der(MADE), OWNER, [published(MADE)], serves=True, now_s=NOW_S)
    certs.check(der(CLIENT), OWNER, [published(MADE), published(CLIENT)], serves=False, now_s=NOW_S)


@pytest.mark.parametrize(
    ("shown", "owner", "on_chain", "serves", "now_s", "words"),
    [
        (MADE, OTHER, [published(MADE, owner=OTHER)], True, NOW_S, "it names"),
        (MADE, OWNER, [], True, NOW_S, "not among the valid ones"),
        (MADE, OWNER, [published(CLIENT)], True, NOW_S, "not among the valid ones"),
        (MADE, OWNER, [published(MADE, valid=False)], True, NOW_S, "not among the valid ones"),
        (MADE, OWNER, [published(MADE, owner=OTHER)], True, NOW_S, "not among the valid ones"),
        (MADE, OWNER, [published(MADE)], True, NOW_S + YEAR_S, "out of its time"),
        (MADE, OWNER, [published(MADE)], True, NOW_S - 120, "out of its time"),
        (CLIENT, OWNER, [published(CLIENT)], True, NOW_S, "not for servers"),
    ],
)
def test_why_a_certificate_is_refused(
    shown: certs.MadeCertificate, owner: str, on_chain: list[Certificate], serves: bool, now_s: float, words: str
) -> None:
    with pytest.raises(AuthError, match=words):
        certs.check(der(shown), owner, on_chain, serves=serves, now_s=now_s)


def test_junk_is_refused_as_unreadable() -> None:
    for junk in (b"", b"\x30", b"-----BEGIN CERTIFICATE-----", der(MADE)[:-1]):
        with pytest.raises(AuthError):
            certs.check(junk, OWNER, [published(MADE)], serves=True, now_s=NOW_S)


def test_when_it_ends() -> None:
    assert certs.expires_s(MADE.cert_pem) == NOW_NS // 10**9 + 365 * 86400
    with pytest.raises(AuthError):
        certs.expires_s(b"junk")


def test_a_key_that_is_not_the_certificates_is_a_clear_problem() -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        tls.server_context(MADE.cert_pem, CLIENT.key_pem)
    tls.server_context(MADE.cert_pem, MADE.key_pem, client_anchors=[CLIENT.cert_pem, b"junk", "é".encode()])
