"""Values out of a tree as the market's command line client decodes them: null is unset, numbers pass as text.

Every function takes the place for its message and raises ``SdlError`` with the line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from gpulease.errors import SdlError
from gpulease.workload.sdl.shapes import refuse, whole_number
from gpulease.workload.sdl.tree import Items, Node, Scalar, Table, boolean, shown

_MAX_U32 = 2**32 - 1
_YES, _NO = ("y", "Y", "yes", "on"), ("n", "N", "no", "off")
_EMPTY: Mapping[str, Node] = {}
T = TypeVar("T")


def is_null(node: Node | None) -> bool:
    return node is None or (isinstance(node, Scalar) and node.kind == "null")


def table(node: Node | None, place: str) -> Mapping[str, Node]:
    """Entries of a mapping; nothing for null."""
    if node is None or is_null(node):
        return _EMPTY
    if not isinstance(node, Table):
        raise refuse(node, place, "a mapping")
    return node.entries


def line_of(node: Node | None, key: str, default: int) -> int:
    """Where a key stands, or where its holder does."""
    return node.line_of(key) if isinstance(node, Table) else default


def items(node: Node | None, place: str) -> tuple[Node, ...]:
    if node is None or is_null(node):
        return ()
    if not isinstance(node, Items):
        raise refuse(node, place, "a list")
    return node.items


def text(node: Node | None, place: str) -> str:
    """Any scalar as it was written; empty for null."""
    if node is None or is_null(node):
        return ""
    if not isinstance(node, Scalar):
        raise refuse(node, place, "text")
    return node.text


def texts(node: Node | None, place: str) -> tuple[str, ...] | None:
    """None where nothing is set."""
    if is_null(node):
        return None
    return tuple(text(entry, f"{place}[{number}]") for number, entry in enumerate(items(node, place)))


def number(node: Node | None, place: str) -> int:
    """A whole number of 32 bits; 0 for null."""
    if node is None or is_null(node):
        return 0
    value = whole_number(node)
    if value is None or not 0 <= value <= _MAX_U32:
        raise refuse(node, place, f"a whole number from 0 to {_MAX_U32}")
    return value


def flag(node: Node | None, place: str) -> bool:
    if node is None or is_null(node):
        return False
    if isinstance(node, Scalar) and node.kind == "bool":
        return boolean(node)
    if isinstance(node, Scalar) and node.kind == "str" and node.text in _YES + _NO:
        return node.text in _YES
    raise refuse(node, place, "true or false")


def quantity(node: Node, place: str, read: Callable[[str], T]) -> T:
    """A scalar through one of the readers of ``quantities``."""
    written = text(node, place)
    try:
        return read(written)
    except ValueError as error:
        raise SdlError(node.line, f"{place} must be {error}, not {shown(written)}") from None


def only(node: Node | None, known: tuple[str, ...], place: str) -> Mapping[str, Node]:
    raw = table(node, place)
    for key in raw:
        if key not in known:
            line = line_of(node, key, 1)
            raise SdlError(line, f"the key {shown(key)} in {place} is not known; use {' or '.join(known)}")
    return raw
