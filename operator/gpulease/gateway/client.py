"""The tenant's side: hand a manifest to a provider's gateway and ask how the lease does.

Streams (logs, events, shell) are in :mod:`gpulease.gateway.tenant`; both go through :class:`Caller`.

The server is believed when its certificate is byte for byte a valid one that the provider's own address has on chain,
or, failing that, when a public authority vouches for the host name that the provider wrote on chain.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from gpulease.chain.keys import Key
from gpulease.errors import AuthError, ConfigError, GatewayRefused, GatewayUnreachable, Unreachable
from gpulease.gateway import certs, jwt
from gpulease.gateway.certs import MadeCertificate
from gpulease.ids import LeaseId
from gpulease.market.model import Certificate

TOKEN_LIFE_S = 300
_CLOCK_SKEW_S = 30
"""Gateways grant no leeway: a token made by a clock slightly ahead would be refused as not valid yet."""
_MOST_ANSWER_BYTES = 4 << 20
_MOST_FRAME_BYTES = 1 << 20
_T = TypeVar("_T")
Certificates = Callable[[str], Awaitable[Sequence[Certificate]]]
"""The valid certificates of an owner, as :meth:`gpulease.chain.client.ChainClient.certificates` reads them."""


async def send_manifest(
    *,
    host_uri: str,
    provider: str,
    dseq: int,
    manifest: bytes,
    key: Key,
    certificates: Certificates,
    now_s: float,
    timeout_s: float = 30.0,
) -> None:
    """Accepted means kept by the provider, not running. ``GatewayRefused`` or ``GatewayUnreachable`` otherwise."""
    caller = Caller(host_uri, provider, key, certificates, now_s=now_s, timeout_s=timeout_s)
    await caller.call("PUT", f"/deployment/{dseq}/manifest", scope="send-manifest", body=manifest)


async def lease_status(
    *,
    host_uri: str,
    lease: LeaseId,
    key: Key,
    certificates: Certificates,
    now_s: float,
    timeout_s: float = 15.0,
) -> Mapping[str, Any]:
    """The body of the gateway reference's lease status; ``GatewayRefused`` 404 before the manifest is there."""
    caller = Caller(host_uri, lease.provider, key, certificates, now_s=now_s, timeout_s=timeout_s)
    raw = await caller.call("GET", f"{lease_path(lease)}/status", scope="status")
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise GatewayUnreachable(f"{host_uri} answered something that is not JSON") from error
    if not isinstance(body, dict):
        raise GatewayUnreachable(f"{host_uri} answered something that is not a lease status")
    return body


def lease_path(lease: LeaseId) -> str:
    return f"/lease/{lease.dseq}/{lease.gseq}/{lease.oseq}"


