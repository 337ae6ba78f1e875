"""The double-entry ledger: every transfer of the chain that touches one of our accounts has exactly one entry.

Entries are append-only and balanced by denomination; an entry's id comes from the chain (transaction or block, and the
transfer's place in it), so that reading a block twice changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpulease.errors import InvariantBroken

_COIN = re.compile(r"([0-9]+)([a-zA-Z][a-zA-Z0-9/:._-]*)\Z")
OPENING = "opening"
UNSEEN = "unseen"


@dataclass(frozen=True, slots=True)
class Transfer:
    """One ``transfer`` event of the bank module; ``amount`` is a coin list such as ``12uact,3uakt``."""

    sender: str
    recipient: str
    amount: str


@dataclass(frozen=True, slots=True)
class Posting:
    """Into ``account`` (an address, or ``opening``); negative is out of it."""

    account: str
    denom: str
    amount: int


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    id: str
    height: int
    memo: str
    postings: tuple[Posting, ...]


def parse_coins(text: str) -> dict[str, int]:
    """``ValueError`` for what is no coin list."""
    coins: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        match = _COIN.match(part)
        if match is None:
            raise ValueError(f"{part!r} is not an amount with a denomination")
        coins[match[2]] = coins.get(match[2], 0) + int(match[1])
    return coins


def entries_of(
    transfers: Iterable[Transfer], *, source: str, height: int, memo: str, accounts: frozenset[str]
) -> list[LedgerEntry]:
    """Entries of one transaction or block end; transfers between strangers give none."""
    found = []
    for index, transfer in enumerate(transfers):
        if transfer.sender not in accounts and transfer.recipient not in accounts:
            continue
        postings: list[Posting] = []
        for denom, amount in sorted(parse_coins(transfer.amount).items()):
            postings.append(Posting(transfer.sender, denom, -amount))
            postings.append(Posting(transfer.recipient, denom, amount))
        if postings:
            found.append(LedgerEntry(f"{source}/{index}", height, memo, tuple(postings)))
    return found


def opening(account: str, balances: Mapping[str, int], *, height: int) -> LedgerEntry:
    """What an account held when the book on it was opened."""
    postings: list[Posting] = []
    for denom, amount in sorted(balances.items()):
        postings.append(Posting(OPENING, denom, -amount))
        postings.append(Posting(account, denom, amount))
    return LedgerEntry(f"opening/{account}", height, "balance when this book was opened", tuple(postings))


def unseen(account: str, missed: Mapping[str, int], *, height: int) -> LedgerEntry:
    """What moved in blocks that could not be read: known as a sum only. ``missed`` is chain minus ledger."""
    postings: list[Posting] = []
    for denom, amount in sorted(missed.items()):
        postings.append(Posting(UNSEEN, denom, -amount))
        postings.append(Posting(account, denom, amount))
    return LedgerEntry(f"unseen/{account}/{height}", height, "moved in blocks that no node keeps", tuple(postings))


class Ledger:
    """Balances by account and denomination. ``InvariantBroken`` for an unbalanced entry or a changed repeat."""

    def __init__(self) -> None:
        self._entries: dict[str, LedgerEntry] = {}
        self._balances: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def post(self, entry: LedgerEntry) -> bool:
        """False for an entry that is in the book already."""
        known = self._entries.get(entry.id)
        if known is not None:
            if known != entry:
                raise InvariantBroken(f"ledger entry {entry.id} was read again with other content")
            return False
        sums: dict[str, int] = {}
        for posting in entry.postings:
            sums[posting.denom] = sums.get(posting.denom, 0) + posting.amount
        if any(sums.values()):
            raise InvariantBroken(f"ledger entry {entry.id} is not balanced: {sums}")
        self._entries[entry.id] = entry
        for posting in entry.postings:
            key = (posting.account, posting.denom)
            self._balances[key] = self._balances.get(key, 0) + posting.amount
        return True

    def has_book(self, account: str) -> bool:
        return f"opening/{account}" in self._entries

    def balances(self, account: str) -> dict[str, int]:
        """By denomination, zeroes left out."""
        return {denom: amount for (name, denom), amount in sorted(self._balances.items()) if name == account and amount}

    def difference(self, account: str, on_chain: Mapping[str, int]) -> dict[str, int]:
        """Chain minus ledger by denomination, zeroes left out: empty means balanced."""
        own = self.balances(account)
        found = {d: on_chain.get(d, 0) - own.get(d, 0) for d in own.keys() | on_chain.keys()}
        return {denom: amount for denom, amount in sorted(found.items()) if amount}

    def total(self, denom: str) -> int:
        """Over all accounts: always 0."""
        return sum(amount for (_, name), amount in self._balances.items() if name == denom)
