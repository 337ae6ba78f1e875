"""Our services through an SDL and back change nothing; whatever else comes in is refused by SdlError or ManifestError.

The fuzzing draws a seed and makes many cases of it, so that 10,000 of them take seconds; the seed names them again.
"""

from __future__ import annotations

import copy
import gc
import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpulease.errors import ManifestError, SdlError
from gpulease.market.model import GroupSpec
from gpulease.units import Dec
from gpulease.workload import manifest as wire
from gpulease.workload.compile import compile_services
from gpulease.workload.model import Manifest
from gpulease.workload.sdl import Compiled, compile_text
from gpulease.workload.sdl.convert import to_sdl, to_spec
from tests.fakes.sdl import small

pytestmark = pytest.mark.property
CASES = Path(__file__).parents[1] / "data" / "sdl"
TEXTS = [path.read_text() for path in sorted(CASES.rglob("input.yaml"))]
FULL = yaml.safe_load((CASES / "every-key.yaml").read_text())
DOCUMENTS = [*(yaml.safe_load(text) for text in TEXTS), small(), small("2.1"), FULL]
MANIFESTS = [json.loads(path.read_text()) for path in sorted(CASES.rglob("manifest.json"))]


# --- services → SDL → groups -------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
ODD_WORDS = ["yes", "0x10", "0o17", "1_000", "~", "null", "<<", "=", "1e3", "-", "a: b", "#", "{", "*a", "&a", "!x"]
ODD_WORDS += [
    "\n",
    " x \n",
    "\n  x",
    "\ufeff",
    "a\tb",
    "12:30",
    "\x00",
    "\x85",
    "\u2028",
    "---",
    "%x",
    "x" * 200 + " y",
]
WORDS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(ODD_WORDS)
CPU = st.sampled_from(["500m", "10m", 384, 1, "1.5", "0.0125"]) | st.integers(10, 384_000).map("{}m".format)
SIZES = st.sampled_from(["1Gi", "5Mi", "1.5Gi", "100M", 5_242_881, "2Ti"]) | st.integers(5 << 20, 2 << 40)
MODELS = st.fixed_dictionaries(
    {"model": st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,6}[a-z0-9])?", fullmatch=True)},
    optional={"ram": st.integers(1, 999).map("{}Gi".format), "interface": st.sampled_from(["pcie", "sxm"])},
)
ENV = st.lists(
    st.fixed_dictionaries(
        {"name": st.from_regex(r"[-_a-zA-Z][-._a-zA-Z0-9]{0,6}", fullmatch=True)}, optional={"value": WORDS}
    ),
    max_size=4,
    unique_by=lambda entry: entry["name"],
)


LINES = st.lists(WORDS, max_size=3)
SHORT = st.from_regex(r"[a-z]{2,5}", fullmatch=True)


@st.composite
def exposes(draw: st.DrawFn, host: str) -> list[dict[str, Any]]:
    """External ports are drawn without repeats, as the GPULease's schema asks."""
    found = []
    for outside in draw(st.lists(st.sampled_from([80, 443, 8080, 9000, 65535]), max_size=3, unique=True)):
        entry: dict[str, Any] = {"port": draw(st.sampled_from([1, 80, 8080, outside]))}
        if entry["port"] != outside or draw(st.booleans()):
            entry["as"] = outside
        entry["global"] = draw(st.booleans())
        if draw(st.booleans()):
            entry["protocol"] = draw(st.sampled_from(["TCP", "UDP"]))
        if outside == 80 and entry["global"] and entry.get("protocol") != "UDP" and draw(st.booleans()):
            entry["hosts"] = [host]
        found.append(entry)
    return found


@st.composite
def leases(draw: st.DrawFn) -> dict[str, Any]:
    """``services`` and ``placement`` as a GPULease's schema takes them."""
    services: list[dict[str, Any]] = []
    for name in draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)):
        resources: dict[str, Any] = {"cpu": draw(CPU), "memory": draw(SIZES), "storage": draw(SIZES)}
        if draw(st.booleans()):
            resources["gpu"] = {"count": draw(st.integers(1, 8)), "models": draw(st.lists(MODELS, max_size=3))}
        service: dict[str, Any] = {
            "name": name,
            "image": f"{name}:1",
            "replicas": draw(st.integers(1, 3)),
            "resources": resources,
        }
        for key, values in (
            ("command", st.lists(WORDS, max_size=3)),
            ("args", st.lists(WORDS, max_size=3)),
            ("env", ENV),
        ):
            if draw(st.booleans()):
                service[key] = draw(values)
        service["expose"] = draw(exposes(f"{name}.example.com"))
        services.append(service)
    services[0]["expose"] = [{"port": 8080, "as": 80, "global": True}]
    services[0]["resources"].setdefault("gpu", {"count": 1})
    attributes = draw(
        st.dictionaries(
            st.from_regex(r"[a-z]{2,5}", fullmatch=True), st.from_regex(r"[a-z0-9]{1,5}", fullmatch=True), max_size=2
        )
    )
    return {"services": services, "placement": {"attributes": [{"key": k, "value": v} for k, v in attributes.items()]}}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(leases(), st.integers(12, 10**10))
