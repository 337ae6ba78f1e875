"""One HTTP call to the API server: deadline, retries and errors, and nothing of what is in the bodies.

The TLS, kubeconfig and token handling are the ``kubernetes`` package's (``kubernetes.aio``); its typed models are
not used: bodies stay JSON, which is what the rest of this operator reads and writes (ADR 0001).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client as kube_client
from kubernetes.aio import config as kube_config

from gpulease import __version__
from gpulease.errors import ConfigError, KubeConflict, KubeError, KubeNotFound, KubeUnreachable

_RETRIED_STATUS = frozenset({429, 500, 502, 503, 504})
_ASKED_TO_WAIT = frozenset({429, 503})
_MOST_STREAMS = 1024
_STREAM_BUFFER_BYTES = 1 << 15
_LONGEST_LINE_BYTES = 4 << 20
_MOST_FRAME_BYTES = 1 << 20
_CLOSE_WAIT_S = 2.0
_SERVICE_ACCOUNT_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """Limits of one call. ``deadline_s`` covers every attempt and the waits between them."""

    deadline_s: float = 15.0
    attempt_s: float = 8.0
    first_wait_s: float = 0.1
    longest_wait_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: the HTTP code and the body as it came."""

    status: int
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as an object; ``KubeUnreachable`` when it is none, for then a proxy answered."""
        try:
            parsed = json.loads(self.body)
        except ValueError as error:
            raise KubeUnreachable(f"the API server's answer is not JSON: {self.body[:120]!r}") from error
        if not isinstance(parsed, dict):
            raise KubeUnreachable(f"the API server's answer is not an object: {self.body[:120]!r}")
        return parsed


class Connect(Protocol):
    """Makes a configured client; called again after a 401, so that rotated credentials are read anew."""

    async def __call__(self) -> Any: ...


def connect_from(kubeconfig: str | None = None, context: str | None = None) -> Connect:
    """``kubeconfig`` or ``$KUBECONFIG``, else the pod's service account, else ``~/.kube/config``."""

    async def connect() -> Any:
        configuration = kube_client.Configuration()
        path = kubeconfig or os.environ.get("KUBECONFIG") or _default_kubeconfig()
        try:
            if path is None:
                kube_config.load_incluster_config(client_configuration=configuration)
            else:
                await kube_config.load_kube_config(
                    config_file=path,
                    context=context,
                    client_configuration=configuration,
                    persist_config=False,
                )
        except (kube_config.ConfigException, OSError) as error:
            raise ConfigError(
                f"no cluster to talk to: {error}; set KUBECONFIG to a kubeconfig file that works with kubectl"
            ) from error
        configuration.retries = None
        api = kube_client.ApiClient(configuration)
        api.user_agent = f"gpulease/{__version__}"
        return api

    return connect


