"""What every decision returns: actions, conditions and a time to look again.

``decide`` functions are pure and total. Whatever they could not learn is ``None`` in their input and never a reason
to destroy; whatever they did learn is a :class:`Seen` that says as of which chain height it held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

T = TypeVar("T")

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """A positive answer of the chain: ``value`` as of ``height``."""

    value: T
    height: int


@dataclass(frozen=True, slots=True)
class Condition:
    """One Kubernetes condition; ``status`` is ``True``, ``False`` or ``Unknown`` as the API spells it."""

    type: str
    status: str
    reason: str
    message: str

    @classmethod
    def true(cls, type_: str, reason: str, message: str = "") -> Condition:
        return cls(type_, "True", reason, message)

    @classmethod
    def false(cls, type_: str, reason: str, message: str) -> Condition:
        return cls(type_, "False", reason, message)

    @classmethod
    def unknown(cls, type_: str, reason: str, message: str) -> Condition:
        return cls(type_, "Unknown", reason, message)


def merge_conditions(
    old: Sequence[Mapping[str, Any]], new: Sequence[Condition], *, generation: int, now_ns: int
) -> list[dict[str, Any]]:
    """Conditions as the API stores them: the transition time moves only when ``status`` does.

    Conditions of types that ``new`` does not name are kept as they are, in place.
    """
    by_type = {condition.type: condition for condition in new}
    stamp = datetime.fromtimestamp(now_ns // NS_PER_S, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    merged: list[dict[str, Any]] = []
    known: set[str] = set()
    for entry in old:
        condition = by_type.get(str(entry.get("type")))
        if condition is None:
            merged.append(dict(entry))
            continue
        known.add(condition.type)
        same = entry.get("status") == condition.status
        since = str(entry.get("lastTransitionTime", stamp)) if same else stamp
        merged.append(_as_json(condition, since, generation))
    merged.extend(_as_json(c, stamp, generation) for c in new if c.type not in known)
    return merged


def _as_json(condition: Condition, since: str, generation: int) -> dict[str, Any]:
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message[:1024],
        "lastTransitionTime": since,
        "observedGeneration": generation,
    }
