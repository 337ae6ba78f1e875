"""The broadcaster's outbox in the journal."""

from __future__ import annotations

import base64
from typing import Any

from gpulease.chain.outbox import Entry, Intent, Priority, State
from gpulease.store.journal import Journal

_KIND = "outbox"


class JournalOutbox:
    """Implements :class:`gpulease.chain.outbox.Outbox`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def outbox_get(self, key: str) -> Entry | None:
        body = self._journal.get(_KIND, key)
        return None if body is None else _entry(body)

    def outbox_put(self, entry: Entry) -> None:
        intent = entry.intent
        self._journal.put(_KIND, intent.key, _body(entry), owner=intent.signer, is_open=not entry.state.final)

    def outbox_open(self, signer: str) -> list[Entry]:
        return [_entry(body) for _, body in self._journal.list_open(_KIND, owner=signer)]


def _body(entry: Entry) -> dict[str, Any]:
    intent = entry.intent
    return {
        "key": intent.key,
        "kind": intent.kind,
        "messages": [[url, base64.b64encode(value).decode()] for url, value in intent.messages],
        "signer": intent.signer,
        "priority": intent.priority.value,
        "memo": intent.memo,
        "state": entry.state.value,
        "created_ns": entry.created_ns,
        "attempts": entry.attempts,
        "raw": base64.b64encode(entry.raw).decode(),
        "hash": entry.hash,
        "timeout_ns": entry.timeout_ns,
        "sent_ns": entry.sent_ns,
        "height": entry.height,
        "code": entry.code,
        "codespace": entry.codespace,
        "log": entry.log,
        "gas_used": entry.gas_used,
    }


def _entry(body: dict[str, Any]) -> Entry:
    intent = Intent(
        key=body["key"],
        kind=body["kind"],
        messages=tuple((url, base64.b64decode(value)) for url, value in body["messages"]),
        signer=body["signer"],
        priority=Priority(body["priority"]),
        memo=body["memo"],
    )
    return Entry(
        intent=intent,
        state=State(body["state"]),
        created_ns=body["created_ns"],
        attempts=body["attempts"],
        raw=base64.b64decode(body["raw"]),
        hash=body["hash"],
        timeout_ns=body["timeout_ns"],
        sent_ns=body["sent_ns"],
        height=body["height"],
        code=body["code"],
        codespace=body["codespace"],
        log=body["log"],
        gas_used=body["gas_used"],
    )
