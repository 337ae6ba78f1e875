"""What breaks a rule of the SDL language is refused where it stands, in words that say what to write."""

from __future__ import annotations

from typing import Any

import pytest

from gpulease.errors import SdlError
from tests.fakes.sdl import DELETE, changed, compiled, small, with_service

pytestmark = pytest.mark.unit
RESOURCES = "profiles/compute/web/resources"
PRICE = "profiles/placement/here/pricing"
REFUSED = [
    ("services/web/image", "", "image"),
    ("services/web/unknown", 1, "'unknown' in services.web is not known"),
    ("services/web/env", ["1X=2"], "no name of a variable"),
    ("services/web/env", ["..=2"], "no name of a variable"),
    ("services/web/env", [{"A": 1}], "must be text"),
    ("services/web/command", "sh", "must be a list"),
    ("services/web/expose/0/accept", ["Upper.example.com"], "lower-case DNS name"),
    ("services/web/expose/0/accept", ["a.example.com", "a.example.com"], "used twice"),
    ("services/web/expose/0/proto", "Tcp", "TCP or UDP"),
    ("services/web/expose/0/as", 65536, "from 1 to 65535"),
    ("services/web/expose/0/port", "80", "whole number"),
    ("services/web/expose/0/port", 80.5, "whole number"),
    ("services/web/expose/0/port", DELETE, "port is missing"),
    ("services/web/expose/0/to", [{"service": "x"}], "no service is reachable"),
    ("services/web/expose/0/to/0/global", "yes", "true or false"),
    ("services/web/expose/0/to/0/http_options", {}, "not known"),
    ("services/web/expose/0/to/0/ip", "none", "which endpoints lacks"),
    ("services/web/expose/0/http_options", {"read_timeout": 60001}, "from 0 to 60000"),
    ("services/web/expose/0/http_options", {"max_body_size": 104857601}, "from 0 to 104857600"),
    ("services/web/expose/0/http_options", {"next_cases": ["off", "500"]}, "off stands alone"),
    ("services/web/expose/0/http_options", {"next_cases": [500]}, "in quotes"),
    ("services/web/expose/0/http_options", {"next_cases": ["418"]}, "one of error"),
    ("services/web/params", {"storage": {"none": {"mount": "/x"}}}, "which profiles.compute.web lacks"),
    ("services/web/params", {"storage": {"default": {"mount": "x"}}}, "absolute path"),
    ("services/web/params", {"permissions": {"read": ["secrets"]}}, "deployment, logs or events"),
    ("services/web/credentials", {"host": "h", "username": "u", "password": "short"}, "6 characters or more"),
    ("services/web/credentials", {"host": "h", "username": " ", "password": "secret"}, "username is missing"),
    (f"{RESOURCES}/cpu/units", "9m", "between 10m and 384 cores"),
    (f"{RESOURCES}/cpu/units", "385", "between 10m and 384 cores"),
    (f"{RESOURCES}/cpu/units", "0", "CPU cores such as"),
    (f"{RESOURCES}/cpu/attributes", {"model": "x"}, "'model' in .*cpu.attributes is not known"),
    (f"{RESOURCES}/memory/size", "1023Ki", "between 1Mi and 2Ti"),
    (f"{RESOURCES}/memory/size", 1048576, "in quotes"),
    (f"{RESOURCES}/memory", DELETE, "memory is missing"),
    (f"{RESOURCES}/storage", [], "storage is missing"),
    (f"{RESOURCES}/storage/size", "4Mi", "between 5Mi and 32Ti"),
    (f"{RESOURCES}/storage", [{"size": "1Gi"}, {"size": "1Gi"}], "two volumes named 'default'"),
    (f"{RESOURCES}/storage", {"size": "1Gi", "attributes": {"persistent": True}}, "class is missing"),
    (f"{RESOURCES}/storage", {"size": "1Gi", "attributes": {"persistent": True, "class": "beta2"}}, "say where in"),
    (f"{RESOURCES}/gpu/units", 25, "at most 24"),
    (f"{RESOURCES}/gpu/units", 0, "stands without GPUs"),
    (f"{RESOURCES}/gpu/units", "1.5", "whole number of GPUs"),
    (f"{RESOURCES}/gpu/attributes", DELETE, "attributes is missing"),
    (f"{RESOURCES}/gpu/attributes/vendor", {}, "names no vendor"),
    (f"{RESOURCES}/gpu/attributes/vendor/nvidia", [{"model": "*", "ram": "80Gi"}], "does not take"),
    (f"{RESOURCES}/gpu/attributes/vendor/nvidia", [{"model": "a b"}], "does not take"),
    (f"{RESOURCES}/gpu/attributes/vendor/nvidia", [{"model": "a"}, {"model": "a"}], "twice"),
    (f"{RESOURCES}/gpu/attributes/vendor/nvidia/0/ram", "80GB", "GPU memory such as 80Gi"),
    (f"{RESOURCES}/gpu/attributes/vendor/nvidia/0/interface", "nvlink", "pcie or sxm"),
    ("profiles/compute/web/resources", DELETE, "resources is missing"),
    (f"{PRICE}/web/amount", 0, "a price above 0"),
    (f"{PRICE}/web/amount", "10000000.1", "at most 10000000"),
    (f"{PRICE}/web/amount", "0." + "1" * 19, "at most 18 decimal places"),
    (f"{PRICE}/web/amount", -1, "0 or more"),
    (f"{PRICE}/web/denom", "usd", "uact or uakt"),
    (f"{PRICE}/web", DELETE, "has no price for 'web'"),
    ("profiles/placement/here/attributes", {"a": ["b"]}, "must be text"),
    ("deployment/web/here/profile", "none", "which profiles.compute lacks"),
    ("deployment/web/there", {"profile": "web", "count": 1}, "which profiles.placement lacks"),
    ("deployment/db", {"here": {"profile": "web", "count": 1}}, "which services lacks"),
    ("deployment/web/here/count", 1201, "1200 GPUs"),
    ("deployment/web/here/count", 2**32, "from 0 to 4294967295"),
    ("deployment", {}, "names no service"),
    ("endpoints", {"spare": {"kind": "ip"}}, "is never used"),
    ("endpoints", {"a": {"kind": "ip"}}, "2 characters or more"),
    ("endpoints", {"spare": {"kind": "dns"}}, "must be ip"),
    ("reclamation", {"min_window": "1h30m"}, "in s, m or h"),
    ("reclamation", {}, "min_window is missing"),
]


