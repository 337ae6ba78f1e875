"""Whatever strangers send is refused by its own error: no crash, and what is taken hashes and reads back the same."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import datetime
import json
import random
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from hypothesis import given, settings
from hypothesis import strategies as st

from gpulease.chain.keys import Key
from gpulease.errors import AuthError, GatewayRefused, GatewayUnreachable, ManifestError
from gpulease.gateway import certs, jwt, migrate, query, shell, tenant
from gpulease.gateway.app import Gateway, Identity, Limits
from gpulease.gateway.jwt import Claims
from gpulease.gateway.kubeevents import frame
from gpulease.kube import exec as kube_exec
from gpulease.market.model import Certificate
from gpulease.workload import manifest
from gpulease.workload.model import Manifest

pytestmark = pytest.mark.property
TRIED: Counter[str] = Counter()
PLANNED = {
    "manifests": 1000,
    "bytes": 300,
    "claims": 1000,
    "tokens": 300,
    "certificates": 300,
    "queries": 500,
    "frames": 300,
    "answers": 300,
    "events": 150,
    "noise on tokens": 2500,
    "noise on certificates": 2000,
    "noise on queries": 2000,
    "websockets": 200,
}
"""Cases by what is read; together more than ten thousand."""

FILES = sorted((Path(__file__).parents[1] / "data/sdl/valid").glob("*/manifest.json"))
MANIFESTS = [json.loads(path.read_text()) for path in FILES]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\ud800", "٣", "1e9", "-1", "9" * 25, "<&>\u2028", "a" * 70, "..", "A=b"])
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, entry in inner for p in places(entry, (*path, key)))]


def changed(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    body = copy.deepcopy(body)
    holder = body
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return body


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    body = draw(st.sampled_from(MANIFESTS))
    for _ in range(draw(st.integers(1, 3))):
        body = changed(body, draw(st.sampled_from(places(body))), draw(JSON))
    return body


@settings(max_examples=PLANNED["manifests"], deadline=None)
@given(mutated())
def test_a_changed_manifest_is_read_or_refused(body: Any) -> None:
    TRIED["manifests"] += 1
    try:
        read = manifest.parse(json.dumps(body).encode())
    except ManifestError:
        return
    encoded = manifest.to_json(read)
    assert manifest.parse(encoded) == read
    assert len(manifest.manifest_hash(read)) == 32
    assert refusal(read).startswith("invalid manifest: ")


def refusal(read: Manifest) -> str:
    try:
        manifest.validate(read)
    except ManifestError as error:
        return str(error)
    return "invalid manifest: no"


@settings(max_examples=PLANNED["bytes"], deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_bytes_are_read_or_refused(raw: bytes) -> None:
    TRIED["bytes"] += 1
    with contextlib.suppress(ManifestError):
        manifest.parse(raw)
    with contextlib.suppress(AuthError):
        certs.common_name(raw)


CLAIMS = {
    "iss": "akash1x",
    "iat": 1,
    "nbf": 1,
    "exp": 9,
    "version": "v1",
    "leases": {
        "access": "granular",
        "permissions": [
            {
                "provider": "akash12vfxp232rx0z9rzn0hay9jptagk8c86d70xnrp",
                "access": "granular",
                "deployments": [{"dseq": 1, "gseq": 1, "oseq": 1, "scope": ["logs"], "services": ["web"]}],
            }
        ],
    },
}


@settings(max_examples=PLANNED["claims"], deadline=None)
@given(st.sampled_from(places(CLAIMS)), JSON, st.sampled_from(["ES256K", "ES256KADR36"]))
def test_changed_claims_are_read_or_refused(path: tuple[Any, ...], value: Any, algorithm: str) -> None:
    TRIED["claims"] += 1
    body = changed(CLAIMS, path, value)
    parts = [jwt._part(json.dumps(part).encode()) for part in ({"alg": algorithm}, body)]
    try:
        token = jwt.read(".".join([*parts, "AAAA"]))
        assert not jwt.signed_by(token, b"\x02" + b"\x11" * 32)
        claims = jwt.claims(token, now_s=5)
    except AuthError:
        return
    assert claims.permit("akash12vfxp232rx0z9rzn0hay9jptagk8c86d70xnrp", "shell", 1, 1, 1) is None or value == "full"


@settings(max_examples=PLANNED["tokens"], deadline=None)
@given(st.text(max_size=200) | st.lists(st.text(max_size=30), min_size=3, max_size=3).map(".".join))
def test_text_is_no_token(text: str) -> None:
    TRIED["tokens"] += 1
    with pytest.raises(jwt.TokenInvalid):
        jwt.read(text)


# --- certificates ------------------------------------------------------------------------------------------------

OWNER = "akash12vfxp232rx0z9rzn0hay9jptagk8c86d70xnrp"


@cache
def published() -> tuple[certs.MadeCertificate, bytes]:
    made = certs.make(OWNER, hosts=("a.example",), now_ns=time.time_ns())
    return made, certs._der(made.cert_pem) or b""


@settings(max_examples=PLANNED["certificates"], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_a_changed_certificate_is_refused(changes: list[tuple[int, int]], cut: bool) -> None:
    TRIED["certificates"] += 1
    made, der = published()
    raw = bytearray(der)
    for place, value in changes:
        raw[place % len(raw)] = value
    if cut:
        del raw[changes[0][0] % len(raw) :]
    entry = Certificate(OWNER, made.serial, True, made.cert_pem, made.pubkey_pem)
    now_s = datetime.datetime.now(datetime.UTC).timestamp()
    try:
        certs.check(bytes(raw), OWNER, [entry], serves=False, now_s=now_s)
    except AuthError:
        assert bytes(raw) != der
    else:
        assert bytes(raw) == der


# --- queries, frames, answers ------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["follow", "tail", "service", "cmd0", "cmd1", "tty", "stdin", "podIndex", "=", "&", ";", "%", "+"]
)
TEXTS = st.lists(WORDS | st.text(max_size=4) | st.integers(-(2**70), 2**70).map(str), max_size=12).map("".join)


@settings(max_examples=PLANNED["queries"], deadline=None)
@given(TEXTS | st.text(max_size=80))
def test_a_query_is_read_or_refused(text: str) -> None:
    TRIED["queries"] += 1
    with contextlib.suppress(query.BadQuery):
        read = query.stream_query(text)
        assert read.tail_lines is None or 0 <= read.tail_lines < 2**31
    wanted = query.shell_query(text)
    assert wanted is None or (wanted.command and wanted.service and 0 <= wanted.pod_index < 2**31)
    with contextlib.suppress(query.BadQuery):
        assert 0 <= query.path_number(text, query.MOST_U64) <= query.MOST_U64
    asked = migrate.read(text.encode("utf-8", "surrogatepass"), "names")
    assert asked is None or not asked.names


class Heard:
    """A command that notes what reaches it."""

    def __init__(self) -> None:
        self.stdin = b""
        self.sizes: list[tuple[int, int]] = []

    async def read(self) -> Any:
        raise AssertionError

    async def write(self, data: bytes) -> None:
        self.stdin += data

    async def resize(self, width: int, height: int) -> None:
        self.sizes.append((width, height))

    async def close(self) -> None:
        raise AssertionError


FRAMES = st.tuples(st.sampled_from([104, 105, 100, 0, 255]), st.binary(max_size=20)).map(
    lambda pair: bytes([pair[0]]) + pair[1]
)


def driven(work: Any) -> Any:
    """Runs a coroutine that never waits."""
    with pytest.raises(StopIteration) as ended:
        work.send(None)
    return ended.value.value


@settings(max_examples=PLANNED["frames"], deadline=None)
@given(st.lists(FRAMES, max_size=6), st.booleans(), st.booleans())
def test_shell_frames_reach_the_command_until_one_makes_no_sense(frames: list[bytes], tty: bool, stdin: bool) -> None:
    TRIED["frames"] += 1
    heard, wanted = Heard(), query.ShellQuery(("sh",), "web", 0, tty, stdin)
    told, sizes = b"", []
    for raw in frames:
        sense = raw[0] == 104 or (raw[0] == 105 and len(raw) >= 5)
        assert driven(shell._pass_on(heard, wanted, raw)) is sense
        if not sense:
            break
        told += raw[1:] if raw[0] == 104 and stdin else b""
        sizes += [(raw[1] << 8 | raw[2], raw[3] << 8 | raw[4])] if raw[0] == 105 and tty else []
    assert (heard.stdin, heard.sizes) == (told, sizes)


@settings(max_examples=PLANNED["answers"], deadline=None)
@given(st.binary(max_size=60) | JSON.map(lambda v: json.dumps(v).encode()))
def test_what_a_gateway_or_an_api_server_says_is_read_or_refused(raw: bytes) -> None:
    TRIED["answers"] += 1
    with contextlib.suppress(GatewayRefused, GatewayUnreachable):
        assert isinstance(tenant._exit_code(raw), int)
    end = kube_exec._end(raw)
    assert end is None or end.code is None or isinstance(end.code, int)
    assert shell.ended(end or kube_exec.ExecEnd(None, "x"))[0] in (102, 103)


@settings(max_examples=PLANNED["events"], deadline=None)
@given(st.dictionaries(st.sampled_from(["type", "reason", "note", "reportingController", "regarding"]), st.text()))
def test_an_event_has_its_frame(body: dict[str, Any]) -> None:
    TRIED["events"] += 1
    body["regarding"] = {"kind": "Pod", "name": body.get("note", "")}
    assert json.loads(json.dumps(frame(body)))["object"]["name"] == body.get("note", "")


# --- seeded noise: cheap, so there is much of it ----------------------------------------------------------------


def spoilt(raw: bytes, source: random.Random) -> bytes:
    """A few bytes changed, left out or doubled."""
    made = bytearray(raw)
    for _ in range(source.randint(1, 3)):
        place = source.randrange(len(made))
        kind = source.randrange(3)
        if kind == 0:
            made[place] = source.randrange(256)
        elif kind == 1:
            del made[place : place + source.randint(1, 40)]
        else:
            made[place:place] = made[place : place + source.randint(1, 40)]
        if not made:
            return b"x"
    return bytes(made)


def test_noise_on_a_token_leaves_no_token() -> None:
    source, key = random.Random(1), Key(b"\x22" * 32)
    text = jwt.issue(key, leases={"access": "full"}, not_before_s=1, expires_s=9).encode()
    for _ in range(PLANNED["noise on tokens"]):
        TRIED["noise on tokens"] += 1
        raw = spoilt(text, source).decode("utf-8", "replace")
        with contextlib.suppress(AuthError):
            token = jwt.read(raw)
            assert (
                not jwt.signed_by(token, key.pubkey_bytes) or raw.encode() == text or unpadded_tail(raw, text.decode())
            )


def unpadded_tail(one: str, other: str) -> bool:
    """The last character of unpadded base64 has bits that mean nothing."""
    return one[:-1] == other[:-1]


def test_noise_on_a_certificate_leaves_no_certificate() -> None:
    source = random.Random(2)
    made, der = published()
    entry = Certificate(OWNER, made.serial, True, made.cert_pem, made.pubkey_pem)
    for _ in range(PLANNED["noise on certificates"]):
        TRIED["noise on certificates"] += 1
        raw = spoilt(der, source)
        if raw != der:
            with pytest.raises(AuthError):
                certs.check(raw, OWNER, [entry], serves=False, now_s=time.time())
        spoilt_pem = Certificate(OWNER, made.serial, True, spoilt(made.cert_pem, source), made.pubkey_pem)
        with contextlib.suppress(AuthError):
            certs.check(der, OWNER, [spoilt_pem], serves=False, now_s=time.time())


def test_noise_on_a_query_is_read_or_refused() -> None:
    source = random.Random(3)
    good = b"follow=true&tail=10&service=web,db&cmd0=sh&cmd1=-c&tty=1&stdin=1&podIndex=0x1"
    for _ in range(PLANNED["noise on queries"]):
        TRIED["noise on queries"] += 1
        text = spoilt(good, source).decode("latin-1")
        with contextlib.suppress(query.BadQuery):
            query.stream_query(text)
        wanted = query.shell_query(text)
        assert wanted is None or all(wanted.command)


# --- raw bytes after the upgrade ---------------------------------------------------------------------------------

HEAD = (
    "GET /lease/1/1/1/logs?follow=true HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def websocket_bytes(source: random.Random) -> bytes:
    """Frames that are nearly right: opcodes, lengths and masks of all kinds, and plain noise."""
    parts = []
    for _ in range(source.randint(1, 4)):
        size = source.choice([0, 1, 125, 126, 127])
        head = bytes([source.choice([0x81, 0x82, 0x88, 0x89, 0x8A, 0x01, 0x80, 0xF1, 0x83]), size | 0x80])
        parts.append(head + source.randbytes(source.randint(0, 20)))
    return b"".join(parts) if source.random() < 0.8 else source.randbytes(60)


async def test_noise_on_a_websocket_ends_that_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fakes.cluster import FakeCluster

    cluster = FakeCluster()
    gateway = Gateway(
        Identity(OWNER, "ns"),
        chain=None,
        cluster=cluster,
        now_s=time.time,
        limits=Limits(pods_age_s=0),  # type: ignore[arg-type]
    )

    async def known(*_: object) -> Claims:
        return Claims(OWNER)

    async def still(*_: object, **__: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(gateway.auth, "identify", known)
    monkeypatch.setattr("gpulease.gateway.logs.relay", still)
    source = random.Random(8)
    async with TestServer(gateway.app()) as server, aiohttp.ClientSession() as session:
        for _ in range(PLANNED["websockets"]):
            TRIED["websockets"] += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(HEAD.encode())
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            writer.write(websocket_bytes(source))
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 5)
            writer.close()
        async with session.get(server.make_url("/address")) as answer:
            assert (await answer.json())["address"] == OWNER
        async with asyncio.timeout(10):
            while gateway.streams.open_by_lease.total():
                await asyncio.sleep(0.01)
    assert not [reason for reason in gateway.streams.cut_total if reason.endswith("4000")]


def test_enough_cases_were_tried() -> None:
    """Runs last; with a selection of tests it counts what was selected."""
    for name, count in TRIED.items():
        assert count >= PLANNED[name] * 0.9, name
    total = sum(TRIED.values())
    print(f"gateway fuzz: {total} cases: {dict(TRIED)}")
    assert total >= 10_000 or TRIED.keys() != PLANNED.keys()
