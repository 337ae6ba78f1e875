"""TLS of the gateway: 1.3, the certificate from the chain, client certificates of whoever has one on chain.

A tenant's certificate is its own authority, so there is nothing to chain it to: the handshake only has to prove that
the client holds its key, and :mod:`gpulease.gateway.guard` then holds it against the chain before a byte of the
client is read. Python's ``ssl`` has no setting for that, OpenSSL has (``SSL_CTX_set_cert_verify_callback``), so it is
called directly; it also is what lets in the certificates of the peer's command line, whose key usage OpenSSL's own
check refuses. Where OpenSSL cannot be called (linked in statically), the certificates of the tenants that hold leases
here are the trust anchors instead, renewed while it serves.
"""

from __future__ import annotations

import _ssl
import ctypes
import os
import ssl
import tempfile
from asyncio import sslproto
from collections.abc import Iterable, Sequence
from typing import Any

from gpulease.errors import ConfigError

_X509_V_OK = 0
_TLS_BUFFER_BYTES = 1 << 15


class _OpenSsl:
    """The one function of OpenSSL that is missing in ``ssl``."""

    def __init__(self) -> None:
        library = ctypes.CDLL(_ssl.__file__)
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        self._set_callback = library.SSL_CTX_set_cert_verify_callback
        self._set_callback.argtypes = [ctypes.c_void_p, kind, ctypes.c_void_p]
        self._set_callback.restype = None
        set_error = library.X509_STORE_CTX_set_error
        set_error.argtypes = [ctypes.c_void_p, ctypes.c_int]
        set_error.restype = None
        self._options = library.SSL_CTX_get_options
        self._options.argtypes = [ctypes.c_void_p]
        self._options.restype = ctypes.c_uint64

        def accept(store: int | None, _: int | None) -> int:
            set_error(store, _X509_V_OK)
            return 1

        self._accept = kind(accept)

    def accept_any_client(self, context: ssl.SSLContext) -> bool:
        """The first field of a Python context, after the object's head, is its ``SSL_CTX``."""
        pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
        if pointer is None or self._options(pointer) & 0xFFFFFFFF != context.options & 0xFFFFFFFF:
            return False
        self._set_callback(pointer, self._accept, None)
        return True


def _open_ssl() -> _OpenSsl | None:
    try:
        return _OpenSsl()
    except (OSError, AttributeError):
        return None


_OPEN_SSL = _open_ssl()
ANY_CLIENT = _OPEN_SSL is not None
"""Whether any client certificate passes the handshake, to be held against the chain right after it."""


def server_context(
    cert_pem: bytes,
    key_pem: bytes,
    *,
    client_anchors: Iterable[bytes] = (),
    alpn: Sequence[str] = (),
) -> ssl.SSLContext:
    """``ConfigError`` when the pair cannot be used; anchors that cannot be read are left out."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    if alpn:
        context.set_alpn_protocols(list(alpn))
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if _OPEN_SSL is None or not _OPEN_SSL.accept_any_client(context):
        _trust(context, client_anchors)
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


def _trust(context: ssl.SSLContext, anchors: Iterable[bytes]) -> None:
    for pem in anchors:
        try:
            context.load_verify_locations(cadata=pem.decode("ascii"))
        except (ssl.SSLError, ValueError):
            continue


def small_buffers() -> None:
    """Each TLS connection of asyncio holds a read buffer of 256 KiB; a record is 16 KiB, and followers are many."""
    sslproto.SSLProtocol.max_size = _TLS_BUFFER_BYTES


class TlsDoor:
    """One listening context whose certificates can be changed while it serves.

    Who asks for ``public_host`` by name gets the certificate of a public authority, if there is one; all others get the
    one that is on chain. Whether a client's certificate is asked for stays as the listening context has it.
    """

    def __init__(self, cert_pem: bytes, key_pem: bytes, *, public_host: str = "", alpn: Sequence[str] = ()) -> None:
        self._alpn = tuple(alpn)
        self._public: ssl.SSLContext | None = None
        self.current = server_context(cert_pem, key_pem, alpn=self._alpn)
        self.listening = server_context(cert_pem, key_pem, alpn=self._alpn)

        def choose(secured: Any, name: str | None, _context: ssl.SSLContext) -> None:
            asked_public = bool(public_host) and (name or "").lower() == public_host.lower()
            secured.context = self._public if asked_public and self._public is not None else self.current

        self.listening.sni_callback = choose

    def change(
        self,
        cert_pem: bytes,
        key_pem: bytes,
        *,
        client_anchors: Iterable[bytes] = (),
        public: tuple[bytes, bytes] | None = None,
    ) -> None:
        """For handshakes that begin from now on; ``ConfigError`` leaves all as it was."""
        anchors = tuple(client_anchors)
        current = server_context(cert_pem, key_pem, client_anchors=anchors, alpn=self._alpn)
        self._public = None if public is None else server_context(*public, client_anchors=anchors, alpn=self._alpn)
        self.current = current
