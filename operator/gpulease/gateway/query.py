"""Query strings and path numbers, read as the peer's language reads them (gateway reference §1, §2).

Clients match on the texts of its number parser, and a pair that it drops (a semicolon, a broken escape) is dropped
here: a shell command with one in it runs without that word on both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from gpulease.errors import BadInput

MOST_U64 = 2**64 - 1
MOST_U32 = 2**32 - 1
_MOST_I32 = 2**31 - 1
_MOST_PAIRS = 256
_BROKEN_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_BASES = {"0x": 16, "0b": 2, "0o": 8}


class BadQuery(BadInput):
    """The text is the one that clients of the peer see."""


def pairs(query: str) -> Mapping[str, str]:
    """First value of each name."""
    found: dict[str, str] = {}
    for part in query.split("&", _MOST_PAIRS)[:_MOST_PAIRS]:
        if not part or ";" in part:
            continue
        name, _, value = part.partition("=")
        if _BROKEN_ESCAPE.search(name) or _BROKEN_ESCAPE.search(value):
            continue
        found.setdefault(_unescaped(name), _unescaped(value))
    return found


def _unescaped(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "replace")


def quoted(text: str) -> str:
    return json.dumps(text[:200], ensure_ascii=False)


def path_number(text: str, most: int) -> int:
    """Decimal, unsigned; ``BadQuery`` otherwise."""
    if not (text.isascii() and text.isdecimal()):
        raise BadQuery(f"strconv.ParseUint: parsing {quoted(text)}: invalid syntax")
    if len(text) > 40 or int(text) > most:
        raise BadQuery(f"strconv.ParseUint: parsing {quoted(text)}: value out of range")
    return int(text)


@dataclass(frozen=True, slots=True)
class StreamQuery:
    """``tail_lines`` None: all. ``services`` empty: all."""

    follow: bool = False
    tail_lines: int | None = None
    services: frozenset[str] = frozenset()


def stream_query(query: str) -> StreamQuery:
    """Of logs and kubeevents; ``BadQuery`` for a value that cannot be read."""
    found = pairs(query)
    follow = False
    if found.get("follow"):
        if found["follow"] not in _TRUE | _FALSE:
            raise BadQuery(f"strconv.ParseBool: parsing {quoted(found['follow'])}: invalid syntax")
        follow = found["follow"] in _TRUE
    tail = _tail(found["tail"]) if found.get("tail") else None
    names = found.get("service", "")
    if names.endswith(","):
        raise BadQuery("parameter service must not end with a comma")
    return StreamQuery(follow, tail, frozenset(name for name in names.split(",") if name))


def _tail(text: str) -> int | None:
    number = text[1:] if text[:1] in "+-" else text
    if not (number.isascii() and number.isdecimal()):
        raise BadQuery(f"strconv.ParseInt: parsing {quoted(text)}: invalid syntax")
    value = int(text) if len(text) <= 20 else _MOST_I32 + 1
    if not -_MOST_I32 - 1 <= value <= _MOST_I32:
        raise BadQuery(f"strconv.ParseInt: parsing {quoted(text)}: value out of range")
    if value < -1:
        raise BadQuery("parameter tail must be -1 (all) or a number of lines")
    return None if value == -1 else value


@dataclass(frozen=True, slots=True)
class ShellQuery:
    command: tuple[str, ...]
    service: str
    pod_index: int
    tty: bool
    stdin: bool


def shell_query(query: str) -> ShellQuery | None:
    """None when something that a shell needs is missing or unreadable."""
    found = pairs(query)
    command: list[str] = []
    while word := found.get(f"cmd{len(command)}"):
        command.append(word)
    index = _any_base(found.get("podIndex", ""))
    tty, stdin, service = (found.get(name, "") for name in ("tty", "stdin", "service"))
    if not command or index is None or not (tty and stdin and service):
        return None
    return ShellQuery(tuple(command), service, index, tty == "1", stdin == "1")


def _any_base(text: str) -> int | None:
    """31 bits, with the prefixes that Go's base 0 takes."""
    body, base = text, 10
    if text[:2].lower() in _BASES:
        body, base = text[2:].removeprefix("_"), _BASES[text[:2].lower()]
    elif len(text) > 1 and text[0] == "0":
        body, base = text[1:].removeprefix("_"), 8
    if not re.fullmatch(r"[0-9a-fA-F]+(_[0-9a-fA-F]+)*", body) or len(body) > 40:
        return None
    try:
        value = int(body, base)
    except ValueError:
        return None
    return value if value <= _MOST_I32 else None
