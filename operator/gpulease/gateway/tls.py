"""TLS of the gateway: 1.3, the certificate from the chain, client certificates of known tenants.

OpenSSL as Python exposes it cannot take a self-signed client certificate that it has not been told of. So the valid
certificates of the tenants that hold leases here are its trust anchors, renewed while it serves; any other client
certificate ends the handshake, as at the peer. Every request is then checked against the chain again
(:mod:`gpulease.gateway.auth`).
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterable

from gpulease.errors import ConfigError


def server_context(cert_pem: bytes, key_pem: bytes, *, client_anchors: Iterable[bytes] = ()) -> ssl.SSLContext:
    """``ConfigError`` when the pair cannot be used; anchors that cannot be read are left out."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    for pem in client_anchors:
        try:
            context.load_verify_locations(cadata=pem.decode("ascii"))
        except (ssl.SSLError, ValueError):
            continue
    # The ssl module reads keys from files only; this one is gone before the call returns.
    with tempfile.TemporaryDirectory(prefix="gpulease-tls-") as folder:
        paths = [os.path.join(folder, name) for name in ("tls.crt", "tls.key")]
        for path, content in zip(paths, (cert_pem, key_pem), strict=True):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                stream.write(content)
        try:
            context.load_cert_chain(*paths)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(f"the gateway's certificate and key cannot be used: {error}") from None
    return context


class TlsDoor:
    """One listening context whose certificate and anchors can be changed while it serves."""

    def __init__(self, current: ssl.SSLContext, *, listening: ssl.SSLContext) -> None:
        self.current = current
        self.listening = listening

        def choose(secured: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            secured.context = self.current

        self.listening.sni_callback = choose

    @classmethod
    def open(cls, cert_pem: bytes, key_pem: bytes) -> TlsDoor:
        return cls(server_context(cert_pem, key_pem), listening=server_context(cert_pem, key_pem))

    def change(self, cert_pem: bytes, key_pem: bytes, *, client_anchors: Iterable[bytes] = ()) -> None:
        """For handshakes that begin from now on; ``ConfigError`` leaves all as it was."""
        self.current = server_context(cert_pem, key_pem, client_anchors=client_anchors)
