"""The groups of an SDL as JSON, in the chain's spelling; prices have 18 places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpulease.market.model import GroupSpec
from gpulease.workload.manifest import resources_json
from gpulease.workload.sdl.model import Placement


def groups_json(groups: tuple[GroupSpec, ...], placements: Mapping[str, Placement]) -> list[dict[str, Any]]:
    """``placements`` tells lists of auditors that are empty from those that are not set (null)."""
    return [_group(group, placements.get(group.name)) for group in groups]


def _group(group: GroupSpec, placement: Placement | None) -> dict[str, Any]:
    needs = group.requirements
    all_of: tuple[str, ...] | None = needs.signed_by_all_of or None
    any_of: tuple[str, ...] | None = needs.signed_by_any_of or None
    if placement is not None:
        all_of, any_of = placement.all_of, placement.any_of
    return {
        "name": group.name,
        "requirements": {
            "signed_by": {"all_of": _optional(all_of), "any_of": _optional(any_of)},
            "attributes": [{"key": a.key, "value": a.value} for a in needs.attributes] or None,
        },
        "resources": [
            {
                "resource": resources_json(unit.resources),
                "count": unit.count,
                "price": {"denom": unit.price.denom, "amount": str(unit.price.amount)},
            }
            for unit in group.resources
        ],
    }


def _optional(values: tuple[str, ...] | None) -> list[str] | None:
    return None if values is None else list(values)
