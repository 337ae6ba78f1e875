"""The ledger on disk: what each block moved in or out of our accounts, once, and how that compares with the chain."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from gpulease.chain.client import ChainClient
from gpulease.chain.events import Block, RawEvent
from gpulease.money.ledger import Ledger, LedgerEntry, Posting, Transfer, entries_of, opening, unseen
from gpulease.store.journal import Journal

log = structlog.get_logger(__name__)


class Books:
    """One ledger per chain. Accounts are opened with their balance at a height and followed from there.

    ``chain_id`` names the chain's cursor in the journal too: where reading stood when the process ended.
    """

    def __init__(self, journal: Journal, chain_id: str) -> None:
        self._journal, self._stream = journal, f"ledger:{chain_id}"
        self._cursor_key = chain_id
        self.ledger = Ledger()
        cursor = journal.get("cursor", chain_id)
        self._last = int(cursor["height"]) if cursor else 0
        for row in journal.read_all(self._stream):
            self.ledger.post(_entry(row.key, row.body))

    @property
    def accounts(self) -> frozenset[str]:
        body = self._journal.get("book-accounts", self._cursor_key)
        return frozenset(body["opened"]) if body else frozenset()

    def _opened_at(self) -> dict[str, int]:
        body = self._journal.get("book-accounts", self._cursor_key)
        return dict(body["opened"]) if body else {}

    async def open_account(self, client: ChainClient, address: str, *, height: int) -> bool:
        """Open the book on an account; False when the balance could not be pinned to one height this time.

        ``height`` is the tip: a balance as of an earlier one would miss transfers that were read already. An account
        that has a book gets the difference instead, as one entry: what moved in blocks that nobody could read.
        """
        if address in self.accounts:
            return True
        seen = await client.seen(client.balances(address), exact=True)
        if seen.height < max(height, self._last):
            return False
        opened = self._opened_at()
        opened[address] = seen.height
        with self._journal.transaction():
            if not self.ledger.has_book(address):
                self._post([opening(address, seen.value, height=seen.height)])
            else:
                missed = self.ledger.difference(address, seen.value)
                self._post([unseen(address, missed, height=seen.height)] if missed else [])
            self._journal.put("book-accounts", self._cursor_key, {"opened": opened})
        # Before the first block was read, this is what blocks have to follow on.
        self._last = self._last or seen.height
        return True

    def read_block(self, block: Block) -> None:
        """Post every transfer of the block that touches an open account.

        Blocks come in order. Where some are missing, every book is closed until it is opened anew; a block that was
        read before changes nothing.
        """
        opened, last = self._opened_at(), self._last
        self._last = max(last, block.height)
        if not opened:
            return
        if last and block.height > last + 1:
            log.warning("blocks are missing from the books", from_height=last + 1, to_height=block.height - 1)
            # A book whose balance was taken inside the gap misses nothing.
            opened = {address: height for address, height in opened.items() if height >= block.height - 1}
            self._journal.put("book-accounts", self._cursor_key, {"opened": opened})
        accounts = frozenset(address for address, height in opened.items() if block.height > height)
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

    def _post(self, entries: Iterable[LedgerEntry]) -> None:
        new = [entry for entry in entries if self.ledger.post(entry)]
        self._journal.append(self._stream, [(entry.id, _body(entry)) for entry in new])

    async def difference(self, client: ChainClient, *, height: int) -> dict[str, dict[str, int]] | None:
        """Chain minus ledger by account; None when the chain's answers are not as of ``height``, the last one read."""
        found: dict[str, dict[str, int]] = {}
        for address in sorted(self.accounts):
            seen = await client.seen(client.balances(address), exact=True)
            if seen.height != height or self._last not in (0, height):
                return None
            found[address] = self.ledger.difference(address, seen.value)
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
