"""The ledger on disk: what each block moved in or out of our accounts, once, and how that compares with the chain."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from gpulease.chain.client import ChainClient
from gpulease.chain.events import Block, RawEvent
from gpulease.errors import ChainError
from gpulease.money.ledger import Ledger, LedgerEntry, Posting, Transfer, entries_of, opening
from gpulease.store.journal import Journal
from gpulease.units import UACT

log = structlog.get_logger(__name__)


class Books:
    """One ledger per chain. Accounts are opened with their balance at a height and followed from there."""

    def __init__(self, journal: Journal, chain_id: str, *, height: int) -> None:
        """``height`` is the last block that was booked, 0 for none."""
        self.height = height
        self._journal, self._stream = journal, f"ledger:{chain_id}"
        self._cursor_key = chain_id
        self.ledger = Ledger()
        for row in journal.read_all(self._stream):
            self.ledger.post(_entry(row.key, row.body))

    @property
    def accounts(self) -> frozenset[str]:
        body = self._journal.get("book-accounts", self._cursor_key)
        return frozenset(body["opened"]) if body else frozenset()

    def _opened_at(self) -> dict[str, int]:
        body = self._journal.get("book-accounts", self._cursor_key)
        return dict(body["opened"]) if body else {}

    async def open_account(self, client: ChainClient, address: str) -> bool:
        """Open the book on an account; False when its balance after the last block booked could not be had now.

        An account whose blocks were not all read (see :meth:`skip_to`) goes on from what it holds now.
        """
        if address in self.accounts:
            return True
        height = self.height
        balances = await self._balances(client, address, height)
        if balances is None:
            return False
        opened = self._opened_at()
        opened[address] = height
        moved = self.ledger.difference(address, balances)
        entry = opening(address, moved, height=height, again=self.ledger.has_book(address))
        with self._journal.transaction():
            if entry.postings:
                self._journal.append(self._stream, [(entry.id, _body(entry))])
            self._journal.put("book-accounts", self._cursor_key, {"opened": opened})
        if entry.postings:
            self.ledger.post(entry)
        return True

    async def _balances(self, client: ChainClient, address: str, height: int) -> dict[str, int] | None:
        """At exactly ``height``, from a node that has it; None when none has, or a block was booked meanwhile."""
        if not height:
            return None
        try:
            found = await client.balances(address, height=height)
        except ChainError:
            return None
        return found if self.height == height else None

    def skip_to(self, height: int) -> None:
        """Blocks up to ``height`` will never be read: what they moved is unknown, so every book is opened anew."""
        if height <= self.height:
            return
        if self.height and self.accounts:
            log.warning("blocks were not read, books are opened anew", from_height=self.height + 1, to_height=height)
            self._journal.put("book-accounts", self._cursor_key, {"opened": {}})
        self.height = height

    def read_block(self, block: Block) -> None:
        """Post every transfer of the block that touches an open account.

        Blocks come in order. Where some are missing, every book is opened anew; one that was read before changes
        nothing.
        """
        if self.height and block.height > self.height + 1:
            self.skip_to(block.height - 1)
        self._read_block(block)
        self.height = max(self.height, block.height)

    def _read_block(self, block: Block) -> None:
        opened = self._opened_at()
        accounts = frozenset(address for address, height in opened.items() if block.height > height)
        if not accounts:
            return
        entries: list[LedgerEntry] = []
        for tx in block.txs:
            memo = ",".join(dict.fromkeys(_actions(tx.events))) or "transaction"
            entries += entries_of(
                _transfers(tx.events), source=tx.hash, height=block.height, memo=memo, accounts=accounts
            )
        entries += entries_of(
            _transfers(block.end_events),
            source=f"end/{block.height}",
            height=block.height,
            memo="end of block",
            accounts=accounts,
        )
        if entries:
            self._post(entries)

    def record_credit(self, key: str, *, owner: str, provider: str, uact: int) -> None:
        """What a tenant is owed and the chain cannot carry (``uact`` cannot be sent): on accounts of our own, once."""
        given = Posting(f"credit-given/{provider}", UACT, -uact)
        owed = Posting(f"credit-owed/{owner}", UACT, uact)
        self._post([LedgerEntry(key, 0, "credit for time on a faulty device", (given, owed))])

    def _post(self, entries: Iterable[LedgerEntry]) -> None:
        """On disk first: an entry that only memory had would be passed over when its block is read again."""
        batch = list(entries)
        self._journal.append(self._stream, [(entry.id, _body(entry)) for entry in batch])
        for entry in batch:
            self.ledger.post(entry)

    async def difference(self, client: ChainClient) -> dict[str, dict[str, int]] | None:
        """Chain minus ledger by account after the last block booked; None when the chain moved on while looking."""
        height, found = self.height, {}
        for address in sorted(self.accounts):
            balances = await self._balances(client, address, height)
            if balances is None:
                return None
            found[address] = self.ledger.difference(address, balances)
        return found


def _transfers(events: Iterable[RawEvent]) -> list[Transfer]:
    return [
        Transfer(event.get("sender") or "", event.get("recipient") or "", event.get("amount") or "")
        for event in events
        if event.type == "transfer"
    ]


def _actions(events: Iterable[RawEvent]) -> list[str]:
    return [action.rsplit(".", 1)[-1] for event in events if (action := event.get("action") or "")]


def _body(entry: LedgerEntry) -> dict[str, object]:
    return {
        "height": entry.height,
        "memo": entry.memo,
        "postings": [[p.account, p.denom, p.amount] for p in entry.postings],
    }


def _entry(key: str, body: dict[str, object]) -> LedgerEntry:
    raw = body["postings"]
    assert isinstance(raw, list)
    postings = tuple(Posting(str(a), str(d), int(n)) for a, d, n in raw)
    return LedgerEntry(key, int(str(body["height"])), str(body["memo"]), postings)
