"""The provider's events as one sentence that does not move."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from gpulease.errors import GatewayUnreachable
from gpulease.runtime import trouble

pytestmark = pytest.mark.unit
Events = list[dict[str, Any]]


def event(reason: str, note: str, type_: str = "Warning") -> dict[str, Any]:
    return {"type": type_, "reason": reason, "note": note, "object": {"kind": "Pod"}}


PULL_FAILED = event("Failed", 'Failed to pull image "localhost/x:1": rpc error: code = Unknown')
PULL_BACKS_OFF = event("BackOff", 'Back-off pulling image "localhost/x:1"', "Warning")


@pytest.mark.parametrize(
    ("events", "reason", "words"),
    [
        ([PULL_FAILED], "ImagePullBackOff", "localhost/x:1"),
        ([PULL_FAILED, PULL_BACKS_OFF], "ImagePullBackOff", "localhost/x:1"),
        ([event("BackOff", "Back-off restarting failed container web in pod web-1")], "CrashLoopBackOff", "log"),
        ([event("FailedScheduling", "0/1 nodes are\navailable")], "FailedScheduling", "0/1 nodes are available"),
        ([event("FailedCreate", "quota"), PULL_FAILED], "ImagePullBackOff", "localhost/x:1"),
    ],
)
def test_the_last_warning_that_explains_is_told(events: Events, reason: str, words: str) -> None:
    found = trouble.explain(events)
    assert found is not None
    assert found[0] == reason
    assert words in found[1]


def test_the_turns_of_a_failed_pull_are_one_sentence() -> None:
    assert trouble.explain([PULL_FAILED]) == trouble.explain([PULL_FAILED, PULL_BACKS_OFF])


async def test_normal_events_are_no_trouble_and_a_broken_stream_keeps_what_was_told() -> None:
    async def told(*events: Mapping[str, Any], broken: bool = False) -> AsyncIterator[Mapping[str, Any]]:
        for one in events:
            yield one
        if broken:
            raise GatewayUnreachable("gone")

    assert await trouble.read(told(event("Pulled", "Container image is here", "Normal"))) is None
    assert await trouble.read(told(broken=True)) is None
    found = await trouble.read(told(PULL_FAILED, broken=True))
    assert found is not None
    assert found[0] == "ImagePullBackOff"


async def test_an_endless_list_of_events_is_cut() -> None:
    read = 0

    async def flood() -> AsyncIterator[Mapping[str, Any]]:
        nonlocal read
        while True:
            read += 1
            yield event("Failed", "again")

    assert await trouble.read(flood()) == ("Failed", "The provider's cluster says: again")
    assert read == trouble.MOST_EVENTS
