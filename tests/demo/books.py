"""Money: the chain's bank and escrow, its blocks' events, and the operator's ledger, each held against the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gpulease.units import UACT, UAKT
from tests.rig.chainview import OnChain
from tests.rig.errors import RigError
from tests.rig.stack import Stack, rss_mb

SIDES = ("tenant", "provider")
Balances = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Row:
    """One account's one denomination, in micro-units. ``ledger`` is what the operator's books say is there."""

    account: str
    denom: str
    before: int
    after: int
    fees: int
    ledger: int


def operator_rss_mb(stack: Stack) -> float:
    return rss_mb(stack.processes["operator"])


def ledger_equals_bank(stack: Stack) -> dict[str, tuple[dict[str, int], dict[str, int]]]:
    """By side of the market: the bank's balances and the ledger's, once they are equal; a RigError says what differs.

    The bank is asked here, over REST: what the operator says that the chain said is not taken for it.
    """
    ledger = stack.ledger()
    chains = [one for one in ledger["chains"] if one["chainId"] == stack.chain_id]
    if len(chains) != 1:
        raise RigError(f"the ledger has {len(chains)} books for chain {stack.chain_id}")
    accounts: dict[str, Any] = chains[0]["accounts"]
    found: dict[str, tuple[dict[str, int], dict[str, int]]] = {}
    for name in SIDES:
        address = stack.address(name)
        if address not in accounts:
            raise RigError(f"the ledger has no account of the {name} ({address})")
        bank = stack.chain.balances(address)
        books = {denom: int(amount) for denom, amount in accounts[address]["ledger"].items()}
        differing = {d: books.get(d, 0) - bank.get(d, 0) for d in {*books, *bank} if books.get(d, 0) != bank.get(d, 0)}
        if differing:
            raise RigError(f"{name}: ledger minus bank is {differing}")
        found[name] = (bank, books)
    if chains[0].get("balanced") is not True:
        raise RigError(f"the operator calls its own ledger not balanced: {accounts}")
    return found


def mid_lease(stack: Stack, lease: OnChain, before: Balances) -> str:
    """While the lease runs: the ledger is equal to the bank, and what left both accounts is in escrow, every unit."""
    now = ledger_equals_bank(stack)
    moved = {name: now[name][0].get(UACT, 0) - before[name].get(UACT, 0) for name in SIDES}
    held = sum((one.escrow.funds.get(UACT, Decimal(0)) for one in _accounts(stack, lease) if one.escrow), Decimal(0))
    # Settled to the provider and, being less than a unit, not paid out yet.
    (current,) = (one for one in stack.chain.leases(lease.id["owner"]) if one.id == lease.id)
    held += Decimal(current.raw["escrow_payment"]["state"]["balance"]["amount"])
    if sum(moved.values()) + held:
        raise RigError(f"there moved {moved} uact, and escrow holds {held}")
    parts = ", ".join(f"{name} {_signed(amount)}" for name, amount in moved.items())
    return f"{parts}, escrow {_signed(int(held))} uact; ledger = bank"


def _accounts(stack: Stack, lease: OnChain) -> list[OnChain]:
    """The deployment and the bids on it, each with its escrow account."""
    owner, dseq = lease.id["owner"], lease.id["dseq"]
    return [one for one in (*stack.chain.deployments(owner), *stack.chain.bids(owner)) if one.id["dseq"] == dseq]


def deposits_back(stack: Stack, lease: OnChain) -> str:
    """The deployment's and every bid's escrow account is closed and empty."""
    accounts = {f"{'bid' if 'bid' in one.raw else 'deployment'} {one.key}": one for one in _accounts(stack, lease)}
    for name, one in accounts.items():
        if one.escrow is None or one.escrow.state != "closed" or any(one.escrow.funds.values()):
            raise RigError(f"the escrow of {name} is {one.escrow}")
    return f"{len(accounts)} escrow accounts closed and empty: {', '.join(accounts)}"


def closing(stack: Stack, lease: OnChain, before: Balances, *, since: int) -> str:
    """After the close, to the last micro-unit: what the tenant lost is what escrow paid is what the provider got, the
    rest is fees, and all of it is in the ledger."""
    table = rows(stack, before, since=since)
    paid = lease.raw["escrow_payment"]["state"]["withdrawn"]
    moved = {(row.account, row.denom): row.after - row.before + row.fees for row in table}
    wanted = {(name, denom): 0 for name in SIDES for denom in (UACT, UAKT)}
    wanted["tenant", paid["denom"]] = -int(paid["amount"])
    wanted["provider", paid["denom"]] = int(paid["amount"])
    if moved != wanted:
        raise RigError(f"without fees there moved {moved}, and escrow paid {paid}")
    for name in SIDES:
        flow = stack.chain.flow(stack.address(name), since=since).moved
        change = {row.denom: row.after - row.before for row in table if row.account == name}
        if {d: n for d, n in flow.items() if n} != {d: n for d, n in change.items() if n}:
            raise RigError(f"{name}: the blocks' events say {dict(flow)}, the bank says {change}")
    return f"tenant −{paid['amount']}, provider +{paid['amount']} {paid['denom']}; difference 0"


def rows(stack: Stack, before: Balances, *, since: int) -> list[Row]:
    """Both accounts, both denominations; only when ledger and bank are equal."""
    found = []
    for name, (bank, books) in ledger_equals_bank(stack).items():
        fees = stack.chain.flow(stack.address(name), since=since).fees
        for denom in (UACT, UAKT):
            numbers = before[name].get(denom, 0), bank.get(denom, 0), fees.get(denom, 0), books.get(denom, 0)
            found.append(Row(name, denom, *numbers))
    return found


def _signed(amount: int) -> str:
    return f"{'+' if amount >= 0 else '−'}{abs(amount)}"
