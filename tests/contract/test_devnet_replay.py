"""The state machine against what the real chain did."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpulease.devnet import replay

pytestmark = pytest.mark.contract

RECORDINGS = Path(__file__).parents[1] / "data/chain/recordings"


@pytest.mark.parametrize("name", ["walk", "scenarios", "extras"])
def test_a_recording_replays_without_a_difference(name: str) -> None:
    tallies = replay.run(RECORDINGS / name)
    text, equal = replay.report(tallies)
    print(f"\n{name}\n{text}")
    assert equal, text
