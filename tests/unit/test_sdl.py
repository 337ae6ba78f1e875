"""SDL against the protocol's own cases: what they give, and that the bad ones are refused with line and sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpulease.chain import codec
from gpulease.devnet import validate
from gpulease.errors import SdlError
from gpulease.ids import DeploymentId
from gpulease.units import Coin
from gpulease.workload import manifest as mf
from gpulease.workload.sdl import compile_text
from tests.unit.test_manifest import HASHES

pytestmark = pytest.mark.unit
CASES = Path(__file__).parent.parent / "data" / "sdl"
# Where the fault stands, or for what is missing, where its holder begins.
LINES = {
    "count-zero": 32,
    "credentials-missing-host": 8,
    "endpoint-not-used": 33,
    "invalid-endpoint-name": 5,
    "invalid-protocol": 10,
    "ip-without-global": 14,
    "missing-image": 6,
    "missing-memory-size": 19,
    "missing-version": 3,
    "negative-cpu": 16,
    "port-too-high": 8,
    "port-zero": 8,
    "unknown-field": 4,
    "v2.1-reclamation-bad-window": 36,
    "email-too-short": 11,
    "invalid-denom": 26,
    "invalid-gpu-vendor": 26,
    "invalid-version": 3,
}


def _case(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("name", sorted(path.name for path in (CASES / "valid").iterdir()))
def test_a_recorded_sdl_gives_the_recorded_groups_manifest_and_version(name: str) -> None:
    folder = CASES / "valid" / name
    compiled = compile_text((folder / "input.yaml").read_text())
    assert compiled.groups_json() == json.loads((folder / "group-specs.json").read_text())
    assert json.loads(mf.to_json(compiled.manifest)) == json.loads((folder / "manifest.json").read_text())
    assert compiled.version.hex() == HASHES[name]
    assert compiled == compile_text((folder / "input.yaml").read_text(), lenient=True)


@pytest.mark.parametrize("path", sorted((CASES / "invalid").iterdir()), ids=lambda path: path.stem)
def test_an_invalid_sdl_is_refused_at_its_line_with_and_without_the_schema(path: Path) -> None:
    with pytest.raises(SdlError, match=r"; |must be|needs") as refused:
        compile_text(path.read_text())
    assert refused.value.line == LINES[path.stem]
    with pytest.raises(SdlError):
        compile_text(path.read_text(), lenient=True)


@pytest.mark.parametrize("path", sorted((CASES / "schema-only-invalid").iterdir()), ids=lambda path: path.stem)
def test_the_schema_layer_alone_refuses_what_only_the_schema_forbids(path: Path) -> None:
    with pytest.raises(SdlError) as refused:
        compile_text(path.read_text())
    assert refused.value.line == LINES[path.stem]
    assert compile_text(path.read_text(), lenient=True).groups


@pytest.mark.parametrize("path", [*sorted(CASES.glob("valid/*/input.yaml")), CASES / "every-key.yaml"], ids=_case)
def test_the_chain_takes_the_groups_and_gives_them_back(path: Path) -> None:
    compiled = compile_text(path.read_text())
    assert tuple(codec.group_spec(codec.pb_group_spec(group)) for group in compiled.groups) == compiled.groups
    denom = compiled.groups[0].max_price.denom
    owner = DeploymentId("akash1365yvmc4s7awdyj3n2sav7xfx76adc6dnmlx63", 1)
    message = codec.create_deployment(owner, compiled.groups, hash_=compiled.version, deposit=Coin(denom, 500_000))
    if denom == "uact":
        validate.check(message)
    assert bytes(message.hash) == compiled.version
