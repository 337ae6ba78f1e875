"""Pages of a list, and filters by state, as the chain's queries take them.

Two kinds: the cosmos modules' plain pages, and those of the market's indexes, whose key names the states still to be
visited and the next item, so that a page resumes where the last one ended even when items before it have changed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.devnet import errors

from cosmos.base.query.v1beta1 import pagination_pb2

T = TypeVar("T")
DEFAULT_LIMIT = 100
_CHECKSUM_BYTES = 4


def page(items: Sequence[T], request: Any) -> tuple[list[T], Any]:
    """Offset or key pagination over a full list; the key is the offset as 8 bytes. Returns items and PageResponse.

    The total is counted where it is asked for or no limit is given, and never for a page found by key.
    """
    if request.key and request.offset:
        words = "invalid request, either offset or key is expected, got both"
        raise errors.QueryError(errors.INVALID_ARGUMENT, f"paginate: {words}")
    limit = int(request.limit) or DEFAULT_LIMIT
    start = int.from_bytes(request.key, "big") if request.key else int(request.offset)
    ordered = list(reversed(items)) if request.reverse else list(items)
    chosen = ordered[start : start + limit]
    answer = pagination_pb2.PageResponse()
    if start + limit < len(ordered):
        answer.next_key = (start + limit).to_bytes(8, "big")
    if not request.key and (request.count_total or not request.limit):
        answer.total = len(ordered)
    return chosen, answer


def state_number(enum: Any, text: str) -> int | None:
    """None for no filter; ``QueryError`` for a word that is no state."""
    if not text:
        return None
    number = dict(enum.items()).get(text)
    if number is None or number == 0:
        raise errors.QueryError(errors.INVALID_ARGUMENT, "invalid state value")
    return int(number)


def indexed_page(
    items: Iterable[T],
    request: Any,
    *,
    enum: Any,
    state: str,
    state_of: Callable[[T], int],
    key_of: Callable[[T], bytes],
    path: int,
    state_mark: bytes,
) -> tuple[list[T], Any]:
    """A page of an index: by state then key, or, where ``path`` is not 0, by key over all states.

    ``state_mark`` is what a key of the state index carries; the total is that of the page.
    """
    if request.offset and not state:
        words = "invalid request parameters. if offset is set, filter.state must be provided"
        raise errors.QueryError(errors.INVALID_ARGUMENT, words)
    number = state_number(enum, state)
    states = [number] if number is not None else sorted(n for _, n in enum.items() if n)
    resume = b""
    if request.key:
        states, resume, mark = decode_key(bytes(request.key))
        if state_mark and len(mark) != 1:
            raise errors.QueryError(errors.INVALID_ARGUMENT, "invalid pagination key")
        path = mark[0] if mark else 0
    elif request.reverse and not path:
        states.reverse()
    rows = _rows(items, states, state_of, key_of, by_key=bool(path), reverse=bool(request.reverse), resume=resume)
    start, limit = int(request.offset), int(request.limit) or DEFAULT_LIMIT
    chosen = rows[start : start + limit]
    answer = pagination_pb2.PageResponse(total=len(chosen))
    if start + limit < len(rows):
        following = rows[start + limit]
        left = states if path else states[states.index(state_of(following)) :]
        mark = bytes([path]) if path else state_mark
        answer.next_key = encode_key(left, bytes([left[0]]), key_of(following), mark)
    return chosen, answer


def _rows(
    items: Iterable[T],
    states: list[int],
    state_of: Callable[[T], int],
    key_of: Callable[[T], bytes],
    *,
    by_key: bool,
    reverse: bool,
    resume: bytes,
) -> list[T]:
    """Items in the order the index is walked, from ``resume`` on."""
    position = {state: index for index, state in enumerate(states)}
    found = [(0 if by_key else position[state_of(x)], key_of(x), x) for x in items if state_of(x) in position]
    found.sort(key=lambda row: row[1], reverse=reverse)
    found.sort(key=lambda row: row[0])
    if resume:
        found = [row for row in found if row[0] or (row[1] <= resume if reverse else row[1] >= resume)]
    return [row[2] for row in found]


def encode_key(states: Sequence[int], prefix: bytes, key: bytes, mark: bytes) -> bytes:
    """Checksum, then states, prefix, key and mark, each behind its length."""
    parts = [bytes(states), prefix, key, *([mark] if mark else [])]
    body = b"".join(bytes([len(part)]) + part for part in parts)
    return zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "big") + body


def decode_key(raw: bytes) -> tuple[list[int], bytes, bytes]:
    """(states, key, mark); ``QueryError`` for bytes that no page has given out."""
    body = raw[_CHECKSUM_BYTES:]
    expected, given = zlib.crc32(body), int.from_bytes(raw[:_CHECKSUM_BYTES], "big")
    if len(raw) <= _CHECKSUM_BYTES or expected != given:
        words = f"pagination: invalid key: invalid checksum, 0x{expected:08x} != 0x{given:08x}"
        raise errors.QueryError(errors.INVALID_ARGUMENT, words)
    parts = []
    while body:
        length = body[0]
        parts.append(body[1 : 1 + length])
        body = body[1 + length :]
    if len(parts) not in (3, 4) or not parts[0]:
        raise errors.QueryError(errors.INVALID_ARGUMENT, "pagination: invalid key: invalid state length")
    return list(parts[0]), parts[2], parts[3] if len(parts) == 4 else b""


def text_key(text: str) -> bytes:
    """A text that is not the last part of a key: ended by a zero byte."""
    return text.encode() + b"\0"


def number_key(number: int, size: int) -> bytes:
    return number.to_bytes(size, "big")
