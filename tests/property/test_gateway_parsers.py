"""Whatever strangers send is refused by its own error: no crash, and what is taken hashes and reads back the same."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpulease.errors import AuthError, ManifestError
from gpulease.gateway import certs, jwt
from gpulease.workload import manifest
from gpulease.workload.model import Manifest

pytestmark = pytest.mark.property

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


@settings(max_examples=1500, deadline=None)
@given(mutated())
def test_a_changed_manifest_is_read_or_refused(body: Any) -> None:
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


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_bytes_are_read_or_refused(raw: bytes) -> None:
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


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(places(CLAIMS)), JSON, st.sampled_from(["ES256K", "ES256KADR36"]))
def test_changed_claims_are_read_or_refused(path: tuple[Any, ...], value: Any, algorithm: str) -> None:
    body = changed(CLAIMS, path, value)
    parts = [jwt._part(json.dumps(part).encode()) for part in ({"alg": algorithm}, body)]
    try:
        token = jwt.read(".".join([*parts, "AAAA"]))
        assert not jwt.signed_by(token, b"\x02" + b"\x11" * 32)
        claims = jwt.claims(token, now_s=5)
    except AuthError:
        return
    assert claims.permit("akash12vfxp232rx0z9rzn0hay9jptagk8c86d70xnrp", "shell", 1, 1, 1) is None or value == "full"


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=200) | st.lists(st.text(max_size=30), min_size=3, max_size=3).map(".".join))
def test_text_is_no_token(text: str) -> None:
    with pytest.raises(jwt.TokenInvalid):
        jwt.read(text)
