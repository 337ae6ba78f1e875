"""Frozen values to and from plain YAML data, by their type annotations alone.

Keys are field names. Ids, coins and decimals are text in the chain's own form, bytes are hexadecimal, enums are their
values. A field that may be unknown (``| None``) may be left out. Bad input is a :class:`~gpulease.errors.BadInput`
whose sentence names the path to what is wrong.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from gpulease.errors import BadInput
from gpulease.ids import DeploymentId, GroupId, LeaseId, OrderId
from gpulease.units import Coin, Dec, DecCoin

MAX_NUMBER = 2**64
_PRICE = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)([a-zA-Z].*)")


def encode(value: Any) -> Any:
    """Plain data (mappings, lists, text, numbers) of any value that :func:`decode` can read back."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple(_TEXTS)):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    return value


def decode(kind: Any, value: Any, path: str) -> Any:
    """``value`` as ``kind``; ``path`` is where it stands in the document."""
    if kind is Any:
        return value
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _optional(kind, value, path)
    if value is None:
        raise BadInput(f"{path} is empty; {_wanted(kind)} is needed")
    if origin is tuple:
        return _tuple(get_args(kind), value, path)
    if origin is dict:
        return _dict(get_args(kind), value, path)
    if is_dataclass(origin or kind) and kind not in _TEXTS:
        return _dataclass(kind, value, path)
    return _scalar(kind, value, path)


def _optional(kind: Any, value: Any, path: str) -> Any:
    others = [one for one in get_args(kind) if one is not types.NoneType]
    if value is None and len(others) < len(get_args(kind)):
        return None
    (only,) = others
    return decode(only, value, path)


def _tuple(kinds: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise BadInput(f"{path} is {_shown(value)}; a list is needed")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(decode(kinds[0], item, f"{path}[{at}]") for at, item in enumerate(value))
    if len(value) != len(kinds):
        raise BadInput(f"{path} has {len(value)} entries; {len(kinds)} are needed")
    return tuple(decode(kind, item, f"{path}[{at}]") for at, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _dict(kinds: tuple[Any, ...], value: Any, path: str) -> dict[Any, Any]:
    found = _mapping(value, path)
    return {decode(kinds[0], key, path): decode(kinds[1], item, f"{path}.{key}") for key, item in found.items()}


def _mapping(value: Any, path: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"{path} is {_shown(value)}; a mapping is needed")
    return value


def _dataclass(kind: Any, value: Any, path: str) -> Any:
    class_, hints = _hints(kind)
    given = _mapping(value, path)
    for key in given:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(hints)}"
            raise BadInput(f"{path}.{key} is not known; {hint}")
    values = {}
    for field in fields(class_):
        if field.name in given:
            values[field.name] = decode(hints[field.name], given[field.name], f"{path}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            if types.NoneType not in get_args(hints[field.name]):
                raise BadInput(f"{path}.{field.name} is missing; {_wanted(hints[field.name])} is needed")
            values[field.name] = None
    return class_(**values)


@lru_cache(maxsize=256)
def _hints(kind: Any) -> tuple[type[Any], dict[str, Any]]:
    """Field types, with the parameters of a generic class filled in."""
    class_ = get_origin(kind) or kind
    given = dict(zip(getattr(class_, "__parameters__", ()), get_args(kind), strict=False))
    hints = get_type_hints(class_)
    return class_, {
        f.name: given.get(hints[f.name], hints[f.name]) if isinstance(hints[f.name], TypeVar) else hints[f.name]
        for f in fields(class_)
    }


def _scalar(kind: Any, value: Any, path: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, Enum):
        known = {member.value: member for member in kind}
        if isinstance(value, (str, int)) and value in known:
            return known[value]
        raise BadInput(f"{path} is {_shown(value)}; one of {', '.join(map(str, known))} is needed")
    if type(value) in (int, float) and not abs(value) <= MAX_NUMBER:
        raise BadInput(f"{path} is {_shown(value)}; that is no number the chain knows")
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind in (int, bool, str):
        if type(value) is kind:
            return value
        raise BadInput(f"{path} is {_shown(value)}; {_wanted(kind)} is needed")
    read = _READERS.get(kind)
    if read is None or not isinstance(value, str):
        raise BadInput(f"{path} is {_shown(value)}; {_wanted(kind)} is needed")
    try:
        return read(value)
    except ValueError as error:
        raise BadInput(f"{path}: {error}; {_wanted(kind)} is needed") from error


def _deployment(text: str) -> DeploymentId:
    owner, (dseq,) = _parts(text, 1)
    return DeploymentId(owner, dseq)


def _group(text: str) -> GroupId:
    owner, (dseq, gseq) = _parts(text, 2)
    return GroupId(owner, dseq, gseq)


def _order(text: str) -> OrderId:
    owner, (dseq, gseq, oseq) = _parts(text, 3)
    return OrderId(owner, dseq, gseq, oseq)


def _parts(text: str, count: int) -> tuple[str, tuple[int, ...]]:
    owner, *numbers = text.split("/")
    if len(numbers) != count or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"{text!r} is no such id")
    return owner, tuple(map(int, numbers))


def _price(text: str) -> DecCoin:
    match = _PRICE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no amount")
    return DecCoin(match[2], Dec.of(match[1]))


_READERS: Mapping[Any, Callable[[str], Any]] = {
    bytes: bytes.fromhex,
    Dec: Dec.of,
    Coin: Coin.parse,
    DecCoin: _price,
    LeaseId: LeaseId.parse,
    OrderId: _order,
    GroupId: _group,
    DeploymentId: _deployment,
}
_TEXTS = frozenset(_READERS) - {bytes}
_WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    bytes: "hexadecimal text in quotes",
    Dec: "a decimal in quotes, such as '12.5'",
    Coin: "an amount such as 500000uakt",
    DecCoin: "a price such as 12.5uact",
    LeaseId: "OWNER/DSEQ/GSEQ/OSEQ/PROVIDER",
    OrderId: "OWNER/DSEQ/GSEQ/OSEQ",
    GroupId: "OWNER/DSEQ/GSEQ",
    DeploymentId: "OWNER/DSEQ",
}


def _wanted(kind: Any) -> str:
    if kind in _WORDS:
        return _WORDS[kind]
    origin = get_origin(kind) or kind
    if origin is tuple:
        return "a list"
    return f"one of {', '.join(str(m.value) for m in origin)}" if issubclass(origin, Enum) else "a mapping"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
