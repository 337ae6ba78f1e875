"""The outbox survives kill -9 anywhere: see tests/crash for the harness and for how the chain proves it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.contract
SEED, PARTS, PAIRS = 20261124, 2, 250
LEAST_POINTS, LEAST_PAIRS = 60, 500


def test_killed_before_and_after_every_effect_alone_and_in_pairs() -> None:
    command = [sys.executable, "-m", "tests.crash.harness", "--seed", str(SEED), "--pairs", str(PAIRS)]
    runs = [
        subprocess.Popen(
            [*command, "--part", str(part), "--parts", str(PARTS)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for part in range(PARTS)
    ]
    reports = [json.loads(run.communicate(timeout=600)[0]) for run in runs]
    for report in reports:
        print(json.dumps(report))
        assert report["failures"] == []
        assert {"commit", "broadcast", "status", "block"} <= report["kinds"].keys()
    points = reports[0]["points"]
    singles, pairs = (sum(report[name] for report in reports) for name in ("singles", "pairs"))
    print(f"crash: points {points}, each alone {singles}, pairs {pairs}, seed {SEED}")
    assert points >= LEAST_POINTS
    assert singles == points
    assert pairs >= LEAST_PAIRS