def test_our_services_as_an_sdl_are_the_same_groups_and_services_again(lease: dict[str, Any], micro: int) -> None:
    ceiling = Dec(micro * 10**12)
    group, manifest = compile_services(lease["services"], placement=lease["placement"], ceiling=ceiling)
    text = to_sdl(group, manifest)
    compiled = compile_text(text)
    assert compiled.groups == (group,)
    assert compiled.manifest == manifest
    assert compiled == compile_text(text, lenient=True)
    assert to_sdl(compiled.groups[0], compiled.manifest) == text
    back = to_spec(compiled.groups, compiled.manifest, reclaims=False, text=text)
    assert compile_services(back["services"], placement=back.get("placement", {}), ceiling=ceiling) == (group, manifest)


# --- fuzzing -----------------------------------------------------------------------------------------------------

VALUES: list[Any] = [None, True, False, 0, 1, -1, 80, 65536, 2**32, 2**70, 1.5, 1e300, float("inf"), "", "a", "-", "0"]
VALUES += ["1", "-1", "1e9", "100m", "1Gi", "5K", "yes", "off", "true", "2.0", "2.1", "*", "..", "A=b", "tcp", "ip"]
VALUES += ["x", "ram", "beta2", "24h", "0s", "uact", "/x", "\u0661", "<&>\u2028", "a" * 70, "9" * 30]
VALUES += [[], {}, [None], [[]], [{}], {"": None}, {"size": "1Gi"}, {"global": True}, {"units": 1}, {"nvidia": None}]
KEYS = ["x", "", "units", "size", "attributes", "ip", "as", "to", "storage", "params", "credentials", "<<", "kind"]
SNIPPETS = ["&a ", "*a", "<<: *a", "!!str ", "!x ", "- ", "? ", "{", "[", "}", "]", ": ", "|\n", ">-\n", "'", '"', "#"]
SNIPPETS += ["%YAML 1.2\n", "---\n", "...\n", "\t", "\x00", "\ud800", "\ufeff", "\r\n", "@", "`", "0x", "e9"]
NOISE = [*SNIPPETS, "a", "b", " ", "\n", "web", "version: 2.0\n"]
CHARACTERS = "abz019 \n:-[]{}&*!|>'\"%@\\é\U0001f600"


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, entry in inner for p in places(entry, (*path, key)))]


def mutated(rnd: random.Random, body: Any) -> Any:
    """One to three places with something else in them, gone, doubled, or taken from another place."""
    body = copy.deepcopy(body)
    for _ in range(rnd.choice((1, 1, 2, 3))):
        path = rnd.choice(places(body))
        if not path:
            continue
        holder = body
        for key in path[:-1]:
            holder = holder[key]
        way = rnd.random()
        if way < 0.2:
            del holder[path[-1]]
        elif way < 0.4 and isinstance(holder, dict):
            holder[rnd.choice(KEYS)] = copy.deepcopy(rnd.choice(VALUES))
        elif way < 0.5 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[path[-1]]))
        elif way < 0.6:
            other = rnd.choice(places(body))
            found = body
            for key in other:
                found = found[key]
            holder[path[-1]] = copy.deepcopy(found)
        else:
            holder[path[-1]] = copy.deepcopy(rnd.choice(VALUES))
    return body


