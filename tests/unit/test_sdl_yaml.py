"""YAML from strangers: bombs, depth, size, double keys and odd tags are refused by both of PyYAML's readers."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest
import yaml

from gpulease.errors import SdlError
from gpulease.workload.sdl import compile_text, tree
from gpulease.workload.sdl.tree import Items, Node, Scalar, Table

pytestmark = pytest.mark.unit
CASES = sorted((Path(__file__).parent.parent / "data" / "sdl").rglob("*.yaml"))
CHAIN = "a: &a0 [x]\n" + "".join(f"k{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 60))
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture(params=["SafeLoader", "CSafeLoader"])
def _reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one in C is used where PyYAML was built with it; without it the other is, and both have to agree."""
    monkeypatch.setattr(tree, "_LOADER", getattr(yaml, request.param, yaml.SafeLoader))


def value(text: str) -> Node:
    found = tree.parse(text)
    assert found is not None
    return found


@pytest.mark.usefixtures("_reader")
@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (LAUGHS, 5, "more than 20000 values, aliases counted"),
        ("a: &a [*a]\n", 1, "inside of its own anchor"),
        ("a: &a {b: *a}\n", 1, "inside of its own anchor"),
        ("a: *b\n", 1, r"names no anchor|undefined alias"),
        ("x: 1\n" + "[" * 5000, 2, "nested more than 32 deep|this is not YAML"),
        ("- " * 40 + "x", 1, "nested more than 32 deep"),
        ("".join(f"{'  ' * i}k:\n" for i in range(40)), 33, "nested more than 32 deep"),
        (
            "a: &a0 [x]\n" + "".join(f"k{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 60)),
            32,
            "aliases nest this more than 32",
        ),
        ("".join(f"k{i}: &a{i} x\n" for i in range(300)), 257, "more than 256 anchors"),
        ("a: 1\nb: 2\na: 3\n", 3, "stands here twice, first in line 1"),
        ("a: !!python/object/apply:os.system [x]\n", 1, "the tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("a: !secret x\n", 1, "the tag '!secret'"),
        ("a: !!int x\n", 1, "is not a value of type int"),
        ("? [a]\n: b\n", 1, "a key must be a word"),
        ("a: b\n<<: [1]\n", 2, "<< merges mappings only"),
        ("a: 'x\n", 2, "this is not YAML"),
        ("a:\tb\n\tc: d\n", 2, "this is not YAML"),
        ("a: \x00\n", 1, "this is not YAML"),
        ("%YAML " + "9" * 5000 + ".1\n---\na: 1\n", 1, "this is not YAML"),
        ('a: "\\UFFFFFFFF"\n', 1, "this is not YAML"),
        ("a: \ud800\n", 1, "half a character"),
        ("x" * (tree.MAX_BYTES + 1), 1, "keep it within 262144"),
    ],
    ids=lambda value: str(value)[:24].encode("unicode_escape").decode(),
)
def test_what_is_no_decent_yaml_is_refused_at_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(SdlError, match=words) as refused:
        tree.parse(text)
    if "not YAML" not in str(refused.value):
        assert refused.value.line == line
    assert len(str(refused.value)) < 300


def test_hostile_documents_cost_little_memory() -> None:
    tracemalloc.start()
    try:
        for text in (LAUGHS, "[" * 200_000, "- x\n" * 60_000, "a: &a [*a]\n", "? " * 100_000, "{a: " * 60_000):
            with pytest.raises(SdlError):
                compile_text(text)
        grown, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 2**20
    assert peak < 32 * 2**20


