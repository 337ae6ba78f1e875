"""Is a server-side apply needed at all?

An apply that changes nothing still costs a request, a line in the audit log and, for some kinds, a new
resourceVersion. :func:`difference` predicts it from the live object: every field we want is there with that value,
and no field that our field manager owns is one we no longer want.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol

from gpulease.kube.refs import Json, Ref

# What the API server fills in or ignores on an apply.
_NOT_COMPARED = frozenset({"apiVersion", "kind", "status"})
_META_COMPARED = frozenset({"labels", "annotations", "finalizers", "ownerReferences"})
# Maps whose values are quantities, which the API server writes in its own spelling.
_QUANTITY_MAPS = frozenset(
    {"limits", "requests", "hard", "default", "defaultRequest", "max", "min", "capacity", "maxLimitRequestRatio"}
)
_QUANTITY_FIELDS = frozenset({"sizeLimit", "divisor"})
_LIST_KEYS = ("name", "containerPort", "port", "mountPath", "devicePath", "key", "type", "uid", "ip", "topologyKey")
_QUANTITY = re.compile(r"^([+-]?[0-9]+(?:\.[0-9]*)?|[+-]?\.[0-9]+)(m|k|Ki|Mi|Gi|Ti|Pi|Ei|M|G|T|P|E|u|n|)$")
_SCALE = {
    "": Decimal(1),
    "n": Decimal(10) ** -9,
    "u": Decimal(10) ** -6,
    "m": Decimal(10) ** -3,
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}


class Writer(Protocol):
    """The part of :class:`gpulease.kube.client.Cluster` that this needs."""

    async def get(self, ref: Ref, *, deadline_s: float | None = None) -> Json | None: ...

    async def apply(self, obj: Mapping[str, Any], *, field_manager: str = ..., force: bool = ...) -> Json: ...


async def ensure(cluster: Writer, desired: Mapping[str, Any], *, field_manager: str = "gpulease") -> bool:
    """Read, compare and apply only on a difference. True when a write was made."""
    live = await cluster.get(Ref.of(desired))
    if live is not None and difference(desired, live, field_manager=field_manager) is None:
        return False
    await cluster.apply(desired, field_manager=field_manager)
    return True


def difference(desired: Mapping[str, Any], live: Mapping[str, Any], *, field_manager: str = "gpulease") -> str | None:
    """The path of a field for which ``live`` differs from what applying ``desired`` would give; None when none does.

    Works on bodies with or without ``managedFields``; without them, fields to be removed are not noticed.
    """
    for key, value in desired.items():
        if key in _NOT_COMPARED:
            continue
        if key == "metadata":
            for part in sorted(_META_COMPARED & set(value)):
                found = _unlike(value[part], (live.get("metadata") or {}).get(part), f"metadata.{part}", part)
                if found:
                    return found
            continue
        found = _unlike(value, live.get(key), key, key)
        if found:
            return found
    return _leftover(desired, live, field_manager, subresource="")


def status_difference(status: Mapping[str, Any], live: Mapping[str, Any], *, field_manager: str) -> str | None:
    """The same for a status that would be applied to the subresource of ``live``."""
    live_status = live.get("status") or {}
    for key, value in status.items():
        found = _unlike(value, live_status.get(key), f"status.{key}", key)
        if found:
            return found
    return _leftover({"status": status}, live, field_manager, subresource="status")


def _unlike(want: Any, have: Any, path: str, name: str) -> str | None:
    if want is None or (have is None and _is_zero(want)):
        # The API server drops empty optional fields.
        return None
    if isinstance(want, Mapping):
        if not isinstance(have, Mapping):
            return path
        quantities = name in _QUANTITY_MAPS
        for key, value in want.items():
            other = have.get(key)
            if (quantities or key in _QUANTITY_FIELDS) and _same_quantity(value, other):
                continue
            found = _unlike(value, other, f"{path}.{key}", str(key))
            if found:
                return found
        return None
    if isinstance(want, str) or not isinstance(want, Sequence):
        return None if want == have and isinstance(want, bool) == isinstance(have, bool) else path
    return _unlike_list(want, have, path)


def _unlike_list(want: Sequence[Any], have: Any, path: str) -> str | None:
    if not isinstance(have, list):
        return path
    keyed = _pairs(want, have)
    if keyed is None:
        if len(want) != len(have):
            return path
        keyed = list(zip(want, have, strict=True))
    for index, (mine, theirs) in enumerate(keyed):
        found = path if theirs is None and mine is not None else _unlike(mine, theirs, f"{path}[{index}]", "")
        if found:
            return found
    return None


def _pairs(want: Sequence[Any], have: Sequence[Any]) -> list[tuple[Any, Any]] | None:
    """Items paired by their key field, for lists that other managers may add to; None for plain lists."""
    if not want or not all(isinstance(item, Mapping) for item in (*want, *have)):
        return None
    for key in _LIST_KEYS:
        if all(key in item for item in (*want, *have)):
            by_key = {repr(item[key]): item for item in have}
            if len(by_key) == len(have) and len({repr(item[key]) for item in want}) == len(want):
                return [(item, by_key.get(repr(item[key]))) for item in want]
    return None


def _is_zero(value: Any) -> bool:
    return value in ("", 0, False) or (isinstance(value, (Mapping, list, tuple)) and len(value) == 0)


def _same_quantity(want: Any, have: Any) -> bool:
    left, right = parse_quantity(want), parse_quantity(have)
    return left is not None and left == right


def parse_quantity(value: Any) -> Decimal | None:
    """A Kubernetes quantity (``500m``, ``2Gi``, ``3``) as a number; None when it is none."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    match = _QUANTITY.match(str(value))
    return None if match is None else Decimal(match[1]) * _SCALE[match[2]]


def _leftover(desired: Mapping[str, Any], live: Mapping[str, Any], manager: str, *, subresource: str) -> str | None:
    for entry in (live.get("metadata") or {}).get("managedFields") or ():
        if entry.get("manager") != manager or entry.get("operation") != "Apply":
            continue
        if (entry.get("subresource") or "") == subresource:
            return _owned_beyond(entry.get("fieldsV1") or {}, desired, "")
    return None


def _owned_beyond(owned: Mapping[str, Any], desired: Any, path: str) -> str | None:
    """A field of the ``fieldsV1`` set that ``desired`` does not have."""
    for token, below in owned.items():
        mark, _, rest = token.partition(":")
        if mark == "f":
            if not isinstance(desired, Mapping) or desired.get(rest) is None:
                return f"{path}.{rest}".lstrip(".")
            found = _owned_beyond(below, desired[rest], f"{path}.{rest}")
        elif mark == "k":
            item = _item_with(desired, json.loads(rest))
            if item is None:
                return f"{path}[{rest}]".lstrip(".")
            found = _owned_beyond(below, item, f"{path}[{rest}]")
        elif mark == "v":
            found = None if isinstance(desired, Sequence) and json.loads(rest) in desired else f"{path}[{rest}]"
        else:
            found = None
        if found:
            return found.lstrip(".")
    return None


def _item_with(items: Any, keys: Mapping[str, Any]) -> Any:
    if not isinstance(items, Sequence) or isinstance(items, str):
        return None
    for item in items:
        # A key that our item leaves out was defaulted by the API server.
        if isinstance(item, Mapping) and all(item.get(key, value) == value for key, value in keys.items()):
            return item
    return None
