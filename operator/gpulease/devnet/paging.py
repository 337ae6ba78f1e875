"""Pages of a list, and filters by state, as the chain's queries take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.devnet import errors

from cosmos.base.query.v1beta1 import pagination_pb2

T = TypeVar("T")
DEFAULT_LIMIT = 100


def page(items: Sequence[T], request: Any) -> tuple[list[T], Any]:
    """Offset or key pagination over a full list; the key is the offset as 8 bytes. Returns items and PageResponse."""
    limit = int(request.limit) or DEFAULT_LIMIT
    start = int.from_bytes(request.key, "big") if request.key else int(request.offset)
    ordered = list(reversed(items)) if request.reverse else list(items)
    chosen = ordered[start : start + limit]
    answer = pagination_pb2.PageResponse()
    if start + limit < len(ordered):
        answer.next_key = (start + limit).to_bytes(8, "big")
    if request.count_total or not request.key:
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
