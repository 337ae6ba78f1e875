"""The manifest's encoding and hash against recorded cases of the reference compiler; its checks, one case each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gpulease.errors import ManifestError
from gpulease.market.model import (
    Attribute,
    Endpoint,
    EndpointKind,
    GroupSpec,
    PlacementRequirements,
    ResourceUnit,
)
from gpulease.units import Dec, DecCoin
from gpulease.workload import manifest as mf
from gpulease.workload.compile import compile_services
from gpulease.workload.model import Manifest

pytestmark = pytest.mark.unit
CASES = Path(__file__).parent.parent / "data" / "sdl" / "valid"
HASHES = {
    "v2.0-placement": "4fb78efa60477b1859498b9d2d09bc1d55ec4cf5450da5560acc6d294da86b4e",
    "v2.0-simple": "8f8bac7161953993f3288189e3e76093a51d33f9cdff1c8242eb9ab506981737",
    "v2.0-gpu-basic": "b388e6d97d15c37fc87ba0e9a555250941f7e1a04be768984cfa829a9500be47",
    "v2.0-ip-endpoint": "aa2046c89e083b0fd7a6b7c47246a6bc5f53f254a5dacd3ac3ec5150e992560d",
    "v2.0-multiple-services": "27bca68b1c45773b3a9ee6b2d4938d48c784abe068d3e2c6ba143c5f79b209e0",
    "v2.0-persistent-storage": "b6fc0503f97fd6dbf581ed7fbb98e9a73dc7058318d5c714e43baf6e0eeb7ce3",
    "v2.0-port-ranges": "d776416f4651ce8279a63905135ec87e6cde1aa8413af735bebfb9adfdf294f2",
    "v2.1-credentials": "9b7070ebba84bcfe5f2cc00c53b2fc3a8fe6466fb688dc33c0eef5e0095c79ac",
    "v2.1-ip-endpoint": "94563c52dacf48f4a5a8f0413e7e479bc5273f4acd6c41c4c16405b78456fbfd",
}
SERVICES = [
    {
        "name": "web",
        "image": "localhost/demo:1",
        "env": [{"name": "MODE", "value": "<a&b>"}],
        "resources": {
            "cpu": "500m",
            "memory": "256Mi",
            "storage": "1Gi",
            "gpu": {"count": 1, "models": [{"model": "a100"}]},
        },
        "expose": [{"port": 8080, "as": 80, "global": True}, {"port": 22, "global": True}],
    }
]


@pytest.mark.parametrize("name", sorted(HASHES))
def test_recorded_manifests_hash_as_on_the_real_chain(name: str) -> None:
    raw = (CASES / name / "manifest.json").read_bytes()
    parsed = mf.parse(raw)
    mf.validate(parsed)
    assert mf.manifest_hash(parsed).hex() == HASHES[name]
    assert json.loads(mf.to_json(parsed)) == json.loads(raw)


def recorded_groups(name: str) -> list[GroupSpec]:
    """A unit's resources are spelled in group-specs.json as in the manifest."""
    return [
        GroupSpec(
            group["name"],
            PlacementRequirements(),
            tuple(
                ResourceUnit(mf._resources(u["resource"]), u["count"], DecCoin("uakt", Dec.of(u["price"]["amount"])))
                for u in group["resources"]
            ),
        )
        for group in json.loads((CASES / name / "group-specs.json").read_text())
    ]


@pytest.mark.parametrize("name", sorted(HASHES))
def test_recorded_manifests_fit_their_recorded_groups(name: str) -> None:
    parsed = mf.parse((CASES / name / "manifest.json").read_bytes())
    groups = recorded_groups(name)
    mf.cross_check(parsed, groups)
    for place, group in enumerate(groups):
        for number in range(len(group.resources)):
            for damaged in damages(group, number):
                with pytest.raises(ManifestError, match=r"^manifest cross-validation error: "):
                    mf.cross_check(parsed, [*groups[:place], damaged, *groups[place + 1 :]])


def damages(group: GroupSpec, number: int) -> list[GroupSpec]:
    """The group with one unit changed in one way each."""
    unit = group.resources[number]
    own = unit.resources
    changed = [
        replace(unit, count=unit.count + 1),
        replace(unit, resources=replace(own, id=own.id + 1000)),
        replace(unit, resources=replace(own, cpu_milli=own.cpu_milli + 1)),
        replace(unit, resources=replace(own, cpu_attributes=(Attribute("arch", "arm64"),))),
        replace(unit, resources=replace(own, memory_bytes=own.memory_bytes + 1)),
        replace(unit, resources=replace(own, gpu_units=own.gpu_units + 1)),
        replace(unit, resources=replace(own, gpu_attributes=(Attribute("vendor/amd/model/x", "true"),))),
        replace(unit, resources=replace(own, storage=())),
        replace(unit, resources=replace(own, endpoints=(*own.endpoints, Endpoint(EndpointKind.RANDOM_PORT)))),
    ]
    if own.endpoints:
        changed.append(replace(unit, resources=replace(own, endpoints=own.endpoints[1:])))
    return [replace(group, resources=(*group.resources[:number], u, *group.resources[number + 1 :])) for u in changed]


def compiled() -> tuple[Manifest, mf.GroupSpec]:
    spec, manifest = compile_services(SERVICES, placement={}, ceiling=Dec.of(700))
    return manifest, spec


def test_what_we_compile_passes_our_own_checks() -> None:
    manifest, spec = compiled()
    mf.validate(manifest)
    mf.cross_check(manifest, [spec])
    again = mf.parse(mf.to_json(manifest))
    assert again == manifest
    assert mf.manifest_hash(again) == mf.manifest_hash(manifest)
    assert spec.max_price.amount == Dec.of(700)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "Web"}, "service name 'Web'"),
        ({"image": ""}, "has empty image name"),
        ({"env": ("1X=2",)}, "invalid name '1X'"),
        ({"expose": ()}, "no service is reachable"),
    ],
)
def test_invalid_manifests_say_why(change: dict[str, object], words: str) -> None:
    manifest, _ = compiled()
    service = replace(manifest[0].services[0], **change)  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match=f"invalid manifest: .*{words}"):
        mf.validate((replace(manifest[0], services=(service,)),))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cpu_milli": 501}, "cpu differs"),
        ({"memory_bytes": 1}, "memory differs"),
        ({"gpu_units": 2}, "gpu differs"),
        ({"id": 9}, "resource id 9"),
    ],
)
def test_a_manifest_that_is_not_the_deployments_says_where(change: dict[str, int], words: str) -> None:
    manifest, spec = compiled()
    service = manifest[0].services[0]
    other = replace(service, resources=replace(service.resources, **change))  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match=f"manifest cross-validation error: .*{words}"):
        mf.cross_check((replace(manifest[0], services=(other,)),), [spec])


@pytest.mark.parametrize("raw", [b"", b"{}", b"[1]", b'[{"services":[{"resources":{}}]}]', b"[[]]", b'[{"name":1}]'])
def test_bodies_that_are_no_manifest_are_refused_with_a_sentence(raw: bytes) -> None:
    with pytest.raises(ManifestError):
        mf.validate(mf.parse(raw))
