"""What is done while the process is killed, and how the chain alone shows that each of it was done once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from google.protobuf.message import Message

from gpulease.chain import codec
from gpulease.chain.fees import Purse
from gpulease.chain.outbox import Entry, Intent, Priority
from gpulease.chain.tx import pack
from gpulease.devnet import ante, bank, escrow, market
from gpulease.ids import LeaseId
from gpulease.units import UACT, UAKT, Coin, Dec, DecCoin
from tests.fakes.lease_chain import DEPOSIT_UACT, FUNDS, PROVIDER, SINK, LeaseChain

from cosmos.bank.v1beta1 import tx_pb2 as bank_tx
from cosmos.base.v1beta1 import coin_pb2

SENDS_UAKT = (1_000_000, 2_000_000, 4_000_000, 8_000_000)
TOO_MUCH_UAKT = 5 * FUNDS
DEPOSITS_UACT = (1_000, 2_000)


@dataclass(slots=True)
class World:
    """The chain before the work, and the intents."""

    chain: LeaseChain
    leases: list[LeaseId]
    orders: list[LeaseId]
    before: dict[str, int]


def send(amount: int) -> Message:
    coin = coin_pb2.Coin(denom=UAKT, amount=str(amount))
    return bank_tx.MsgSend(from_address=PROVIDER.address, to_address=SINK, amount=[coin])


def world() -> World:
    chain = LeaseChain()
    chain.register()
    leases = [lease for dseq in (101, 102, 103) for lease in chain.lease(dseq, "10")]
    orders = [LeaseId(did.owner, did.dseq, 1, 1, PROVIDER.address) for did in (chain.order(201), chain.order(202))]
    for _ in range(5):
        chain.block()
    ctx = chain.chain.context()
    before = {denom: bank.balance(ctx, PROVIDER.address, denom) for denom in (UACT, UAKT)}
    return World(chain, leases, orders, before)


def intents(world: World) -> list[Intent]:
    """A batch of payments with one that cannot be paid, deposits, bids, and withdrawals (one account twice)."""
    made: list[tuple[str, Priority, Message]] = [
        (f"send/{amount}", Priority.LIFECYCLE, send(amount)) for amount in (*SENDS_UAKT, TOO_MUCH_UAKT)
    ]
    first = world.leases[0]
    made += [
        (
            f"deposit/{amount}",
            Priority.LIFECYCLE,
            codec.deposit_deployment(PROVIDER.address, first.deployment, amount=Coin(UACT, amount)),
        )
        for amount in DEPOSITS_UACT
    ]
    made += [
        (
            f"bid/{order}",
            Priority.MARKET,
            codec.create_bid(order, price=DecCoin(UACT, Dec.of(7)), deposit=Coin(UACT, DEPOSIT_UACT)),
        )
        for order in world.orders
    ]
    made += [(f"withdraw/{lease}", Priority.MONEY, codec.withdraw_lease(lease)) for lease in world.leases]
    made.append((f"withdraw-again/{first}", Priority.MONEY, codec.withdraw_lease(first)))
    return [Intent(key, key.split("/")[0], (pack(msg),), PROVIDER.address, prio) for key, prio, msg in made]


def problems(world: World, start_height: int, entries: list[Entry | None], purse: Purse) -> list[str]:
    """What is wrong, by the chain's balances and blocks; then whether our own log says the same."""
    chain, found = world.chain.chain, []
    ctx = chain.context()

    def check(name: str, got: object, want: object) -> None:
        if got != want:
            found.append(f"{name}: {got}, not {want}")

    done: Counter[bytes] = Counter()
    fees = 0
    for height in range(start_height + 1, chain.height + 1):
        block = chain.block(height)
        assert block is not None
        for raw, result in block.txs:
            tx = ante.decode(raw)
            fees += sum(coin.amount for coin in tx.fee)
            if result.code == 0:
                done.update(pack(message)[1] for message in tx.messages)
    withdrawn = 0
    for lease in world.leases:
        payment = escrow.get_payment(ctx, market.lease_payment(codec.pb_lease_id(lease)))
        assert payment is not None
        withdrawn += int(payment.state.withdrawn.amount)
        check(f"{lease} was paid", int(payment.state.withdrawn.amount) > 0, True)
    check("sent", bank.balance(ctx, SINK, UAKT) - 1, sum(SENDS_UAKT))
    own = {denom: bank.balance(ctx, PROVIDER.address, denom) for denom in (UACT, UAKT)}
    check("uakt", own[UAKT], world.before[UAKT] - sum(SENDS_UAKT) - fees)
    locked = sum(DEPOSITS_UACT) + len(world.orders) * DEPOSIT_UACT
    check("uact", own[UACT], world.before[UACT] - locked + withdrawn)
    for order in world.orders:
        account = escrow.get_account(ctx, market.bid_account(codec.pb_bid_id(order)))
        held = None if account is None else escrow.dec(account.state.funds[0].amount).truncate()
        check(f"bid deposit of {order}", held, DEPOSIT_UACT)
    first = escrow.get_account(ctx, escrow.account_id(1, str(world.leases[0].deployment)))
    assert first is not None
    put_in = escrow.dec(first.state.funds[0].amount) + escrow.dec(first.state.transferred[0].amount)
    check("deposited", put_in.truncate(), DEPOSIT_UACT + sum(DEPOSITS_UACT))
    for intent in intents(world):
        times = 2 if intent.messages[0][1] == pack(codec.withdraw_lease(world.leases[0]))[1] else 1
        want = 0 if intent.key == f"send/{TOO_MUCH_UAKT}" else times
        check(f"{intent.key} succeeded", done[intent.messages[0][1]], want)
    for entry in entries:
        assert entry is not None
        bad = entry.intent.key == f"send/{TOO_MUCH_UAKT}"
        check(f"{entry.intent.key} in our log", (entry.state.value, entry.code == 0), ("included", not bad))
    check("fees in our log", purse.paid_uakt, fees)
    return found
