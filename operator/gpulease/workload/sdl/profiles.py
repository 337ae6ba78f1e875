"""The ``profiles`` and ``deployment`` parts of an SDL: what a replica gets, where it may run and for how much."""

from __future__ import annotations

from gpulease.errors import SdlError
from gpulease.market.model import Attribute
from gpulease.workload.sdl import quantities
from gpulease.workload.sdl.fields import is_null, line_of, number, only, quantity, table, text, texts
from gpulease.workload.sdl.gpus import gpu_attributes
from gpulease.workload.sdl.model import Compute, Placement, Price, Use
from gpulease.workload.sdl.tree import Node
from gpulease.workload.sdl.volumes import volumes


def compute(node: Node, place: str) -> Compute:
    resources = table(node, place).get("resources")
    if resources is None or is_null(resources):
        raise SdlError(node.line, f"{place}.resources is missing; write cpu, memory and storage")
    place += ".resources"
    raw = table(resources, place)
    for key, hint in (("cpu", "units, for example 500m"), ("memory", "a size, for example 512Mi")):
        if is_null(raw.get(key)):
            raise SdlError(resources.line, f"{place}.{key} is missing; write {hint}")
    cpu = only(raw["cpu"], ("units", "attributes"), f"{place}.cpu")
    if is_null(cpu.get("units")):
        raise SdlError(raw["cpu"].line, f"{place}.cpu.units is missing; write CPU cores such as 500m or 2")
    memory = table(raw["memory"], f"{place}.memory")
    if is_null(memory.get("size")):
        raise SdlError(raw["memory"].line, f"{place}.memory.size is missing; write a size such as 512Mi")
    units, attributes = gpu_attributes(raw.get("gpu"), f"{place}.gpu")
    arch = only(cpu.get("attributes"), ("arch",), f"{place}.cpu.attributes")
    return Compute(
        lines={key: value.line for key, value in raw.items()} | {"": resources.line},
        cpu_milli=quantity(cpu["units"], f"{place}.cpu.units", quantities.cpu_milli),
        cpu_attributes=tuple(Attribute(k, text(v, f"{place}.cpu.attributes.{k}")) for k, v in sorted(arch.items())),
        memory_bytes=quantity(memory["size"], f"{place}.memory.size", quantities.size_bytes),
        volumes=volumes(raw.get("storage"), f"{place}.storage"),
        gpu_units=units,
        gpu_attributes=attributes,
    )


def placement(node: Node, place: str) -> Placement:
    raw = table(node, place)
    attributes = table(raw.get("attributes"), f"{place}.attributes")
    signed = raw.get("signedBy")
    auditors = table(signed, f"{place}.signedBy")
    return Placement(
        line_of(node, "pricing", node.line),
        tuple(Attribute(key, text(attributes[key], f"{place}.attributes.{key}")) for key in sorted(attributes)),
        texts(auditors.get("allOf"), f"{place}.signedBy.allOf"),
        texts(auditors.get("anyOf"), f"{place}.signedBy.anyOf"),
        {
            name: _price(entry, f"{place}.pricing.{name}")
            for name, entry in table(raw.get("pricing"), f"{place}.pricing").items()
        },
    )


def _price(node: Node, place: str) -> Price:
    raw = table(node, place)
    amount = raw.get("amount")
    if amount is None:
        raise SdlError(node.line, f"{place}.amount is missing; write the most to pay per block")
    return Price(
        node.line,
        text(raw.get("denom"), f"{place}.denom"),
        quantity(amount, f"{place}.amount", quantities.price),
    )


def uses(node: Node, place: str) -> dict[str, Use]:
    found = {}
    for name, entry in table(node, place).items():
        raw = table(entry, f"{place}.{name}")
        found[name] = Use(
            entry.line,
            text(raw.get("profile"), f"{place}.{name}.profile"),
            number(raw.get("count"), f"{place}.{name}.count"),
        )
    return found
