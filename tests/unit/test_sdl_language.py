"""The SDL language rule by rule: what a change of a small SDL makes of the groups and the manifest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpulease.errors import SdlError
from gpulease.market.model import EndpointKind
from gpulease.workload import manifest as mf
from gpulease.workload.model import Credentials, HttpOptions, Service
from gpulease.workload.sdl import Compiled, compile_text
from gpulease.workload.sdl import quantities as q
from gpulease.workload.sdl.convert import dump
from tests.fakes.sdl import changed, compiled, small, with_service

pytestmark = pytest.mark.unit
HTTP, PORT, IP = EndpointKind.SHARED_HTTP, EndpointKind.RANDOM_PORT, EndpointKind.LEASED_IP
RESOURCES = "profiles/compute/web/resources"


def service(found: Compiled, name: str = "web") -> Service:
    return next(s for group in found.manifest for s in group.services if s.name == name)


def endpoints(found: Compiled, unit: int = 0) -> list[tuple[EndpointKind, int]]:
    return [(e.kind, e.sequence_number) for e in found.groups[0].resources[unit].resources.endpoints]


# --- amounts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "milli"),
    [
        ("100m", 100),
        ("1", 1000),
        (1, 1000),
        (0.5, 500),
        ("1.001", 1000),
        ("0.1", 100),
        (1e1, 10_000),
        ("384", 384_000),
    ],
)
def test_cpu_is_in_milli_cores_cut_off(written: Any, milli: int) -> None:
    assert service(compiled(changed(small(), f"{RESOURCES}/cpu/units", written))).resources.cpu_milli == milli


@pytest.mark.parametrize(
    ("written", "count_bytes"),
    [
        ("1Mi", 2**20),
        ("1.5Gi", 3 * 2**29),
        ("512M", 512 * 10**6),
        ("2000k", 2 * 10**6),
        ("1048577", 1048577),
        ("1T", 10**12),
        ("2Ti", 2**41),
        ("1e7", 10**7),
        ("0.1Gi", 107374182),
    ],
)
def test_sizes_take_binary_and_decimal_suffixes(written: str, count_bytes: int) -> None:
    assert (
        service(compiled(changed(small(), f"{RESOURCES}/memory/size", written))).resources.memory_bytes == count_bytes
    )


@pytest.mark.parametrize(
    "written", ["", "1K", "1GB", "1 Gi", "-1Gi", "Gi", "1_0Mi", "nan", "inf", "0x10", "1e400", "9" * 65]
)
def test_what_is_no_size_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="a size such as"):
        q.size_bytes(written)


@pytest.mark.parametrize("written", ["", "m", "1.5m", "-1", "1k", "1e999", "0x1", " 1"])
def test_what_is_no_cpu_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="CPU cores"):
        q.cpu_milli(written)


@pytest.mark.parametrize(
    ("written", "nanoseconds"),
    [
        ("24h", 86_400 * 10**9),
        ("1h30m", 5400 * 10**9),
        ("0.5s", 5 * 10**8),
        ("100us", 10**5),
        ("0", 0),
        ("-1s", -(10**9)),
    ],
)
def test_durations_are_those_of_the_peers_language(written: str, nanoseconds: int) -> None:
    assert q.duration_ns(written) == nanoseconds


@pytest.mark.parametrize("written", ["", "1", "h", "1d", "1h ", "1.s.", "999999999h", "1" * 65 + "s"])
def test_what_is_no_duration_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="a time such as"):
        q.duration_ns(written)


def test_prices_have_18_places() -> None:
    found = compiled(changed(small(), "profiles/placement/here/pricing/web/amount", "0.000000000000000001"))
    assert found.groups_json()[0]["resources"][0]["price"] == {"denom": "uact", "amount": "0.000000000000000001"}


# --- services ----------------------------------------------------------------------------------------------------


def test_unset_lists_are_null_and_empty_ones_are_not() -> None:
    document = changed(changed(small(), "services/web/env", []), "services/web/args", None)
    found = service(compiled(document))
    assert (found.env, found.args, found.command) == ((), None, None)
    assert b'"args":null,"command":null' in mf.to_json(compiled(document).manifest)
    assert b'"env":[]' in mf.to_json(compiled(document).manifest)


def test_an_expose_without_to_is_for_the_leases_own_services() -> None:
    found = compiled(changed(small(), "services/web/expose/1", {"port": 22, "as": 2222, "proto": "udp"}))
    exposes = [(e.port, e.external_port, e.protocol, e.is_global, e.service) for e in service(found).expose]
    assert exposes == [(22, 2222, "UDP", False, ""), (80, 0, "TCP", True, "")]
    assert endpoints(found) == [(HTTP, 0)]


def test_each_to_is_an_expose_sorted_by_service_port_protocol_and_global_first() -> None:
    rules = [
        {"port": 443, "to": [{"service": "db"}, {"global": True}]},
        {"port": 80, "proto": "UDP", "to": [{"global": True}]},
        {"port": 80, "as": 8080, "to": [{}, {"global": True}]},
    ]
    found = compiled(changed(small(), "services/web/expose", rules))
    exposes = [(e.service, e.port, e.protocol, e.is_global) for e in service(found).expose]
    assert exposes == [
        ("", 80, "TCP", True),
        ("", 80, "TCP", False),
        ("", 80, "UDP", True),
        ("", 443, "TCP", True),
        ("db", 443, "TCP", False),
    ]
    assert endpoints(found) == [(PORT, 0)] * 3


def test_hosts_go_to_each_to() -> None:
    rule = {"port": 80, "accept": ["a.example.com", "b.example.com"], "to": [{"global": True}]}
    assert service(compiled(changed(small(), "services/web/expose/0", rule))).expose[0].hosts == (
        "a.example.com",
        "b.example.com",
    )
    rule = {**rule, "to": [{"global": True}, {"service": "x"}]}
    with pytest.raises(SdlError, match=r"the host name a\.example\.com is used twice"):
        compiled(changed(small(), "services/web/expose/0", rule))


def test_http_options_take_the_peers_defaults_for_nothing_and_for_0() -> None:
    options = {"read_timeout": 0, "send_timeout": 5000, "max_body_size": 104857600, "next_tries": 7, "next_timeout": 9}
    found = service(compiled(changed(small(), "services/web/expose/0/http_options", options))).expose[0].http
    assert found == HttpOptions(104857600, 60000, 5000, 7, 9, ("error", "timeout"))
    off = {"next_cases": ["off"]}
    assert service(compiled(changed(small(), "services/web/expose/0/http_options", off))).expose[0].http.next_cases == (
        "off",
    )


def test_params_and_permissions() -> None:
    document = changed(small(), f"{RESOURCES}/storage", [{"size": "1Gi"}, {"name": "data", "size": "2Gi"}])
    params = {
        "storage": {"data": {"mount": "/d"}, "default": {"mount": "/e", "readOnly": True}},
        "permissions": {"read": ["logs"]},
    }
    found = compiled(changed(document, "services/web/params", params))
    assert json.loads(mf.to_json(found.manifest))[0]["services"][0]["params"] == {
        "storage": [
            {"name": "data", "mount": "/d", "readOnly": False},
            {"name": "default", "mount": "/e", "readOnly": True},
        ],
        "permissions": {"read": ["logs"]},
    }
    for written, wire in (({}, {"storage": None}), ({"permissions": {}}, {"storage": None, "permissions": {}})):
        found = compiled(changed(document, "services/web/params", written))
        assert json.loads(mf.to_json(found.manifest))[0]["services"][0]["params"] == wire


@pytest.mark.parametrize(
    ("version", "kept"),
    [
        ("2.0", Credentials(" r.example.com", "u ", " secret ", "")),
        ("2.1", Credentials("r.example.com", "u", "secret", "a@example.com")),
    ],
)
def test_credentials_lose_the_mail_in_2_0_and_spaces_in_2_1(version: str, kept: Credentials) -> None:
    login = {"host": " r.example.com", "username": "u ", "password": " secret ", "email": "a@example.com "}
    assert service(compiled(changed(small(version), "services/web/credentials", login))).credentials == kept


# --- storage and GPUs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "stored"),
    [
        ({"persistent": True, "class": "beta3"}, [("class", "beta3"), ("persistent", "true")]),
        ({"persistent": "yes", "class": "default"}, None),
        ({"persistent": False, "class": "ram"}, [("class", "ram"), ("persistent", "false")]),
        ({"persistent": False, "class": "beta1"}, None),
        ({"persistent": True, "class": "ram"}, None),
        ({"persistent": True, "class": "fast"}, None),
    ],
)
def test_storage_classes(attributes: dict[str, Any], stored: list[tuple[str, str]] | None) -> None:
    volume = {"name": "data", "size": "1Gi", "attributes": attributes}
    document = changed(small("2.1"), f"{RESOURCES}/storage", [volume])
    if stored is None:
        with pytest.raises(SdlError, match=r"persistent|class"):
            compiled(document)
        return
    found = service(compiled(document)).resources.storage[0]
    assert [(a.key, a.value) for a in found.attributes] == stored


@pytest.mark.parametrize(
    ("attributes", "stored"),
    [
        ({}, [("persistent", "false")]),
        ({"persistent": True}, [("class", "default"), ("persistent", "true")]),
        ({"persistent": "on"}, [("persistent", "true")]),
        ({"class": "ram"}, [("class", "ram"), ("persistent", "false")]),
        ({"persistent": "no", "class": "beta1"}, [("class", "beta1"), ("persistent", "false")]),
    ],
)
def test_without_the_schema_half_of_the_storage_attributes_is_enough(
    attributes: dict[str, Any], stored: list[tuple[str, str]]
) -> None:
    volume = {"name": "data", "size": "1Gi", "attributes": attributes}
    found = compiled(changed(small("2.1"), f"{RESOURCES}/storage", [volume]), lenient=True)
    assert [(a.key, a.value) for a in service(found).resources.storage[0].attributes] == stored


def test_volumes_go_by_size_then_attributes_and_equal_plain_ones_backwards() -> None:
    lasting = {"persistent": True, "class": "beta2"}
    written = [
        {"name": "z", "size": "2Gi", "attributes": lasting},
        {"name": "a", "size": "2Gi", "attributes": lasting},
        {"name": "r", "size": "2Gi", "attributes": {"persistent": False, "class": "ram"}},
        {"name": "one", "size": "2Gi"},
        {"name": "two", "size": "2Gi"},
        {"name": "small", "size": "1Gi"},
    ]
    found = compiled(changed(small("2.1"), f"{RESOURCES}/storage", written))
    assert [v.name for v in service(found).resources.storage] == ["small", "two", "one", "r", "a", "z"]


def test_a_single_volume_has_no_name_of_its_own() -> None:
    found = compiled(changed(small(), f"{RESOURCES}/storage", {"name": "data", "size": "1Gi"}))
    assert service(found).resources.storage[0].name == "default"


@pytest.mark.parametrize(
    ("nvidia", "keys"),
    [
        (None, ["vendor/nvidia/model/*"]),
        ([], ["vendor/nvidia/model/*"]),
        ([{"model": "*"}], ["vendor/nvidia/model/*"]),
        (
            [
                {"model": "h100", "ram": "80Gi", "interface": "sxm"},
                {"model": "a100", "ram": "81920Mi"},
                {"model": "a100"},
            ],
            [
                "vendor/nvidia/model/a100",
                "vendor/nvidia/model/a100/ram/80Gi",
                "vendor/nvidia/model/h100/ram/80Gi/interface/sxm",
            ],
        ),
        ([{"model": "t4", "interface": "pcie"}], ["vendor/nvidia/model/t4/interface/pcie"]),
    ],
)
def test_gpu_kinds_become_sorted_attributes(nvidia: Any, keys: list[str]) -> None:
    found = compiled(changed(small(), f"{RESOURCES}/gpu/attributes/vendor/nvidia", nvidia))
    assert [(a.key, a.value) for a in service(found).resources.gpu_attributes] == [(key, "true") for key in keys]


def test_cpu_architecture_is_an_attribute() -> None:
    found = service(compiled(changed(small(), f"{RESOURCES}/cpu/attributes", {"arch": "arm64"})))
    assert [(a.key, a.value) for a in found.resources.cpu_attributes] == [("arch", "arm64")]


# --- groups ------------------------------------------------------------------------------------------------------


def test_in_2_0_every_service_has_a_unit_of_its_own() -> None:
    found = compiled(with_service(small("2.0"), "api", to=[{"global": True}]))
    assert [(u.resources.id, u.count) for u in found.groups[0].resources] == [(1, 2), (2, 1)]
    assert (service(found, "api").resources.id, service(found).resources.id) == (1, 2)
    assert (endpoints(found, 0), endpoints(found, 1)) == ([(PORT, 0)], [(HTTP, 0)])


def test_in_2_1_services_of_one_profile_share_a_unit() -> None:
    found = compiled(with_service(small("2.1"), "api", to=[{"global": True}]))
    assert [(u.resources.id, u.count) for u in found.groups[0].resources] == [(1, 3)]
    assert [s.resources.id for s in found.manifest[0].services] == [1, 1]
    assert endpoints(found) == [(PORT, 0), (HTTP, 0)]
    assert [e.kind for e in service(found).resources.endpoints] == [HTTP]


def test_groups_are_the_placements_by_name_with_their_requirements() -> None:
    placement = {
        "attributes": {"zone": 7, "region": "us-west", "tier": True, "empty": None},
        "signedBy": {"anyOf": ["akash1x"], "allOf": []},
        "pricing": {"web": {"denom": "uact", "amount": "2.5"}},
    }
    document = changed(small(), "profiles/placement/east", placement)
    found = compiled(changed(document, "deployment/web/east", {"profile": "web", "count": 3}))
    assert [group.name for group in found.groups] == ["east", "here"]
    assert [group.name for group in found.manifest] == ["east", "here"]
    assert found.groups_json()[0]["requirements"] == {
        "signed_by": {"all_of": [], "any_of": ["akash1x"]},
        "attributes": [
            {"key": "empty", "value": ""},
            {"key": "region", "value": "us-west"},
            {"key": "tier", "value": "true"},
            {"key": "zone", "value": "7"},
        ],
    }
    assert found.groups_json()[1]["requirements"] == {"signed_by": {"all_of": None, "any_of": None}, "attributes": None}
    assert [group.resources[0].count for group in found.groups] == [3, 1]


def test_addresses_are_numbered_by_their_last_place_among_all_names_that_are_not_plainly_global() -> None:
    document = changed(small("2.1"), "endpoints", {"meow": {"kind": "ip"}, "aaa": {"kind": "ip"}})
    rules = [
        {"port": 80, "to": [{"global": True, "ip": "meow"}, {"service": "x"}, {"service": "y"}]},
        {"port": 81, "as": 81, "to": [{"global": True, "ip": "meow"}, {"global": True}]},
        {"port": 82, "to": [{"global": True, "ip": "aaa"}]},
    ]
    found = compiled(changed(document, "services/web/expose", rules))
    # "", "", aaa, meow, meow
    numbers = {(e.port, e.ip): e.endpoint_sequence_number for e in service(found).expose if e.is_global}
    assert numbers == {(80, "meow"): 5, (81, "meow"): 5, (81, ""): 0, (82, "aaa"): 3}
    assert endpoints(found) == [(HTTP, 0), (IP, 5), (PORT, 0), (IP, 5), (PORT, 0), (PORT, 0), (IP, 3)]


def test_shared_units_sort_endpoints_by_sequence_number() -> None:
    document = changed(small("2.1"), "endpoints", {"one": {"kind": "ip"}, "two": {"kind": "ip"}})
    document = changed(document, "services/web/expose/0/to/0", {"global": True, "ip": "one"})
    found = compiled(with_service(document, "api", to=[{"global": True, "ip": "two"}]))
    assert endpoints(found) == [(PORT, 0), (HTTP, 0), (IP, 1), (IP, 2)]


def test_reclamation_is_kept_in_both_versions() -> None:
    for version in ("2.0", "2.1"):
        document = changed(small(version), "reclamation", {"min_window": "24h"})
        assert compiled(document).reclamation_min_window_ns == 86_400 * 10**9
    assert compiled(small()).reclamation_min_window_ns is None


@pytest.mark.parametrize(
    ("version", "shares"),
    [("2.0", False), ("2", False), ("v2.0.0", False), ("2.1", True), ("2.2", True), ("3.0", True)],
)
def test_versions_that_are_read_without_the_schema(version: str, shares: bool) -> None:
    assert compiled(small(version), lenient=True).document.shares_units is shares


@pytest.mark.parametrize("version", ["1.9", "2.0.1", "2.1.0-rc1", "", "x", "2.1.", "2.0-rc1"])
def test_versions_that_are_not_read(version: str) -> None:
    with pytest.raises(SdlError, match="version"):
        compiled(small(version), lenient=True)


def test_version_may_stand_without_quotes() -> None:
    text = dump(small()).replace('"2.0"', "2.0")
    assert "version: 2.0\n" in text
    assert compile_text(text) == compile_text(dump(small()))


def test_anchors_and_merges_read_as_what_they_repeat() -> None:
    text = dump(with_service(small(), "api"))
    shared = text.replace("  web:\n    image:", "  web: &web\n    image:", 1)
    api = shared.index("  api:\n")
    shared = (
        shared[:api]
        + '  api:\n    <<: *web\n    image: "api:1"\n    expose: [{port: 9000, to: [{service: web}]}]\n'
        + shared[shared.index("profiles:") :]
    )
    assert "<<: *web" in shared
    assert compile_text(shared).manifest == compile_text(text).manifest
