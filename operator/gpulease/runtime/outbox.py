"""The broadcaster's outbox in the journal: intents, the transactions they travel in, and each signer's purse."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from gpulease.chain.fees import Purse
from gpulease.chain.outbox import Entry, Intent, Priority, SignedTx, State
from gpulease.store.journal import Journal

_ENTRY, _TX, _PURSE = "outbox", "outbox-tx", "purse"
_STATES = {state.value: state for state in State}
_MOST_DECODED = 1000


class JournalOutbox:
    """Implements :class:`gpulease.chain.outbox.Outbox`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        # An intent never changes; decoding its messages is most of the work of reading an entry.
        self._intents: dict[str, Intent] = {}

    def outbox_get(self, key: str) -> Entry | None:
        body = self._journal.get(_ENTRY, key)
        return None if body is None else self._entry(body)

    def outbox_put(self, entry: Entry) -> None:
        intent = entry.intent
        self._journal.put(_ENTRY, intent.key, _body(entry), owner=intent.signer, is_open=not entry.state.final)

    def outbox_open(self, signer: str) -> list[Entry]:
        return [self._entry(body) for _, body in self._journal.list_open(_ENTRY, owner=signer)]

    def _entry(self, body: dict[str, Any]) -> Entry:
        intent = self._intents.get(body["key"])
        if intent is None:
            if len(self._intents) >= _MOST_DECODED:
                self._intents.clear()
            intent = self._intents[body["key"]] = _intent(body)
        return _entry(body, intent)

    def outbox_txs(self, signer: str) -> list[SignedTx]:
        return [_tx(body) for _, body in self._journal.list_open(_TX, owner=signer)]

    def outbox_purse(self, signer: str) -> Purse:
        body = self._journal.get(_PURSE, signer)
        return Purse(signer) if body is None else _purse(body)

    def outbox_commit(
        self,
        entries: Sequence[Entry],
        *,
        tx: SignedTx | None = None,
        settled: SignedTx | None = None,
        purse: Purse | None = None,
    ) -> None:
        with self._journal.transaction():
            for entry in entries:
                self.outbox_put(entry)
            if tx is not None:
                self._journal.put(_TX, tx.hash, _tx_body(tx), owner=tx.signer)
            if settled is not None:
                self._journal.delete(_TX, settled.hash)
            if purse is not None:
                self._journal.put(_PURSE, purse.signer, _purse_body(purse), owner=purse.signer, is_open=False)


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
        "hash": entry.hash,
        "timeout_ns": entry.timeout_ns,
        "sent_ns": entry.sent_ns,
        "height": entry.height,
        "code": entry.code,
        "codespace": entry.codespace,
        "log": entry.log,
        "gas_used": entry.gas_used,
        "failures": entry.failures,
        "most_with": entry.most_with,
        "suspect": entry.suspect,
        "not_before_ns": entry.not_before_ns,
    }


def _intent(body: dict[str, Any]) -> Intent:
    return Intent(
        key=body["key"],
        kind=body["kind"],
        messages=tuple((url, base64.b64decode(value)) for url, value in body["messages"]),
        signer=body["signer"],
        priority=Priority(body["priority"]),
        memo=body["memo"],
    )


def _entry(body: dict[str, Any], intent: Intent) -> Entry:
    return Entry(
        intent=intent,
        state=_STATES[body["state"]],
        created_ns=body["created_ns"],
        attempts=body["attempts"],
        hash=body["hash"],
        timeout_ns=body["timeout_ns"],
        sent_ns=body["sent_ns"],
        height=body["height"],
        code=body["code"],
        codespace=body["codespace"],
        log=body["log"],
        gas_used=body["gas_used"],
        failures=body["failures"],
        most_with=body["most_with"],
        suspect=body["suspect"],
        not_before_ns=body["not_before_ns"],
    )


def _tx_body(tx: SignedTx) -> dict[str, Any]:
    return {
        "hash": tx.hash,
        "raw": base64.b64encode(tx.raw).decode(),
        "signer": tx.signer,
        "keys": list(tx.keys),
        "priority": tx.priority.value,
        "gas": tx.gas,
        "fee_uakt": tx.fee_uakt,
        "signed_ns": tx.signed_ns,
        "timeout_ns": tx.timeout_ns,
        "after_height": tx.after_height,
        "sequence": tx.sequence,
        "sent_ns": tx.sent_ns,
    }


def _tx(body: dict[str, Any]) -> SignedTx:
    return SignedTx(
        hash=body["hash"],
        raw=base64.b64decode(body["raw"]),
        signer=body["signer"],
        keys=tuple(body["keys"]),
        priority=Priority(body["priority"]),
        gas=body["gas"],
        fee_uakt=body["fee_uakt"],
        signed_ns=body["signed_ns"],
        timeout_ns=body["timeout_ns"],
        after_height=body["after_height"],
        sequence=body["sequence"],
        sent_ns=body["sent_ns"],
    )


def _purse_body(purse: Purse) -> dict[str, Any]:
    return {
        "signer": purse.signer,
        "by_hour": {str(hour): amount for hour, amount in purse.by_hour.items()},
        "paid_uakt": purse.paid_uakt,
        "gas": dict(purse.gas),
        "last_timeout_ns": purse.last_timeout_ns,
    }


def _purse(body: dict[str, Any]) -> Purse:
    return Purse(
        signer=body["signer"],
        by_hour={int(hour): amount for hour, amount in body["by_hour"].items()},
        paid_uakt=body["paid_uakt"],
        gas=dict(body["gas"]),
        last_timeout_ns=body["last_timeout_ns"],
    )
