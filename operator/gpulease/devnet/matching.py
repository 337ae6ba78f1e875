"""Does a provider satisfy an order: attributes, auditors, capabilities (chain-sdk attributes v1).

This is the chain's own rule, kept apart from the market room's so that one can be checked against the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=4096)
def _pattern(glob: str) -> re.Pattern[str]:
    """Go's ``filepath.Match``: ``*`` and ``?`` do not cross a slash."""
    out = []
    for char in glob:
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        else:
            out.append(re.escape(char))
    return re.compile("".join(out) + r"\Z")


def _has(attributes: Mapping[str, str], key: str, value: str) -> bool:
    pattern = _pattern(key)
    return any(value == v and pattern.match(k) for k, v in attributes.items())


def _all(required: Any, attributes: Mapping[str, str]) -> bool:
    return all(_has(attributes, a.key, a.value) for a in required)


def requirements_met(req: Any, own: Mapping[str, str], audited: Mapping[str, Mapping[str, str]]) -> bool:
    if req.signed_by.any_of or req.signed_by.all_of:
        for auditor in req.signed_by.all_of:
            if auditor not in audited or not _all(req.attributes, audited[auditor]):
                return False
        if not req.signed_by.any_of:
            return True
        return any(a in audited and _all(req.attributes, audited[a]) for a in req.signed_by.any_of)
    return _all(req.attributes, own)


def capabilities_met(spec: Any, own: Mapping[str, str]) -> bool:
    """GPU requests (any of the unit's keys) and storage classes against ``capabilities/...`` attributes."""
    for unit in spec.resources:
        gpu = unit.resource.gpu
        wanted = gpu.attributes if int(bytes(gpu.units.val).decode() or "0") else ()
        if wanted and not any(_has(own, f"capabilities/gpu/{a.key}", a.value) for a in wanted):
            return False
        for volume in unit.resource.storage:
            if volume.attributes and not _storage_met(volume.attributes, own):
                return False
    return True


def _storage_met(wanted: Any, own: Mapping[str, str]) -> bool:
    """Some numbered group ``capabilities/storage/<n>/...`` has all that is wanted."""
    groups: dict[str, dict[str, str]] = {}
    for key, value in own.items():
        parts = key.removeprefix("capabilities/").split("/")
        if key.startswith("capabilities/storage") and len(parts) == 3:
            groups.setdefault(parts[1], {})[parts[2]] = value
    return any(_all(wanted, have) for have in groups.values())
