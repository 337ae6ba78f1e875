"""The verbs of ``gpulease sdl`` as a person and a script meet them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from gpulease.errors import ConfigError
from gpulease.runtime.sdl_cli import app
from gpulease.units import Dec
from gpulease.workload.compile import compile_sdl, compile_services, compile_spec, sdl_reclamation_min_window_s
from gpulease.workload.sdl import compile_text
from gpulease.workload.sdl.convert import dump
from tests.fakes.sdl import changed, small
from tests.unit.test_manifest import HASHES

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "data" / "sdl"
LEASES = sorted((ROOT / "crds" / "samples").glob("gpulease-*.yaml"))
HIDDEN = "{name: a, image: b, resources: {cpu: 1, memory: 1Gi, storage: 1Gi}}"
SIMPLE = CASES / "valid" / "v2.0-simple" / "input.yaml"


def run(*arguments: str, stdin: bytes | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(("verb", "wanted"), [("groups", "group-specs.json"), ("manifest", "manifest.json")])
def test_the_json_of_a_case_is_printed_and_nothing_else(verb: str, wanted: str) -> None:
    for folder in sorted((CASES / "valid").iterdir()):
        code, out, err = run(verb, str(folder / "input.yaml"))
        assert (code, err) == (0, "")
        assert json.loads(out) == json.loads((folder / wanted).read_text())


def test_check_and_version_of_a_good_file() -> None:
    code, out, err = run("check", str(SIMPLE))
    assert (code, err) == (0, "")
    assert out == f"{SIMPLE} is a good SDL: 1 service with 0 GPUs at westcoast, version {HASHES['v2.0-simple']}\n"
    assert run("version", str(SIMPLE)) == (0, HASHES["v2.0-simple"] + "\n", "")


@pytest.mark.parametrize("verb", ["check", "groups", "manifest", "version", "convert"])
def test_a_bad_file_ends_with_2_and_file_line_reason(verb: str) -> None:
    for path in (*(CASES / "invalid").iterdir(), *(CASES / "schema-only-invalid").iterdir()):
        code, out, err = run(verb, str(path))
        assert (code, out) == (2, "")
        file, line, reason = err.split(":", 2)
        assert file == str(path)
        assert 1 <= int(line) <= len(path.read_text().splitlines())
        assert len(reason.strip()) > 20
        assert err.count("\n") == 1


def test_lenient_reads_what_only_the_schema_refuses() -> None:
    for path in (CASES / "schema-only-invalid").iterdir():
        assert run("check", "--lenient", str(path))[0] == 0


def test_files_that_are_none(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert run("check", str(missing))[::2] == (
        2,
        f"{missing}: cannot be read: No such file or directory; name a file or - for standard input\n",
    )
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"version: '2.0'\n# \xe9\n")
    assert run("check", str(latin))[::2] == (2, f"{latin}:2: this is not UTF-8; save the file as UTF-8\n")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * 300_000)
    assert run("check", str(large))[::2] == (2, f"{large}:1: the file has more than 262144 bytes; make it smaller\n")


def test_standard_input_is_a_file_too() -> None:
    assert run("version", "-", stdin=SIMPLE.read_bytes()) == (0, HASHES["v2.0-simple"] + "\n", "")
    assert run("check", "-", stdin=b"\xef\xbb\xbf" + SIMPLE.read_bytes())[0] == 0


@pytest.mark.parametrize("path", LEASES, ids=lambda path: path.stem)
def test_a_lease_becomes_an_sdl_and_the_same_lease_again(path: Path, tmp_path: Path) -> None:
    lease = yaml.safe_load(path.read_text())
    code, text, err = run("convert", str(path))
    assert (code, err) == (0, "")
    file = tmp_path / "sdl.yaml"
    file.write_text(text)
    assert run("check", str(file))[0] == 0
    code, again, err = run("convert", str(file), "--name", lease["metadata"]["name"], "--namespace", "team-a")
    assert (code, err) == (0, "")
    back = yaml.safe_load(again)
    assert back["metadata"] == lease["metadata"]
    spec, given = back["spec"], lease["spec"]
    assert spec.get("placement") == given.get("placement")
    assert spec.get("sdl") == given.get("sdl")
    ceiling = Dec.of(1000)
    assert compile_spec(spec, ceiling=ceiling) == compile_spec(given, ceiling=ceiling)
    if "services" in given:
        assert Dec.of(spec["maxUsdPerHour"]) == Dec.of(given["maxUsdPerHour"])


def test_an_sdl_that_says_more_than_services_can_is_kept_whole(tmp_path: Path) -> None:
    document = changed(small(), "services/web/params", {"permissions": {"read": ["logs"]}})
    text = "# with a note\n" + dump(document)
    file = tmp_path / "sdl.yaml"
    file.write_text(text)
    code, out, _ = run("convert", str(file), "--max-usd-per-hour", "3", "--budget-usd", "9")
    spec = yaml.safe_load(out)["spec"]
    assert code == 0
    assert (spec["sdl"], spec["maxUsdPerHour"], spec["budgetUsd"]) == (text, "3", "9")
    assert "services" not in spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: GPULease\n", "spec is missing"),
        ("kind: GPULease\nspec: {}\n", "spec lacks 'maxUsdPerHour'|spec.maxUsdPerHour"),
        ("kind: GPULease\nspec: {maxUsdPerHour: '1'}\n", "spec lacks 'services'"),
        ("kind: GPULease\nspec: {maxUsdPerHour: '1', services: [5]}\n", "not as the GPULease's schema wants it"),
        ("kind: GPULease\nspec: {maxUsdPerHour: '1', services: []}\n", "name at least one service"),
        ("kind: GPULease\nspec: {sdl: 'version: 1'}\n", "services is missing"),
        (f"kind: GPULease\nspec: {{maxUsdPerHour: '1', services: [{HIDDEN}]}}\n", "no service is reachable"),
    ],
)
def test_a_lease_that_cannot_be_converted_says_why(text: str, words: str) -> None:
    code, out, err = run("convert", "-", stdin=text.encode())
    assert (code, out) == (2, "")
    assert any(word in err for word in words.split("|"))


def test_prices_in_another_denomination_need_a_limit() -> None:
    document = changed(small(), "profiles/placement/here/pricing/web/denom", "uakt")
    code, _, err = run("convert", "-", stdin=dump(document).encode())
    assert code == 2
    assert "name a limit with --max-usd-per-hour" in err
    code, out, _ = run("convert", "-", "--max-usd-per-hour", "1", stdin=dump(document).encode())
    assert code == 0
    assert "services" in yaml.safe_load(out)["spec"]


# --- spec.sdl of a GPULease --------------------------------------------------------------------------------------


def test_an_sdl_of_a_lease_compiles_to_the_shape_of_its_services() -> None:
    text = dump(changed(small(), "reclamation", {"min_window": "90s"}))
    group, manifest = compile_sdl(text)
    whole = compile_text(text)
    assert ((group,), manifest) == (whole.groups, whole.manifest)
    assert group.resources[0].price.amount == Dec.of(100)
    assert compile_spec({"sdl": text}, ceiling=Dec.of(1)) == (group, manifest)
    assert sdl_reclamation_min_window_s(text) == 90
    assert sdl_reclamation_min_window_s(dump(small())) is None


def test_what_a_lease_cannot_take_of_an_sdl_is_refused_by_line() -> None:
    bad = changed(small(), "services/web/image", "")
    with pytest.raises(ConfigError, match=r"^spec.sdl line \d+: services.web.image"):
        compile_sdl(dump(bad))
    with pytest.raises(ConfigError, match=r"^spec.sdl line \d+: services.web.image"):
        sdl_reclamation_min_window_s(dump(bad))
    with pytest.raises(ConfigError, match="the price is in uakt, and a GPULease pays in uact"):
        compile_sdl(dump(changed(small(), "profiles/placement/here/pricing/web/denom", "uakt")))
    document = changed(small(), "profiles/placement/east", {"pricing": {"web": {"denom": "uact", "amount": 1}}})
    with pytest.raises(ConfigError, match="it has the placements east, here"):
        compile_sdl(dump(changed(document, "deployment/web/east", {"profile": "web", "count": 1})))


def test_a_spec_has_services_or_an_sdl() -> None:
    services = yaml.safe_load((ROOT / "docs" / "examples" / "lease.yaml").read_text())["spec"]["services"]
    for spec in ({}, {"services": services, "sdl": dump(small())}):
        with pytest.raises(ConfigError, match="one of services and sdl"):
            compile_spec(spec, ceiling=Dec.of(1))
    assert compile_spec({"services": services}, ceiling=Dec.of(1)) == compile_services(
        services, placement={}, ceiling=Dec.of(1)
    )
