"""Texts as the chain's Go code writes them into its refusals: raw bytes, times and messages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from gpulease.units import NS_PER_S

_REPLACEMENT = "\ufffd"
_ESCAPES = {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x22: '\\"', 0x5C: "\\\\"}


def raw_bytes(raw: bytes) -> str:
    """Bytes printed as text and carried in JSON: each byte that is no UTF-8 becomes one replacement character."""
    out: list[str] = []
    at = 0
    while at < len(raw):
        for width in (1, 2, 3, 4):
            try:
                out.append(raw[at : at + width].decode())
            except UnicodeDecodeError:
                continue
            at += width
            break
        else:
            out.append(_REPLACEMENT)
            at += 1
    return "".join(out)


def time_text(time_ns: int) -> str:
    """``time.Time.String()`` in UTC: the fraction without trailing zeros."""
    seconds, nanos = divmod(time_ns, NS_PER_S)
    text = datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
    fraction = f"{nanos:09d}".rstrip("0")
    return f"{text}{'.' + fraction if fraction else ''} +0000 UTC"


def rfc3339(time_ns: int) -> str:
    """``time.RFC3339``: whole seconds."""
    return datetime.fromtimestamp(time_ns // NS_PER_S, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def message_text(message: Message) -> str:
    """``proto.CompactTextString``: fields in number order, defaults left out, a space after each."""
    return "".join(_fields(message))


def _fields(message: Message) -> Iterator[str]:
    for field in sorted(message.DESCRIPTOR.fields, key=lambda f: f.number):
        value = getattr(message, field.name)
        if field.label == FieldDescriptor.LABEL_REPEATED:
            for item in value:
                yield _entry(field, item)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            if message.HasField(field.name):
                yield _entry(field, value)
        elif value != field.default_value:
            yield _entry(field, value)


def _entry(field: FieldDescriptor, value: object) -> str:
    if isinstance(value, Message):
        return f"{field.name}:<{message_text(value)}> "
    if field.type == FieldDescriptor.TYPE_ENUM:
        entry = field.enum_type.values_by_number.get(value)
        return f"{field.name}:{entry.name if entry is not None else value} "
    if isinstance(value, bool):
        return f"{field.name}:{'true' if value else 'false'} "
    if isinstance(value, str):
        return f'{field.name}:"{_escaped(value.encode())}" '
    if isinstance(value, bytes):
        return f'{field.name}:"{_escaped(value)}" '
    return f"{field.name}:{value} "


def quoted(text: str) -> str:
    """Go's ``%q`` of a text."""
    return f'"{_escaped(text.encode())}"'


def _escaped(raw: bytes) -> str:
    return "".join(_ESCAPES.get(b) or (chr(b) if 0x20 <= b < 0x7F else f"\\{b:03o}") for b in raw)
