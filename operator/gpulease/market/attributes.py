"""Does this provider satisfy an order's placement requirements (akash reference §2.6)?

Requirement keys are Go ``filepath.Match`` patterns over the provider's keys, values must be equal; ``signed_by`` asks
for auditors' signatures over the same attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from gpulease.market.model import Attribute, GroupSpec, PlacementRequirements, Storage

MAX_VOLUMES_PER_UNIT = 4


@lru_cache(maxsize=4096)
def _pattern(glob: str) -> re.Pattern[str]:
    parts = []
    for char in glob:
        parts.append("[^/]*" if char == "*" else "[^/]" if char == "?" else re.escape(char))
    return re.compile("".join(parts) + r"\Z")


def has(attributes: Iterable[Attribute], wanted: Attribute) -> bool:
    pattern = _pattern(wanted.key)
    return any(a.value == wanted.value and pattern.match(a.key) for a in attributes)


def missing(required: Iterable[Attribute], own: Iterable[Attribute]) -> tuple[Attribute, ...]:
    """Requirements that ``own`` does not meet."""
    have = tuple(own)
    return tuple(wanted for wanted in required if not has(have, wanted))


def auditors_ok(requirements: PlacementRequirements, audited: Mapping[str, tuple[Attribute, ...]]) -> bool:
    """All of ``all_of`` and, where named, one of ``any_of`` have signed what is required."""

    def signed(auditor: str) -> bool:
        return auditor in audited and not missing(requirements.attributes, audited[auditor])

    if not all(signed(auditor) for auditor in requirements.signed_by_all_of):
        return False
    return not requirements.signed_by_any_of or any(signed(a) for a in requirements.signed_by_any_of)


def too_many_volumes(spec: GroupSpec) -> bool:
    return any(len(unit.resources.storage) > MAX_VOLUMES_PER_UNIT for unit in spec.resources)


def persistent_class(volume: Storage) -> str | None:
    """The class of a persistent volume (``""`` for the provider's choice), None for one that ends with its pod."""
    attributes = {a.key: a.value for a in volume.attributes}
    return attributes.get("class", "") if attributes.get("persistent") == "true" else None


def storage_attributes(classes: Iterable[str]) -> tuple[Attribute, ...]:
    """How a provider publishes its classes of persistent storage (``capabilities/storage/N/…``)."""
    found: list[Attribute] = []
    for number, name in enumerate(sorted(set(classes)), start=1):
        base = f"capabilities/storage/{number}"
        found += [Attribute(f"{base}/class", name), Attribute(f"{base}/persistent", "true")]
    return tuple(found)
