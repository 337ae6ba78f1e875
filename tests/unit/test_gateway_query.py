"""Query strings, path numbers, migration bodies and host names: tables."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpulease.gateway import hosts, migrate, query, rates, shell
from gpulease.gateway.hosts import HostRefused, Kept
from gpulease.gateway.kubeevents import service_of
from gpulease.gateway.query import BadQuery, ShellQuery, StreamQuery
from gpulease.ids import LeaseId

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {}),
        ("a=1&a=2&b", {"a": "1", "b": ""}),
        ("a=x+y%20z", {"a": "x y z"}),
        ("a=1;2&b=3", {"b": "3"}),
        ("a=%zz&%2=1&b=3", {"b": "3"}),
        ("a=%C3%A9&b=%FF", {"a": "é", "b": "\ufffd"}),
        ("&&=&", {"": ""}),
    ],
)
def test_pairs_are_those_of_the_peers_parser(text: str, wanted: dict[str, str]) -> None:
    assert query.pairs(text) == wanted


def test_the_number_of_pairs_is_bounded() -> None:
    assert len(query.pairs("&".join(f"a{n}=1" for n in range(10_000)))) == 256


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", StreamQuery()),
        ("follow=1&tail=5&service=a,b", StreamQuery(True, 5, frozenset({"a", "b"}))),
        ("follow=T&tail=-1", StreamQuery(True, None)),
        ("follow=False&tail=0&services=x", StreamQuery(False, 0)),
        ("follow=&tail=&service=", StreamQuery()),
        ("tail=%2B7", StreamQuery(False, 7)),
    ],
)
def test_stream_queries_are_read(text: str, wanted: StreamQuery) -> None:
    assert query.stream_query(text) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("follow=yes", 'strconv.ParseBool: parsing "yes": invalid syntax'),
        ("tail=x", 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("tail=1.5", 'strconv.ParseInt: parsing "1.5": invalid syntax'),
        ("tail=--1", 'strconv.ParseInt: parsing "--1": invalid syntax'),
        ("tail=-", 'strconv.ParseInt: parsing "-": invalid syntax'),
        ("tail=2147483648", 'strconv.ParseInt: parsing "2147483648": value out of range'),
        ("tail=" + "9" * 99, f'strconv.ParseInt: parsing "{"9" * 99}": value out of range'),
        ("tail=٣", 'strconv.ParseInt: parsing "٣": invalid syntax'),
        ("tail=-2", "parameter tail must be -1 (all) or a number of lines"),
        ("service=a,", "parameter service must not end with a comma"),
    ],
)
def test_stream_queries_are_refused_in_the_peers_words(text: str, words: str) -> None:
    with pytest.raises(BadQuery) as refused:
        query.stream_query(text)
    assert str(refused.value) == words


SHELL = "cmd0=sh&cmd1=-c&cmd3=lost&service=web&podIndex=0&tty=0&stdin=1"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (SHELL, ShellQuery(("sh", "-c"), "web", 0, False, True)),
        (SHELL.replace("podIndex=0", "podIndex=0x1F"), ShellQuery(("sh", "-c"), "web", 31, False, True)),
        (SHELL.replace("podIndex=0", "podIndex=0b11"), ShellQuery(("sh", "-c"), "web", 3, False, True)),
        (SHELL.replace("podIndex=0", "podIndex=017"), ShellQuery(("sh", "-c"), "web", 15, False, True)),
        (SHELL.replace("podIndex=0", "podIndex=1_0"), ShellQuery(("sh", "-c"), "web", 10, False, True)),
        (SHELL.replace("tty=0", "tty=true"), ShellQuery(("sh", "-c"), "web", 0, False, True)),
        *((SHELL.replace(part, ""), None) for part in ("cmd0=sh", "service=web", "podIndex=0", "tty=0", "stdin=1")),
        *((SHELL.replace("podIndex=0", f"podIndex={v}"), None) for v in ("-1", "x", "09", "2147483648", "1__0", "0x")),
    ],
)
def test_shell_queries_are_read_or_not(text: str, wanted: ShellQuery | None) -> None:
    assert query.shell_query(text) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [("-1", "invalid syntax"), ("", "invalid syntax"), ("1_0", "invalid syntax"), ("4294967296", "out of range")],
)
def test_path_numbers_are_refused(text: str, words: str) -> None:
    with pytest.raises(BadQuery, match=words):
        query.path_number(text, query.MOST_U32)


@pytest.mark.parametrize(
    ("payload", "size"),
    [(b"\x00\x50\x00\x18", (80, 24)), (b"\xff\xff\x00\x00more", (65535, 0)), (b"\x00\x50\x00", None), (b"", None)],
)
def test_a_resize_is_width_then_height(payload: bytes, size: tuple[int, int] | None) -> None:
    assert shell.size_of(payload) == size


@pytest.mark.parametrize(
    ("name", "service"),
    [("web-64d8-x", "web"), ("web", "web"), ("web-db-1", "web-db"), ("webx-1", None), ("other", None)],
)
def test_an_objects_service_is_the_longest_that_fits(name: str, service: str | None) -> None:
    assert service_of(name, frozenset({"web", "web-db"})) == service


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"n": ["a"], "destination_dseq": 7, "destination_gseq": 1}, migrate.Asked(("a",), 7, 1)),
        ({"n": []}, migrate.Asked((), 0, 0)),
        ({}, migrate.Asked((), 0, 0)),
        ({"n": None}, migrate.Asked((), 0, 0)),
        ({"n": "a"}, None),
        ({"n": [1]}, None),
        ({"n": ["a"] * 257}, None),
        ({"n": ["a"], "destination_dseq": "7"}, None),
        ({"n": ["a"], "destination_dseq": True}, None),
        ({"n": ["a"], "destination_dseq": -1}, None),
        ({"n": ["a"], "destination_gseq": 2**32}, None),
        ([], None),
        (5, None),
    ],
)
def test_migration_bodies_are_read_or_not(body: Any, wanted: migrate.Asked | None) -> None:
    assert migrate.read(json.dumps(body).encode(), "n") == wanted


def lease(owner: str, dseq: int) -> LeaseId:
    return LeaseId(owner, dseq, 1, 1, "p")


def entry(owner: str, dseq: int, wanted: str, held: str) -> Kept:
    return Kept({}, lease(owner, dseq), frozenset(wanted.split()), frozenset(held.split()))


def test_a_name_is_its_first_owners_and_waits_for_the_owners_second_lease() -> None:
    kept = [entry("a", 1, "x.com y.com", "x.com y.com"), entry("b", 2, "z.com", "z.com")]
    assert hosts.assign(kept, lease("a", 3), frozenset({"x.com", "new.com"}), blocked_hosts=()) == {"new.com"}
    assert hosts.assign(kept, lease("a", 1), frozenset({"x.com"}), blocked_hosts=()) == {"x.com"}
    with pytest.raises(HostRefused, match=r"^hostname not allowed: 'x\.com' is in use by another tenant"):
        hosts.assign(kept, lease("b", 2), frozenset({"x.com"}), blocked_hosts=())


@pytest.mark.parametrize(
    ("host", "rule", "refused"),
    [
        ("a.bad.com", ".bad.com", True),
        ("bad.com", ".bad.com", True),
        ("notbad.com", ".bad.com", False),
        ("bad.com", "bad.com", True),
        ("a.bad.com", "bad.com", False),
    ],
)
def test_blocked_names_are_refused(host: str, rule: str, refused: bool) -> None:
    assert hosts.blocked(host, [rule]) is refused


def test_a_move_takes_from_the_owners_other_leases_first() -> None:
    kept = [entry("a", 1, "x.com y.com", "x.com y.com"), entry("a", 2, "x.com", ""), entry("b", 3, "z.com", "z.com")]
    plan = hosts.move(kept, lease("a", 2), ["X.com"])
    assert [(e.lease.dseq, set(e.held)) for e in plan] == [(1, {"y.com"}), (2, {"x.com"})]
    stopped = [plan[0], *kept[1:]]
    assert [(e.lease.dseq, set(e.held)) for e in hosts.move(stopped, lease("a", 2), ["x.com"])] == [(2, {"x.com"})]
    with pytest.raises(HostRefused, match="not in the manifest"):
        hosts.move(kept, lease("a", 2), ["y.com"])
    with pytest.raises(HostRefused, match="does not exist"):
        hosts.move(kept, lease("a", 9), ["x.com"])
    taken = [*kept, entry("c", 4, "z.com", "")]
    with pytest.raises(HostRefused, match="another tenant"):
        hosts.move(taken, lease("c", 4), ["z.com"])


def test_a_bucket_fills_again_with_time_and_is_one_partys_own() -> None:
    now_s = 0.0
    buckets = rates.Buckets(rates.Rate(2, 3), now_s=lambda: now_s)

    def taken(key: str, times: int) -> int:
        got = 0
        for _ in range(times):
            try:
                buckets.take(key)
            except rates.TooOften:
                continue
            got += 1
        return got

    assert (taken("a", 5), taken("b", 2)) == (3, 2)
    now_s = 1.0
    assert taken("a", 5) == 2
    now_s = 0.5  # a clock that was set back gives nothing and takes nothing
    assert taken("a", 5) == 0
    now_s = 100.0
    assert taken("a", 5) == 3
    for number in range(11_000):
        buckets.take(str(number))
    assert (len(buckets._left), buckets.refused_total) == (10_000, 12)
