"""What a message handler works with: state, block and the events it emits."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from gpulease.devnet.render import to_json
from gpulease.devnet.state import State


@dataclass(frozen=True, slots=True)
class Event:
    """One ABCI event: attributes in order, as (key, value) text."""

    type: str
    attributes: tuple[tuple[str, str], ...]

    def with_attribute(self, key: str, value: str) -> Event:
        return Event(self.type, (*self.attributes, (key, value)))


@dataclass(slots=True)
class Context:
    """One transaction's (or block phase's) view. ``params`` are the genesis parameters by module."""

    state: State
    chain_id: str
    height: int
    time_ns: int
    params: dict[str, dict[str, Any]]
    events: list[Event] = field(default_factory=list)

    def emit(self, type_: str, attributes: Iterable[tuple[str, str]]) -> None:
        self.events.append(Event(type_, tuple(attributes)))

    def emit_typed(self, message: Message) -> None:
        """A typed event: fields as compact JSON, sorted by name (cosmos-sdk ``TypedEventToEvent``)."""
        fields = to_json(message)
        self.emit(
            message.DESCRIPTOR.full_name,
            ((name, json.dumps(fields[name], separators=(",", ":"), ensure_ascii=False)) for name in sorted(fields)),
        )