@pytest.mark.parametrize("unit", ["a", "-", "a-", "0", "_", "*", "a b ", "a.", "/"], ids=repr)
def test_no_pattern_takes_long_for_a_long_text(unit: str) -> None:
    """Every field that a pattern looks at, filled with what makes careless patterns go back and forth."""
    long = (unit * 10_000)[:10_000] + "!"
    text = f"""version: "2.1"
services:
  web:
    image: x
    env: ["{long}=1"]
    expose: [{{port: 80, accept: ["{long}"], to: [{{global: true}}]}}]
profiles:
  compute:
    web:
      resources:
        cpu: {{units: "{long}"}}
        memory: {{size: "{long}"}}
        storage: {{size: "{long}"}}
        gpu: {{units: 1, attributes: {{vendor: {{nvidia: [{{model: "{long}", ram: "{long}"}}]}}}}}}
  placement:
    here: {{pricing: {{web: {{denom: "{long}", amount: "{long}"}}}}}}
deployment: {{web: {{here: {{profile: web, count: 1}}}}}}
endpoints: {{"{long}": {{kind: ip}}}}
reclamation: {{min_window: "{long}"}}
"""
    good = {
        f'units: "{long}"': "units: 1",
        f'size: "{long}"': "size: 1Gi",
        f'ram: "{long}"': "ram: 80Gi",
        f'denom: "{long}"': "denom: uact",
        f'amount: "{long}"': "amount: 1",
        f'model: "{long}"': "model: a100",
        f'min_window: "{long}"': "min_window: 1h",
        f'"{long}": {{kind: ip}}': "",
    }
    began = time.process_time()
    refusals = 0
    for lenient in (False, True):
        for keep in good:
            mended = text
            for bad, instead in good.items():
                mended = mended.replace(bad, instead) if bad != keep else mended
            with pytest.raises(SdlError):
                compile_text(mended, lenient=lenient)
            refusals += 1
    assert refusals == 2 * len(good)
    # A pattern that goes back and forth takes minutes for 10,000 characters; this takes a fraction of a second.
    assert time.process_time() - began < 20


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_both_readers_see_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for loader in (yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        monkeypatch.setattr(tree, "_LOADER", loader)
        found.append(tree.parse(path.read_text()))
    assert found[0] == found[1]


@pytest.mark.usefixtures("_reader")
@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("yes", "str"),
        ("on", "str"),
        ("true", "bool"),
        ("TRUE", "bool"),
        ("tRue", "str"),
        ("~", "null"),
        ("", "null"),
        ("null", "null"),
        ("80", "int"),
        ("0x50", "int"),
        ("1_000", "int"),
        ("0o17", "int"),
        ("80.0", "float"),
        ("1e3", "float"),
        (".5", "float"),
        (".inf", "float"),
        ("1.2.3", "str"),
        ("2001-01-01", "str"),
        ("12:30:45", "str"),
        ("'80'", "str"),
        ("! 80", "str"),
        ("!!str 80", "str"),
        ("!!float 80", "float"),
        ("1" * 65, "str"),
    ],
)
def test_plain_scalars_are_of_the_kind_the_peer_takes_them_for(written: str, kind: str) -> None:
    found = value(f"a: {written}\n")
    assert isinstance(found, Table)
    entry = found.entries["a"]
    assert isinstance(entry, Scalar)
    assert entry.kind == kind


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("80", 80),
        ("-8", -8),
        ("+8", 8),
        ("0x50", 80),
        ("0o17", 15),
        ("017", 15),
        ("08", 8),
        ("0b101", 5),
        ("-0x1_0", -16),
    ],
)
def test_whole_numbers_are_read_as_the_peer_reads_them(written: str, number: int) -> None:
    found = value(written)
    assert isinstance(found, Scalar)
    assert (found.kind, tree.integer(found)) == ("int", number)


@pytest.mark.usefixtures("_reader")
def test_only_the_first_document_counts() -> None:
    found = value("# first\n---\na: 1\n---\nb: [\n")
    assert isinstance(found, Table)
    assert list(found.entries) == ["a"]
    assert tree.parse("") is None
    assert tree.parse("# nothing\n") is None


def test_merged_keys_do_not_replace_own_ones() -> None:
    found = value("base: &b {x: 1, y: 2}\nother: &o {y: 3, z: 4}\nall: {<<: [*b, *o], x: 9}\n")
    assert isinstance(found, Table)
    merged = found.entries["all"]
    assert tree.plain(merged) == {"x": 9, "y": 2, "z": 4}
    assert isinstance(merged, Table)
    assert (merged.line_of("x"), merged.line_of("z"), merged.line_of("none")) == (3, 2, 3)


def test_a_tree_becomes_plain_values() -> None:
    found = value("a: [1, true, null, x, 1.5]\nb: {}\n")
    assert tree.plain(found) == {"a": [1, True, None, "x", "1.5"], "b": {}}
    assert isinstance(found, Table)
    assert isinstance(found.entries["a"], Items)


@pytest.mark.parametrize("text", ["", "x", "- version", "null", "version", "5"])
def test_what_is_no_mapping_is_no_sdl(text: str) -> None:
    for lenient in (False, True):
        with pytest.raises(SdlError, match="mapping"):
            compile_text(text, lenient=lenient)


def test_a_document_may_not_grow_into_what_nobody_can_run() -> None:
    """Every service at every placement, with every port: small to write, large to build."""
    exposes = ", ".join(f"{{port: {port}, to: [{{global: true}}]}}" for port in range(1, 900))
    placements = [f"p{number}" for number in range(250)]
    text = (
        f'version: "2.0"\nservices: {{web: {{image: x, expose: [{exposes}]}}}}\nprofiles:\n'
        "  compute: {w: {resources: {cpu: {units: 1}, memory: {size: 1Gi}, storage: {size: 1Gi}}}}\n  placement:\n"
        + "".join(f"    {name}: {{pricing: {{w: {{denom: uact, amount: 1}}}}}}\n" for name in placements)
        + "deployment: {web: {"
        + ", ".join(f"{name}: {{profile: w, count: 1}}" for name in placements)
        + "}}\n"
    )
    with pytest.raises(SdlError, match="this deployment is too large"):
        compile_text(text)