class Caller:
    """Calls to one provider's gateway by one tenant.

    With ``certificate`` (PEM files' contents, registered on chain) that is the proof, else a token per call.
    """

    def __init__(
        self,
        host_uri: str,
        provider: str,
        key: Key,
        certificates: Certificates,
        *,
        now_s: float,
        timeout_s: float,
        certificate: MadeCertificate | None = None,
    ) -> None:
        parts = urlsplit(host_uri)
        if parts.scheme != "https" or not parts.hostname:
            raise ConfigError(f"provider {provider} gives {host_uri!r} as its address, which is not an https URL")
        self._base = f"https://{parts.netloc}"
        self._host = parts.hostname
        self._provider = provider
        self._key = key
        self._certificates = certificates
        self._now_s = now_s
        self._timeout_s = timeout_s
        self._certificate = certificate

    def token(self, scope: str) -> str:
        """For this provider and this scope only, for a few minutes."""
        leases = {
            "access": "granular",
            "permissions": [{"provider": self._provider, "access": "scoped", "scope": [scope]}],
        }
        now_s = int(self._now_s)
        return jwt.issue(self._key, leases=leases, not_before_s=now_s - _CLOCK_SKEW_S, expires_s=now_s + TOKEN_LIFE_S)

    async def call(self, method: str, path: str, *, scope: str, body: bytes | None = None) -> bytes:
        """The body of a 200; anything else is an error with the gateway's text."""

        async def once(context: ssl.SSLContext) -> bytes:
            return await self._once(method, path, scope, body, context)

        async with self._deadline():
            return await self._trusted(once)

    @asynccontextmanager
    async def stream(self, path: str, *, scope: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A websocket; ``GatewayRefused`` when the gateway does not make one, with its code and text."""
        async with AsyncExitStack() as held:

            async def once(context: ssl.SSLContext) -> aiohttp.ClientWebSocketResponse:
                return await self._connected(path, scope, context, held)

            async with self._deadline():
                opened = await self._trusted(once)
            yield opened

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError:
            raise GatewayUnreachable(f"{self._base} did not answer within {self._timeout_s:.0f} s") from None
        except Unreachable as error:
            if isinstance(error, GatewayUnreachable):
                raise
            raise GatewayUnreachable(f"the certificates of {self._provider} cannot be read: {error}") from error

    async def _trusted(self, act: Callable[[ssl.SSLContext], Awaitable[_T]]) -> _T:
        """By the chain first; then, for a host name, by a public authority."""
        published = await self._certificates(self._provider)
        try:
            return await act(self._pinned(published))
        except _NotPublished as error:
            if _is_address(self._host) or self._certificate is not None:
                raise GatewayUnreachable(str(error)) from None
            pinned = error
        try:
            return await act(ssl.create_default_context())
        except GatewayUnreachable:
            raise GatewayUnreachable(f"{pinned}, and no public authority vouches for {self._host}") from None

    def _proof(self, scope: str) -> dict[str, str]:
        return {} if self._certificate is not None else {"Authorization": f"Bearer {self.token(scope)}"}

    def _server_name(self) -> str | None:
        """Under this name a gateway with a public certificate too shows the one on chain, and asks for ours."""
        return f"mtls.{self._host}" if self._certificate is not None and not _is_address(self._host) else None

    async def _once(self, method: str, path: str, scope: str, body: bytes | None, context: ssl.SSLContext) -> bytes:
        headers = {**self._proof(scope), "Content-Type": "application/json; charset=UTF-8"}
        try:
            async with (
                _session(context) as session,
                session.request(
                    method,
                    self._base + path,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    server_hostname=self._server_name(),
                ) as answer,
            ):
                raw = await _bounded(answer.content)
                if answer.status != 200:
                    raise GatewayRefused(answer.status, raw[:2000].decode("utf-8", "replace"))
                return raw
        except (aiohttp.ClientError, OSError) as error:
            raise self._fault(error) from error

    async def _connected(
        self, path: str, scope: str, context: ssl.SSLContext, held: AsyncExitStack
    ) -> aiohttp.ClientWebSocketResponse:
        try:
            session = await held.enter_async_context(_session(context))
            opened: aiohttp.ClientWebSocketResponse = await held.enter_async_context(
                session.ws_connect(
                    URL(self._base + path, encoded=True),
                    headers=self._proof(scope),
                    autoping=False,
                    max_msg_size=_MOST_FRAME_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
                    server_hostname=self._server_name(),
                )
            )
        except aiohttp.WSServerHandshakeError as error:
            raise GatewayRefused(error.status, _REFUSED.get(error.status, "")) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._fault(error) from error
        return opened

    def _fault(self, error: Exception) -> Exception:
        cause = _cause(error, _NotPublished)
        return cause if cause is not None else GatewayUnreachable(f"{self._base} cannot be reached: {error}")

    def _pinned(self, published: Sequence[Certificate]) -> ssl.SSLContext:
        provider, now_s = self._provider, self._now_s

        class Pinned(ssl.SSLObject):
            """Checks the peer before a byte of ours, the token above all, is sent."""

            def do_handshake(self) -> None:
                super().do_handshake()
                der = self.getpeercert(binary_form=True)
                try:
                    certs.check(der or b"", provider, published, serves=True, now_s=now_s)
                except AuthError as error:
                    raise _NotPublished(str(error)) from None

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.sslobject_class = Pinned
        if self._certificate is not None:
            certs.load(context, self._certificate)
        return context


_REFUSED = {
    400: "the gateway did not understand the question, or the token's claims do not hold",
    401: "the gateway does not let this account do that on this lease",
    404: "the gateway has no such route",
    503: "the gateway has too many streams or cannot reach its chain or cluster; try again in a moment",
}
"""The library keeps the code of a refused websocket and drops the text."""


def _session(context: ssl.SSLContext) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(ssl=context, force_close=True)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


class _NotPublished(ssl.SSLError):
    """The server's certificate is not the provider's on chain."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words

    def __str__(self) -> str:
        return self.words


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in content.iter_chunked(1 << 16):
        size += len(part)
        if size > _MOST_ANSWER_BYTES:
            raise GatewayUnreachable(f"the gateway's answer is larger than {_MOST_ANSWER_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _cause(error: BaseException | None, kind: type[_NotPublished]) -> _NotPublished | None:
    while error is not None:
        if isinstance(error, kind):
            return error
        inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
        error = inner if isinstance(inner, BaseException) and inner is not error else error.__cause__
    return None


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()
