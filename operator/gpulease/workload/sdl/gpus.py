"""The ``gpu`` part of a compute profile: how many, and which kinds will do, as attribute keys of the market."""

from __future__ import annotations

import re

from gpulease.errors import SdlError
from gpulease.market.gpu import GpuWant
from gpulease.market.model import Attribute
from gpulease.workload.sdl import quantities
from gpulease.workload.sdl.fields import is_null, items, line_of, only, quantity, table, text
from gpulease.workload.sdl.tree import Node, shown

_KEY = re.compile(r"[a-zA-Z][a-zA-Z0-9_/.\-]{1,126}[a-zA-Z0-9_*]?")
_ANY = Attribute("vendor/nvidia/model/*", "true")


def gpu_attributes(node: Node | None, place: str) -> tuple[int, tuple[Attribute, ...]]:
    """Units and attributes, sorted by key; none of either where nothing is asked for."""
    raw = table(node, place)
    for key in raw:
        if key not in ("units", "attributes"):
            raise SdlError(
                line_of(node, key, 1), f"the key {shown(key)} in {place} is not known; use units or attributes"
            )
    units_node = raw.get("units")
    units = 0
    if units_node is not None and not is_null(units_node):
        units = quantity(units_node, f"{place}.units", quantities.gpu_units)
    attributes = raw.get("attributes")
    if attributes is None or is_null(attributes):
        if units:
            line = line_of(node, "units", 1)
            raise SdlError(line, f"{place}.attributes is missing; name a vendor, for example nvidia: []")
        return units, ()
    if not units:
        raise SdlError(attributes.line, f"{place}.attributes stands without GPUs; set units to 1 or more")
    return units, _kinds(attributes, f"{place}.attributes")


def _kinds(node: Node, place: str) -> tuple[Attribute, ...]:
    raw = only(node, ("vendor",), place)
    vendor = raw.get("vendor")
    if vendor is None or is_null(vendor):
        raise SdlError(node.line, f"{place}.vendor is missing; name a vendor, for example nvidia: []")
    models = table(vendor, f"{place}.vendor").get("nvidia")
    found: dict[str, Attribute] = {}
    for number, entry in enumerate(items(models, f"{place}.vendor.nvidia")):
        attribute = _kind(entry, f"{place}.vendor.nvidia[{number}]")
        if attribute.key in found:
            raise SdlError(entry.line, f"{place}.vendor.nvidia names {shown(attribute.key)} twice; remove one of them")
        found[attribute.key] = attribute
    return tuple(found[key] for key in sorted(found)) or (_ANY,)


def _kind(node: Node, place: str) -> Attribute:
    raw = table(node, place)
    ram, interface = raw.get("ram"), raw.get("interface")
    if interface is not None and not is_null(interface) and text(interface, place) not in ("pcie", "sxm"):
        found = shown(text(interface, place))
        raise SdlError(interface.line, f"{place}.interface must be pcie or sxm, not {found}")
    size = "" if ram is None or is_null(ram) else f"{quantity(ram, f'{place}.ram', quantities.gpu_ram_gib)}Gi"
    attribute = GpuWant(text(raw.get("model"), f"{place}.model"), size, text(interface, place)).attribute()
    if not _KEY.fullmatch(attribute.key):
        raise SdlError(
            node.line,
            f"{place} makes the attribute {shown(attribute.key)}, which the market does not take; "
            "write a model in letters, digits, dots and dashes, or * alone",
        )
    return attribute