class Transport:
    """Calls with deadlines and retries. ``calls_total`` counts attempts by (method, HTTP code; 0 for no answer)."""

    def __init__(
        self,
        connect: Connect,
        *,
        policy: CallPolicy | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._connect = connect
        self._policy = policy or CallPolicy()
        self._sleep = sleep
        self._jitter = jitter
        self._api: Any = None
        self._retired: Any = None
        self._streams: aiohttp.ClientSession | None = None
        self._retired_streams: aiohttp.ClientSession | None = None
        self._connecting = asyncio.Lock()
        self.calls_total: dict[tuple[str, int], int] = {}

    async def close(self) -> None:
        for api in (self._api, self._retired):
            if api is not None:
                await api.close()
        for session in (self._streams, self._retired_streams):
            if session is not None:
                await session.close()
        self._api = self._retired = None
        self._streams = self._retired_streams = None

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        what: str,
        repeatable: bool = True,
        deadline_s: float | None = None,
    ) -> Answer:
        """Send until an answer stands or the deadline passes.

        ``repeatable`` False (plain creates): a broken connection is not retried, for the write may have landed;
        429 and 503 still are. Raises ``KubeUnreachable`` (state unknown), ``KubeNotFound``, ``KubeConflict`` or
        ``KubeError``; ``what`` starts their sentence.
        """
        limit_s = self._policy.deadline_s if deadline_s is None else deadline_s
        last = "no answer"
        try:
            async with asyncio.timeout(limit_s):
                wait_s = self._policy.first_wait_s
                renewed = False
                while True:
                    try:
                        answer, retry_after_s = await self._once(method, path, query, body, content_type)
                    except (aiohttp.ClientError, OSError, TimeoutError) as error:
                        last = f"{type(error).__name__}: {error}".rstrip(": ")
                        if not repeatable:
                            raise KubeUnreachable(f"{what}: no answer from the API server ({last})") from error
                        retry_after_s = None
                    else:
                        if answer.status < 400:
                            return answer
                        if answer.status == 401 and not renewed:
                            renewed = True
                            await self._renew()
                            continue
                        if not self._may_retry(answer.status, repeatable):
                            raise _error(what, answer)
                        last = f"HTTP {answer.status}"
                    pause_s = min(retry_after_s if retry_after_s is not None else wait_s, self._policy.longest_wait_s)
                    wait_s = min(wait_s * 2, self._policy.longest_wait_s)
                    await self._sleep(pause_s * (0.75 + 0.5 * self._jitter()))
        except TimeoutError as error:
            raise KubeUnreachable(
                f"{what}: the API server gave no usable answer within {limit_s:g} s ({last})"
            ) from error

    async def lines(
        self,
        path: str,
        *,
        query: Mapping[str, Any],
        what: str,
        idle_s: float,
        longest_bytes: int = _LONGEST_LINE_BYTES,
        accept: str | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """A followed text stream line by line; ends with the stream, or with ``KubeUnreachable`` after a break.

        A line longer than ``longest_bytes`` comes in pieces. Streams have connections of their own, so that no
        number of them holds up a call.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._policy.attempt_s, sock_read=idle_s)
        try:
            response = await self._opened(path, query, timeout, accept)
            try:
                if response.status >= 400:
                    raise _error(what, Answer(response.status, await response.read()))
                async for line in _split(response.content, longest_bytes):
                    yield line
            finally:
                response.close()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise KubeUnreachable(f"{what}: the stream broke ({type(error).__name__}: {error})") from error

    async def _opened(
        self, path: str, query: Mapping[str, Any], timeout: aiohttp.ClientTimeout, accept: str | None
    ) -> aiohttp.ClientResponse:
        renewed = False
        while True:
            api = await self._client()
            arguments = await self._stream_arguments(api)
            if accept is not None:
                arguments["headers"]["Accept"] = accept
            session = await self._stream_session(api)
            response = await session.get(_url(api, path, query), timeout=timeout, **arguments)
            self._counted("GET", response.status)
            if response.status != 401 or renewed:
                return response
            renewed = True
            response.close()
            await self._renew()

    async def websocket(
        self, path: str, *, query: Mapping[str, Any], protocols: tuple[str, ...], what: str
    ) -> aiohttp.ClientWebSocketResponse:
        """An upgraded connection that speaks one of ``protocols``; a refusal is a ``KubeError`` with its code."""
        renewed = False
        while True:
            api = await self._client()
            arguments = await self._stream_arguments(api)
            session = await self._stream_session(api)
            try:
                async with asyncio.timeout(self._policy.attempt_s):
                    opened: aiohttp.ClientWebSocketResponse = await session.ws_connect(
                        _url(api, path, query),
                        protocols=protocols,
                        max_msg_size=_MOST_FRAME_BYTES,
                        timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_WAIT_S),
                        **arguments,
                    )
            except aiohttp.WSServerHandshakeError as error:
                self._counted("GET", error.status)
                if error.status == 401 and not renewed:
                    renewed = True
                    await self._renew()
                    continue
                raise _refused_upgrade(what, error.status) from None
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise KubeUnreachable(f"{what}: no connection ({type(error).__name__}: {error})") from error
            self._counted("GET", 101)
            if opened.protocol not in protocols:
                await opened.close()
                raise KubeError(400, "NoProtocol", f"{what}: the API server speaks none of {', '.join(protocols)}")
            return opened

    async def _stream_session(self, api: Any) -> aiohttp.ClientSession:
        """Small read buffers and many connections; the package's own session has it the other way round."""
        if self._streams is None:
            connector = aiohttp.TCPConnector(limit=_MOST_STREAMS, ssl=api.rest_client.ssl_context)
            self._streams = aiohttp.ClientSession(
                connector=connector,
                trust_env=True,
                read_bufsize=_STREAM_BUFFER_BYTES,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._streams

    async def _stream_arguments(self, api: Any) -> dict[str, Any]:
        """What the package would add to a call of its own: credentials, the server's name, a proxy."""
        found: dict[str, Any] = {"headers": await _headers(api)}
        if api.configuration.tls_server_name:
            found["server_hostname"] = api.configuration.tls_server_name
        if api.rest_client.proxy:
            found["proxy"] = api.rest_client.proxy
        return found

    def _counted(self, method: str, status: int) -> None:
        self.calls_total[method, status] = self.calls_total.get((method, status), 0) + 1

    def _may_retry(self, status: int, repeatable: bool) -> bool:
        return status in (_RETRIED_STATUS if repeatable else _ASKED_TO_WAIT)

    async def _client(self) -> Any:
        if self._api is None:
            async with self._connecting:
                if self._api is None:
                    self._api = await self._connect()
        return self._api

    async def _renew(self) -> None:
        """Read the credentials anew. The old connections stay for the calls under way on them."""
        async with self._connecting:
            fresh = await self._connect()
            if self._retired is not None:
                await self._retired.close()
            if self._retired_streams is not None:
                await self._retired_streams.close()
            self._retired, self._api = self._api, fresh
            self._retired_streams, self._streams = self._streams, None

    async def _once(
        self, method: str, path: str, query: Mapping[str, Any] | None, body: Any, content_type: str
    ) -> tuple[Answer, float | None]:
        api = await self._client()
        status = 0
        try:
            timeout = aiohttp.ClientTimeout(total=self._policy.attempt_s)
            response = await self._send(api, method, path, query or {}, body, content_type, timeout)
            answer = Answer(response.status, await response.read())
            status = answer.status
            return answer, _retry_after_s(response.headers.get("Retry-After"))
        finally:
            self._counted(method, status)

    async def _send(
        self,
        api: Any,
        method: str,
        path: str,
        query: Mapping[str, Any],
        body: Any,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        headers = {**await _headers(api), "Content-Type": content_type}
        url = _url(api, path, query)
        wrapped = await api.rest_client.request(method, url, headers=headers, body=body, _request_timeout=timeout)
        response: aiohttp.ClientResponse = wrapped.response
        return response


async def _headers(api: Any) -> dict[str, str]:
    headers = {"Accept": "application/json, */*", "User-Agent": str(api.user_agent)}
    for setting in (await api.configuration.auth_settings()).values():
        if setting["value"]:
            headers[setting["key"]] = setting["value"]
    return headers


def _url(api: Any, path: str, query: Mapping[str, Any]) -> str:
    """A list or tuple in ``query`` repeats its key; None leaves it out."""
    params: list[tuple[str, str]] = []
    for key, value in query.items():
        many = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
        params.extend((key, _text(entry)) for entry in many)
    return f"{api.configuration.host}{path}" + (f"?{urlencode(params)}" if params else "")


async def _split(content: aiohttp.StreamReader, longest_bytes: int) -> AsyncGenerator[bytes, None]:
    """Lines with their line end; the rest of the stream last, without one."""
    held = bytearray()
    async for chunk in content.iter_any():
        held += chunk
        begin = 0
        while (end := held.find(b"\n", begin)) >= 0 or len(held) - begin > longest_bytes:
            end = min(end + 1 or len(held), begin + longest_bytes)
            yield bytes(held[begin:end])
            begin = end
        del held[:begin]
    if held:
        yield bytes(held)


def _refused_upgrade(what: str, status: int) -> KubeError:
    """The client library keeps the code of a refused upgrade and drops its words."""
    kind = {404: KubeNotFound, 409: KubeConflict}.get(status, KubeError)
    return kind(status, "Refused", f"{what}: the API server refused with HTTP {status}")


def _default_kubeconfig() -> str | None:
    """None in a pod, where the service account is used."""
    return None if os.path.exists(_SERVICE_ACCOUNT_TOKEN) else os.path.expanduser("~/.kube/config")


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _retry_after_s(header: str | None) -> float | None:
    """Seconds; the API server never sends the date form."""
    return float(header) if header is not None and header.isdecimal() else None


def _error(what: str, answer: Answer) -> KubeError:
    status = answer.status
    reason = message = ""
    named = False
    try:
        parsed = json.loads(answer.body)
        reason = str(parsed.get("reason") or "")
        message = str(parsed.get("message") or "")
        named = bool((parsed.get("details") or {}).get("name"))
    except (ValueError, AttributeError):
        message = answer.body[:200].decode("utf-8", "replace")
    sentence = f"{what}: {message.strip() or f'HTTP {status}'}"
    if status == 404 and not named:
        # No object was looked for: the kind itself is not served, which says nothing about the object.
        return KubeError(status, "NotServed", f"{sentence}; the cluster does not serve this kind, apply the CRDs first")
    kind = {404: KubeNotFound, 409: KubeConflict}.get(status, KubeError)
    return kind(status, reason or "Unknown", sentence)
