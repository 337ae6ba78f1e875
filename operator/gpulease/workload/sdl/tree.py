"""YAML from a stranger as a small tree with line numbers, within limits on size, depth and aliases.

Nodes are built from PyYAML's event stream, so nothing is composed before it is counted: an alias weighs as much as
what it repeats, and a document that grows past the limits is refused at the line where it does. Scalars are resolved
as the peer's reader does (YAML 1.2 with a few leftovers of 1.1): ``yes`` is text, ``0x50`` a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from gpulease.errors import SdlError

MAX_BYTES = 262_144
MAX_DEPTH = 32
MAX_NODES = 20_000
"""Nodes of the whole document, those an alias repeats counted each time."""
MAX_ANCHORS = 256

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_TAGS = {f"{_TAG}{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq")}
_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0b[01]+|0o[0-7]+|0x[0-9a-fA-F]+|[0-9]+)\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_SPECIAL = re.compile(r"([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z")
_LONGEST_NUMBER = 64


@dataclass(frozen=True, slots=True)
class Scalar:
    """``kind`` is ``null``, ``bool``, ``int``, ``float`` or ``str``; ``text`` as it was written."""

    line: int
    kind: str
    text: str
    weight: int = 1
    height: int = 1


@dataclass(frozen=True, slots=True)
class Items:
    line: int
    items: tuple[Node, ...]
    weight: int = 1
    height: int = 1


@dataclass(frozen=True, slots=True)
class Table:
    """Keys are text, each once; ``key_lines`` says where a key stands."""

    line: int
    entries: Mapping[str, Node]
    key_lines: Mapping[str, int]
    weight: int = 1
    height: int = 1

    def line_of(self, key: str) -> int:
        return self.key_lines.get(key, self.line)


Node = Scalar | Items | Table


def parse(text: str) -> Node | None:
    """The first document, None for an empty one; ``SdlError`` for what is no YAML or too much of it."""
    if not _writable(text):
        raise SdlError(1, "the text holds half a character, which has no UTF-8; write it as UTF-8")
    size = len(text.encode())
    if size > MAX_BYTES:
        raise SdlError(1, f"the document has {size} bytes; keep it within {MAX_BYTES}")
    try:
        events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        return _Builder().first_document(events)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SdlError(mark.line + 1 if mark else 1, f"this is not YAML: {_words(error)}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The last two: numbers in escapes and directives that are out of every range.
        raise SdlError(1, f"this is not YAML: {_words(error)}") from None


def _writable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _words(error: Exception) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
    return " ".join(str(problem).split())


@dataclass(slots=True)
class _Open:
    """A collection that has begun and not ended; in a mapping keys and values alternate."""

    line: int
    anchor: str | None
    is_mapping: bool
    children: list[Node] = field(default_factory=list)
    weight: int = 1
    height: int = 1


class _Builder:
    def __init__(self) -> None:
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}
        self._root: Node | None = None
        self._values = 0

    def first_document(self, events: Iterator[Any]) -> Node | None:
        for event in events:
            if isinstance(event, yaml.DocumentEndEvent):
                break
            if isinstance(event, yaml.NodeEvent):
                mark: Any = event.start_mark
                self._node(event, mark.line + 1)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._close()
        return self._root

    def _node(self, event: Any, line: int) -> None:
        if isinstance(event, yaml.AliasEvent):
            node = self._alias(str(event.anchor), line)
            self._count(node.weight, line)
            self._add(node, line)
            return
        self._count(1, line)
        if event.tag not in (None, "!") and event.tag not in _TAGS:
            raise SdlError(line, f"the tag {event.tag!r} is not used in an SDL; remove it")
        self._open_anchor(event.anchor, line)
        if isinstance(event, yaml.ScalarEvent):
            if not _writable(event.value):
                raise SdlError(line, "this holds half a character, which has no UTF-8; write it as UTF-8")
            node = Scalar(line, _kind(event, line), event.value)
            self._anchor(event.anchor, node)
            self._add(node, line)
            return
        if len(self._stack) >= MAX_DEPTH:
            raise SdlError(line, f"this is nested more than {MAX_DEPTH} deep; an SDL needs no more than 12")
        self._stack.append(_Open(line, event.anchor, isinstance(event, yaml.MappingStartEvent)))

    def _count(self, values: int, line: int) -> None:
        self._values += values
        if self._values > MAX_NODES:
            raise SdlError(line, f"the document has more than {MAX_NODES} values, aliases counted; make it smaller")

    def _open_anchor(self, anchor: str | None, line: int) -> None:
        if anchor is None:
            return
        if len(self._anchors) >= MAX_ANCHORS:
            raise SdlError(line, f"more than {MAX_ANCHORS} anchors; write the values out")
        self._anchors[anchor] = None

    def _anchor(self, anchor: str | None, node: Node) -> None:
        if anchor is not None:
            self._anchors[anchor] = node

    def _alias(self, anchor: str, line: int) -> Node:
        if anchor not in self._anchors:
            raise SdlError(line, f"the alias *{anchor} names no anchor; define &{anchor} above it")
        node = self._anchors[anchor]
        if node is None:
            raise SdlError(line, f"the alias *{anchor} stands inside of its own anchor; write the value out")
        return node

    def _add(self, node: Node, line: int) -> None:
        if not self._stack:
            self._root = node
            return
        top = self._stack[-1]
        top.children.append(node)
        top.weight += node.weight
        top.height = max(top.height, node.height + 1)
        if len(self._stack) + node.height > MAX_DEPTH + 1:
            raise SdlError(line, f"aliases nest this more than {MAX_DEPTH} deep; write the values out")

    def _close(self) -> None:
        top = self._stack.pop()
        node = _mapping(top) if top.is_mapping else Items(top.line, tuple(top.children), top.weight, top.height)
        self._anchor(top.anchor, node)
        self._add(node, top.line)


def _mapping(top: _Open) -> Table:
    entries: dict[str, Node] = {}
    lines: dict[str, int] = {}
    merged: list[Node] = []
    for key, value in zip(top.children[::2], top.children[1::2], strict=True):
        if not isinstance(key, Scalar):
            raise SdlError(key.line, "a key must be a word, not a list or mapping")
        if key.kind == "merge":
            merged.append(value)
        elif key.text in entries:
            raise SdlError(key.line, f"the key {key.text!r} stands here twice, first in line {lines[key.text]}")
        else:
            entries[key.text], lines[key.text] = value, key.line
    for value in merged:
        _merge(value, entries, lines)
    return Table(top.line, entries, lines, top.weight, top.height)


def _merge(value: Node, entries: dict[str, Node], lines: dict[str, int]) -> None:
    """``<<``: what stands in the mapping itself wins, then the first of several."""
    for source in value.items if isinstance(value, Items) else (value,):
        if not isinstance(source, Table):
            raise SdlError(source.line, "<< merges mappings only; name one or a list of them")
        for key, inner in source.entries.items():
            if key not in entries:
                entries[key], lines[key] = inner, source.line_of(key)


def _kind(event: Any, line: int) -> str:
    text: str = event.value
    if event.tag not in (None, "!"):
        kind = event.tag.removeprefix(_TAG)
        if kind == "str" or (kind == _resolve(text)) or (kind == "float" and _resolve(text) == "int"):
            return str(kind)
        raise SdlError(line, f"{shown(text)} is not a value of type {kind}; remove the tag or change the value")
    if event.tag == "!" or event.style not in (None, ""):
        return "str"
    return plain_kind(text)


def plain_kind(text: str) -> str:
    """What a scalar is without quotes and tag: ``merge`` for ``<<``, else a kind of Scalar."""
    return "merge" if text == "<<" else _resolve(text)


def _resolve(text: str) -> str:
    if text in _NULLS:
        return "null"
    if text in _BOOLS:
        return "bool"
    if len(text) <= _LONGEST_NUMBER:
        digits = text.replace("_", "") if text[0] in "-+0123456789" else text
        if _INT.match(digits):
            return "int"
        if _FLOAT.match(digits) or _SPECIAL.match(text):
            return "float"
    return "str"


def boolean(node: Scalar) -> bool:
    return _BOOLS[node.text]


def integer(node: Scalar) -> int:
    """The value of an ``int``: 0b, 0o and 0x, and a leading 0 for octal as the peer reads it."""
    digits = node.text.replace("_", "")
    sign, body = (-1, digits[1:]) if digits[0] == "-" else (1, digits.lstrip("+"))
    if body[:2] in ("0b", "0o", "0x"):
        return sign * int(body, 0)
    if len(body) > 1 and body[0] == "0" and not body.strip("01234567"):
        return sign * int(body, 8)
    return sign * int(body)


def shown(text: str) -> str:
    """A stranger's text for a message: quoted, and not the whole of it."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def plain(node: Node) -> Any:
    """The tree as dicts, lists and scalars."""
    if isinstance(node, Table):
        return {key: plain(value) for key, value in node.entries.items()}
    if isinstance(node, Items):
        return [plain(item) for item in node.items]
    if node.kind == "null":
        return None
    if node.kind == "bool":
        return boolean(node)
    if node.kind == "int":
        return integer(node)
    return node.text
