"""Shapes for trees of YAML: small descriptions of what may stand where, each of which can check a node.

Used by the schema layer; a shape refuses with the line and a sentence that names the place and says what to write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gpulease.errors import SdlError
from gpulease.workload.sdl.tree import Items, Node, Scalar, Table, boolean, integer, shown


class Shape(Protocol):
    def check(self, node: Node, place: str) -> None:
        """``SdlError`` unless the node is as described; ``place`` is its path, for the message."""


def name_of(node: Node) -> str:
    if isinstance(node, Table):
        return "a mapping"
    if isinstance(node, Items):
        return "a list"
    words = {"null": "nothing", "str": f"the text {shown(node.text)}"}
    return words.get(node.kind, shown(node.text).strip("'"))


def refuse(node: Node, place: str, wants: str) -> SdlError:
    return SdlError(node.line, f"{place} must be {wants}, not {name_of(node)}")


@dataclass(frozen=True, slots=True)
class Text:
    """A string; ``pattern`` has to match the whole of it. A ``secret`` is not repeated in the message."""

    wants: str = "text"
    min_length: int = 0
    pattern: re.Pattern[str] | None = None
    one_of: tuple[str, ...] = ()
    secret: bool = False

    def check(self, node: Node, place: str) -> None:
        if self.secret and isinstance(node, Scalar) and (node.kind != "str" or len(node.text) < self.min_length):
            raise SdlError(node.line, f"{place} must be {self.wants}, in quotes")
        if not isinstance(node, Scalar) or node.kind != "str":
            quoted = isinstance(node, Scalar) and node.kind not in ("str", "null")
            raise refuse(node, place, self.wants + (" in quotes" if quoted else ""))
        fits = len(node.text) >= self.min_length and (self.pattern is None or self.pattern.fullmatch(node.text))
        if not fits or (self.one_of and node.text not in self.one_of):
            raise refuse(node, place, self.wants)


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within limits."""

    least: int = 0
    most: int | None = None

    def check(self, node: Node, place: str) -> None:
        value = whole_number(node)
        if value is None or value < self.least or (self.most is not None and value > self.most):
            limits = f"from {self.least} to {self.most}" if self.most is not None else f"of {self.least} or more"
            raise refuse(node, place, f"a whole number {limits}")


def whole_number(node: Node) -> int | None:
    """The value of an integer, or of a float without a fraction such as 80.0."""
    if isinstance(node, Scalar) and node.kind == "int":
        return integer(node)
    if isinstance(node, Scalar) and node.kind == "float":
        try:
            value = float(node.text.replace("_", ""))
        except ValueError:  # .inf and .nan
            return None
        return int(value) if value.is_integer() and abs(value) < 2**53 else None
    return None


@dataclass(frozen=True, slots=True)
class Flag:
    must_be: bool | None = None

    def check(self, node: Node, place: str) -> None:
        if not isinstance(node, Scalar) or node.kind != "bool":
            raise refuse(node, place, "true or false")
        if self.must_be is not None and boolean(node) is not self.must_be:
            raise refuse(node, place, str(self.must_be).lower())


@dataclass(frozen=True, slots=True)
class Number:
    """Text that fits ``pattern`` and is not ``never``, or a number above (with ``zero`` from) 0."""

    wants: str
    pattern: re.Pattern[str] | None = None
    never: re.Pattern[str] | None = None
    zero: bool = False

    def check(self, node: Node, place: str) -> None:
        if not isinstance(node, Scalar) or not (self._number(node) or self._text(node)):
            raise refuse(node, place, self.wants)

    def _text(self, node: Scalar) -> bool:
        if node.kind != "str" or (self.pattern is not None and not self.pattern.fullmatch(node.text)):
            return False
        return self.never is None or not self.never.fullmatch(node.text)

    def _number(self, node: Scalar) -> bool:
        if node.kind == "int":
            return integer(node) > 0 or (self.zero and integer(node) == 0)
        if node.kind != "float":
            return False
        try:
            value = float(node.text.replace("_", ""))
        except ValueError:
            return False
        return value > 0 or (self.zero and value == 0)


@dataclass(frozen=True, slots=True)
class ListOf:
    item: Shape
    nullable: bool = False

    def check(self, node: Node, place: str) -> None:
        if self.nullable and isinstance(node, Scalar) and node.kind == "null":
            return
        if not isinstance(node, Items):
            raise refuse(node, place, "a list")
        for number, entry in enumerate(node.items):
            self.item.check(entry, f"{place}[{number}]")


@dataclass(frozen=True, slots=True)
class MapOf:
    """Any keys of one kind; ``key`` has to match the whole key."""

    value: Shape
    key: re.Pattern[str] | None = None
    key_wants: str = ""

    def check(self, node: Node, place: str) -> None:
        if not isinstance(node, Table):
            raise refuse(node, place, "a mapping")
        for key, value in node.entries.items():
            if self.key is not None and not self.key.fullmatch(key):
                raise SdlError(node.line_of(key), f"the name {shown(key)} in {place} must be {self.key_wants}")
            self.value.check(value, f"{place}.{key}")


@dataclass(frozen=True, slots=True)
class Record:
    """Known keys only. ``needs`` says for each key that must be there what to write."""

    fields: Mapping[str, Shape]
    needs: Mapping[str, str] = field(default_factory=dict)
    also: Callable[[Table, str], None] | None = None

    def check(self, node: Node, place: str) -> None:
        if not isinstance(node, Table):
            raise refuse(node, place or "an SDL", "a mapping")
        unknown = [key for key in node.entries if key not in self.fields]
        for key, hint in self.needs.items():
            if key not in node.entries:
                besides = f" (the key {shown(unknown[0])} is not known)" if unknown else ""
                raise SdlError(node.line, f"{place + '.' if place else ''}{key} is missing; {hint}{besides}")
        for key in unknown:
            known = ", ".join(sorted(self.fields))
            where = f" in {place}" if place else ""
            raise SdlError(node.line_of(key), f"the key {shown(key)}{where} is not known; use {known}")
        if self.also is not None:
            self.also(node, place)
        for key, value in node.entries.items():
            self.fields[key].check(value, f"{place}.{key}".lstrip("."))


@dataclass(frozen=True, slots=True)
class Anything:
    """A mapping whose content the language itself reads."""

    def check(self, node: Node, place: str) -> None:
        if not isinstance(node, Table):
            raise refuse(node, place, "a mapping")


@dataclass(frozen=True, slots=True)
class OneOrList:
    """One record, or a list of them."""

    one: Shape

    def check(self, node: Node, place: str) -> None:
        if isinstance(node, Items):
            ListOf(self.one).check(node, place)
        else:
            self.one.check(node, place)


@dataclass(frozen=True, slots=True)
class Nullable:
    inner: Shape

    def check(self, node: Node, place: str) -> None:
        if not (isinstance(node, Scalar) and node.kind == "null"):
            self.inner.check(node, place)
