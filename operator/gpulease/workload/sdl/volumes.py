"""The ``storage`` part of a compute profile: volumes, their classes, and the order that the peer puts them in."""

from __future__ import annotations

from gpulease.errors import SdlError
from gpulease.market.model import Attribute
from gpulease.workload.sdl import quantities
from gpulease.workload.sdl.fields import is_null, items, line_of, only, quantity, table, text
from gpulease.workload.sdl.model import Volume
from gpulease.workload.sdl.tree import Node, Table, shown

_STORAGE_CLASSES = ("default", "beta1", "beta2", "beta3", "ram")
_TRUE, _FALSE = ("true", "on", "yes"), ("false", "off", "no")
_DEFAULT_VOLUME = "default"
_MAX_VOLUMES = 64
"""Above what any provider takes; bounds the work on a hostile list."""


def volumes(node: Node | None, place: str) -> tuple[Volume, ...]:
    """One volume whose name does not count, or a list; in the order that the peer puts them in."""
    if isinstance(node, Table):
        return (_volume(node, place, name=_DEFAULT_VOLUME),)
    found: list[Volume] = []
    if len(items(node, place)) > _MAX_VOLUMES:
        raise SdlError(
            items(node, place)[_MAX_VOLUMES].line,
            f"{place} has more than {_MAX_VOLUMES} volumes; providers take 4, so write fewer and larger ones",
        )
    for number_, entry in enumerate(items(node, place)):
        volume = _volume(entry, f"{place}[{number_}]")
        if any(volume.name == other.name for other in found):
            raise SdlError(volume.line, f"{place} has two volumes named {shown(volume.name)}; give one another name")
        found.append(volume)
    return tuple(_in_order(found))


def _volume(node: Node, place: str, *, name: str = "") -> Volume:
    raw = table(node, place)
    size = raw.get("size")
    if size is None or is_null(size):
        raise SdlError(node.line, f"{place}.size is missing; write a size such as 10Gi")
    attributes = raw.get("attributes")
    return Volume(
        node.line,
        name or text(raw.get("name"), f"{place}.name") or _DEFAULT_VOLUME,
        quantity(size, f"{place}.size", quantities.size_bytes),
        () if attributes is None or is_null(attributes) else _storage_attributes(attributes, f"{place}.attributes"),
    )


def _storage_attributes(node: Node, place: str) -> tuple[Attribute, ...]:
    """Texts are compared as they were written: only ``false`` forbids a class, only ``true`` brings the default one."""
    raw = {key: text(value, f"{place}.{key}") for key, value in only(node, ("class", "persistent"), place).items()}
    persistent, kind = raw.setdefault("persistent", "false"), raw.get("class", "")
    line = line_of(node, "class" if kind else "persistent", node.line)
    if kind == "" and persistent == "true":
        raw["class"] = "default"
    elif kind == "ram" and persistent != "false":
        raise SdlError(line, f"{place}: class ram cannot be persistent; set persistent to false")
    elif kind not in ("", "ram") and persistent == "false":
        raise SdlError(
            line, f"{place}: class {kind} is for persistent volumes; set persistent to true or drop the class"
        )
    if persistent not in _TRUE + _FALSE:
        raise SdlError(line_of(node, "persistent", node.line), f"{place}.persistent must be true or false")
    raw["persistent"] = "true" if persistent in _TRUE else "false"
    if "class" in raw and raw["class"] not in _STORAGE_CLASSES:
        raise SdlError(line, f"{place}.class must be one of {', '.join(_STORAGE_CLASSES)}, not {shown(raw['class'])}")
    return tuple(Attribute(key, raw[key]) for key in sorted(raw))


def _goes_before(one: Volume, other: Volume) -> bool:
    """The peer's rule, which is no order: of two equal volumes that are not persistent each goes before the other."""
    if one.size_bytes != other.size_bytes:
        return one.size_bytes < other.size_bytes
    first, second = one.attribute("persistent"), other.attribute("persistent")
    if (second and not first) or (first and second and first < second):
        return True
    if first and not second:
        return False
    if first != "true":
        return True
    return second == "true" and one.name < other.name


def _in_order(volumes: list[Volume]) -> list[Volume]:
    """Insertion by neighbours, as the peer sorts lists of this length: with such a rule the way decides the result."""
    for end in range(1, len(volumes)):
        at = end
        while at > 0 and _goes_before(volumes[at], volumes[at - 1]):
            volumes[at], volumes[at - 1] = volumes[at - 1], volumes[at]
            at -= 1
    return volumes
