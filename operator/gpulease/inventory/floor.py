"""Is a node new enough to run strangers' containers? A dated list of versions as data, and what a node says of itself.

Unknown is not old: a node that does not tell a version is sold unless the admin asks for certainty, and the provider's
condition names what is not known. A distribution's own build counts as unknown, because it carries fixes under an old
number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import zip_longest

from gpulease.inventory.devices import Node
from gpulease.inventory.facts import NodeFacts

TOOLKIT_LABEL = "gpulease.dev/container-toolkit-version"
RUNC_LABEL = "gpulease.dev/runc-version"
"""Set by the admin (or a job of theirs): neither the kubelet nor feature discovery tells these two."""
_DRIVER_LABELS = ("nvidia.com/cuda.driver-version.full", "nvidia.com/cuda.driver.full")
_NUMBERS = re.compile(r"[0-9]+")
_DISTRIBUTION = re.compile(r"[~+]|ubuntu|debian|deb[0-9]|\.el[0-9]|amzn")


@dataclass(frozen=True, slots=True)
class Floor:
    """``fixed`` are the first good versions, one for each line of releases, oldest first."""

    what: str
    source: str
    fixed: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class FloorVerdict:
    """``problem`` is empty for a node that may be sold; ``unknown`` names what the node does not tell."""

    problem: str = ""
    unknown: tuple[str, ...] = ()


def check(
    node: Node, facts: NodeFacts | None, *, floors: Iterable[Floor] | None = None, require_known: bool = False
) -> FloorVerdict:
    """Against the shipped list, or ``floors``."""
    versions = versions_of(node, facts)
    unknown: list[str] = []
    for floor in shipped() if floors is None else floors:
        version = versions.get(floor.source, "")
        if not version:
            unknown.append(floor.what)
        elif too_old(version, floor.fixed):
            words = f"{floor.what} {version} is too old ({floor.why}); update it to {' or '.join(floor.fixed)} or newer"
            return FloorVerdict(words, tuple(unknown))
    if unknown and require_known:
        words = f"the versions of {', '.join(unknown)} are not known and spec.isolation.requireKnownVersions is set"
        return FloorVerdict(f"{words}: label the node with {TOOLKIT_LABEL} and {RUNC_LABEL}", tuple(unknown))
    return FloorVerdict("", tuple(unknown))


def versions_of(node: Node, facts: NodeFacts | None) -> Mapping[str, str]:
    """By the list's ``source``; what is not known is left out."""
    driver = facts.driver_version if facts is not None else ""
    found = {
        "container-toolkit": node.labels.get(TOOLKIT_LABEL, ""),
        "runc": node.labels.get(RUNC_LABEL, ""),
        "driver": driver or next((node.labels[name] for name in _DRIVER_LABELS if node.labels.get(name)), ""),
    }
    return {
        s: version for s, version in found.items() if _NUMBERS.search(version) and not _DISTRIBUTION.search(version)
    }


def too_old(version: str, fixed: Iterable[str]) -> bool:
    """Held against the first good version of its own line, where the line is named.

    A line is a major version, or major and minor where several of one major are named. A pre-release counts as
    older than its release.
    """
    number, pre = _parse(version)
    good = [_parse(text)[0] for text in fixed]
    majors = [g[0] for g in good]
    for first in sorted(good, reverse=True):
        width = 2 if majors.count(first[0]) > 1 else 1
        if number[:width] == first[:width]:
            return _less(number, first) or (pre and not _less(first, number))
    # A line of its own: good only when it is newer than all of them.
    return _less(number, max(good))


def _parse(version: str) -> tuple[tuple[int, ...], bool]:
    plain, _, rest = version.lstrip("v").partition("-")
    return tuple(int(part) for part in _NUMBERS.findall(plain)), bool(re.match(r"(rc|alpha|beta)", rest))


def _less(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    for a, b in zip_longest(one, other, fillvalue=0):
        if a != b:
            return a < b
    return False


@lru_cache(maxsize=1)
def shipped() -> tuple[Floor, ...]:
    raw = json.loads(resources.files("gpulease.inventory").joinpath("node_floor.json").read_text())
    return tuple(Floor(str(f["what"]), str(f["source"]), tuple(f["fixed"]), str(f["why"])) for f in raw["floors"])