@pytest.mark.parametrize(("path", "value", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_breaks_a_rule_is_refused_where_it_stands(path: str, value: Any, words: str) -> None:
    with pytest.raises(SdlError, match=words) as refused:
        compiled(changed(small(), path, value))
    assert refused.value.line > 1


def test_a_secret_is_not_repeated() -> None:
    login = {"host": "h.example.com", "username": "user", "password": "abc"}
    with pytest.raises(SdlError) as refused:
        compiled(changed(small(), "services/web/credentials", login))
    assert "abc" not in str(refused.value)
    with pytest.raises(SdlError) as refused:
        compiled(changed(small(), "services/web/env", ["BAD NAME=hunter2"]))
    assert "hunter2" not in str(refused.value)


def test_one_denomination_over_all_placements() -> None:
    document = changed(small(), "profiles/placement/east", {"pricing": {"web": {"denom": "uakt", "amount": 1}}})
    with pytest.raises(SdlError, match="use one denomination"):
        compiled(changed(document, "deployment/web/east", {"profile": "web", "count": 1}))


def test_a_port_of_an_address_is_given_once() -> None:
    document = changed(small("2.1"), "endpoints", {"meow": {"kind": "ip"}})
    document = changed(document, "services/web/expose/0/to/0", {"global": True, "ip": "meow"})
    document = with_service(document, "api", to=[{"global": True, "ip": "meow"}])
    with pytest.raises(SdlError, match="the endpoint meow has this port already, from the service api"):
        compiled(changed(changed(document, "services/web/expose/0/as", 9001), "services/api/expose/0/as", 9001))


def test_persistent_volumes_need_a_mount_in_2_0_only() -> None:
    volumes = [{"name": "data", "size": "1Gi", "attributes": {"persistent": True, "class": "beta2"}}, {"size": "1Gi"}]
    for version in ("2.0", "2.1"):
        document = changed(small(version), f"{RESOURCES}/storage", volumes)
        if version == "2.0":
            with pytest.raises(SdlError, match=r"say where in services\.web\.params\.storage\.data\.mount"):
                compiled(document)
        else:
            compiled(document)
        compiled(changed(document, "services/web/params", {"storage": {"default": {"mount": "/scratch"}}}))


def test_memory_as_a_read_only_volume_is_refused_in_2_1_only() -> None:
    volumes = [{"name": "shm", "size": "1Gi", "attributes": {"persistent": False, "class": "ram"}}]
    for version in ("2.0", "2.1"):
        document = changed(small(version), f"{RESOURCES}/storage", volumes)
        document = changed(
            document, "services/web/params", {"storage": {"shm": {"mount": "/dev/shm", "readOnly": True}}}
        )
        if version == "2.1":
            with pytest.raises(SdlError, match="drop readOnly"):
                compiled(document)
        else:
            assert compiled(document).groups


def test_two_volumes_at_one_mount_are_refused() -> None:
    document = changed(small(), f"{RESOURCES}/storage", [{"size": "1Gi"}, {"name": "data", "size": "1Gi"}])
    mounts = {"storage": {"default": {"mount": "/d"}, "data": {"mount": "/d"}}}
    with pytest.raises(SdlError, match="both at '/d'"):
        compiled(changed(document, "services/web/params", mounts))


def test_what_only_the_schema_forbids_passes_without_it() -> None:
    document = changed(small("2.2"), "services/web/shape", "round")
    for path, value in (
        (f"{RESOURCES}/memory/size", 2**30),
        (f"{PRICE}/web/denom", "ibc/ABC"),
        ("services/web/expose/0/proto", "Udp"),
        ("services/web/args", ["A=1", 5]),
        ("reclamation", {"min_window": "1h30m"}),
        (f"{RESOURCES}/gpu/attributes/vendor", {"amd": [{"model": "x"}]}),
        ("deployment/web/east", {"profile": "web", "count": 0}),
        ("profiles/placement/east", {"pricing": {"web": {"denom": "ibc/ABC", "amount": 1}}}),
    ):
        document = changed(document, path, value)
    document["deployment"]["api"] = {"east": {"profile": "web", "count": 1}}
    document["services"]["api"] = {"image": "api:1"}
    found = compiled(document, lenient=True)
    web = next(s for group in found.manifest for s in group.services if s.name == "web")
    assert web.args == ("A=1", "5")
    assert [a.key for a in web.resources.gpu_attributes] == ["vendor/nvidia/model/*"]
    with pytest.raises(SdlError):
        compiled(document)