def scrambled(rnd: random.Random, text: str) -> str:
    """Lines and characters of a good text cut, doubled, moved and mixed with YAML's own marks."""
    for _ in range(rnd.choice((1, 2, 5))):
        at = rnd.randrange(len(text) + 1)
        way = rnd.random()
        if way < 0.4:
            text = text[:at] + rnd.choice(SNIPPETS) + text[at:]
        elif way < 0.6:
            text = text[:at] + text[at + rnd.randrange(1, 20) :]
        elif way < 0.8:
            lines = text.splitlines(keepends=True) or [""]
            number = rnd.randrange(len(lines))
            line = lines[number]
            lines[number] = rnd.choice((line * 2, "  " + line, line.lstrip(), rnd.choice(lines)))
            text = "".join(lines)
        else:
            text = (
                text[:at]
                + "".join(rnd.choices("abz019 \n:-[]{}&*!|>'\"%@\\é\U0001f600", k=rnd.randrange(1, 9)))
                + text[at:]
            )
    return text


def sdl_case(text: str, seen: Counter[str]) -> None:
    """Both ways of reading refuse by SdlError only; what is taken passes the provider's own checks."""
    found: dict[bool, Compiled] = {}
    for lenient in (False, True):
        try:
            found[lenient] = compile_text(text, lenient=lenient)
        except SdlError as error:
            told = error.line >= 1 and 10 < len(str(error)) < 1000 and "\n" not in str(error)
            seen["untold"] += 0 if told else 1
    for compiled in found.values():
        check(compiled.groups, compiled.manifest)
        assert json.loads(json.dumps(compiled.groups_json()))
    if False in found:
        # What the schema takes, the market's command line client reads the same.
        assert found[False] == found[True]
    seen["SDL taken" if found else "SDL refused"] += 1


def check(groups: tuple[GroupSpec, ...], manifest: Manifest) -> None:
    wire.validate(manifest)
    wire.cross_check(manifest, groups)
    assert wire.parse(wire.to_json(manifest)) == manifest


def manifest_case(raw: bytes, seen: Counter[str]) -> None:
    try:
        read = wire.parse(raw)
        assert wire.parse(wire.to_json(read)) == read
        wire.validate(read)
        seen["manifest taken"] += 1
    except ManifestError:
        seen["manifest refused"] += 1


def document_case(rnd: random.Random, seen: Counter[str]) -> None:
    sdl_case(json.dumps(mutated(rnd, rnd.choice(DOCUMENTS))), seen)


def text_case(rnd: random.Random, seen: Counter[str]) -> None:
    sdl_case(scrambled(rnd, rnd.choice(TEXTS)), seen)


def noise_case(rnd: random.Random, seen: Counter[str]) -> None:
    sdl_case("".join(rnd.choices(NOISE, k=rnd.randrange(30))), seen)


def manifest_body_case(rnd: random.Random, seen: Counter[str]) -> None:
    manifest_case(json.dumps(mutated(rnd, rnd.choice(MANIFESTS))).encode(), seen)


def manifest_bytes_case(rnd: random.Random, seen: Counter[str]) -> None:
    raw = bytearray(json.dumps(rnd.choice(MANIFESTS)).encode())
    for _ in range(rnd.choice((1, 2, 5))):
        raw[rnd.randrange(len(raw))] = rnd.randrange(256)
    manifest_case(bytes(raw[: rnd.choice((len(raw), rnd.randrange(len(raw))))]), seen)


FUZZ: list[tuple[Callable[[random.Random, Counter[str]], None], int]] = [
    (document_case, 3000),
    (text_case, 1500),
    (noise_case, 1000),
    (manifest_body_case, 3500),
    (manifest_bytes_case, 1500),
]
_PER_SEED = 50


@pytest.mark.parametrize(("case", "count"), FUZZ, ids=lambda value: getattr(value, "__name__", str(value)))
def test_whatever_comes_in_is_read_or_refused(
    case: Callable[[random.Random, Counter[str]], None], count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=count // _PER_SEED, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**64))
    def some(seed: int) -> None:
        rnd = random.Random(seed)
        for _ in range(_PER_SEED):
            case(rnd, seen)

    some()
    assert not seen.pop("untold", 0)
    with capsys.disabled():
        print(f"\n{case.__name__}: {sum(seen.values())} cases, {dict(sorted(seen.items()))}")
    assert sum(seen.values()) >= count
    assert len(seen) == 2 or case is noise_case


def test_there_are_ten_thousand_cases() -> None:
    assert sum(count for _, count in FUZZ) >= 10_000


def test_refusing_a_thousand_times_keeps_no_memory() -> None:
    def many(seed: int) -> None:
        rnd, seen = random.Random(seed), Counter[str]()
        for case, _ in FUZZ:
            for _ in range(20):
                case(rnd, seen)

    many(1)
    tracemalloc.start()
    try:
        many(2)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for seed in range(3, 6):
            many(seed)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 256 * 1024
