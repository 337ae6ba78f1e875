"""Whole lives by seed, in two processes side by side; and every seed that ever found something."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.sim
ROOT = Path(__file__).parents[2]
FOUND = Path(__file__).with_name("seeds.txt")


@dataclass(frozen=True, slots=True)
class Share:
    """Seeds from ``first`` on, ``days`` long, with blocks of ``block_s``."""

    first: int
    seeds: int
    days: float
    block_s: int


# Short and stormy at the real pace, and long lives of many leases.
SHARES = (
    (Share(1, 2, 0.03, 6), Share(1000, 5, 0.25, 60)),
    (Share(2000, 5, 1.5, 300), Share(3000, 4, 0.25, 60)),
)


def start(share: Share) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.sim", "--seed", str(share.first), "--seeds", str(share.seeds)]
    words += ["--days", str(share.days), "--block-s", str(share.block_s), "--keep-going"]
    # The order of sets follows from the hash seed: a replay needs the same one.
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": "operator"}
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def found_seeds() -> list[Share]:
    lines = (line.partition("#")[0].split() for line in FOUND.read_text().splitlines())
    return [Share(int(words[0]), 1, float(words[1]), int(words[2])) for words in lines if words]


def finish(running: subprocess.Popen[str]) -> str:
    text, _ = running.communicate(timeout=900)
    assert running.returncode == 0, text
    return text


@pytest.mark.parametrize("index", range(2))
def test_everything_holds_whatever_goes_wrong(index: int, capsys: pytest.CaptureFixture[str]) -> None:
    running = [start(row[index]) for row in SHARES]
    texts = [finish(one) for one in running]
    with capsys.disabled():
        print("\n" + "\n".join(texts))
    for text in texts:
        assert re.search(r"[1-9][0-9]* lease-days", text) or "0 failed" in text


def test_what_was_found_stays_found(capsys: pytest.CaptureFixture[str]) -> None:
    shares = found_seeds()
    for pair in zip(shares[::2], shares[1::2] or shares[:1], strict=False):
        for text in [finish(one) for one in [start(share) for share in pair]]:
            assert " 0 failed" in text
    with capsys.disabled():
        print(f"\n{len(shares)} seeds that once found something hold")
