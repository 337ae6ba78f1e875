"""Burn and mint (akash x/bme): ACT, the USD-pegged credit, for AKT in the vault and back.

A request moves the coins to the module and waits. At the end of blocks, on epochs, waiting requests are executed at
the oracle's price: AKT to ACT only while the vault covers enough of the outstanding ACT (the circuit breaker), ACT to
AKT whenever there is a price. Burned AKT is not destroyed: it stays as remint credit, which ACT to AKT uses first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from google.protobuf.message import Message

from gpulease.devnet import addresses, bank, errors, oracle
from gpulease.devnet.context import Context
from gpulease.pb.akash.bme.v1 import events_pb2, msgs_pb2, types_pb2
from gpulease.units import UACT, UAKT, Coin, Dec

from cosmos.base.v1beta1.coin_pb2 import Coin as PbCoin

HEALTHY, WARNING, HALT_CR, HALT_ORACLE = 1, 2, 3, 4
MAX_EPOCH_BLOCKS = 14_400
_BPS = 10_000
_MAX_U32 = (1 << 32) - 1
_ITEMS = "bme/items"  # "status", "mint_epoch", "burn_epoch"
_SEQUENCE = "bme/sequence"  # 0 -> (height, next); outside the journal, see _take_sequence
_TOTALS = "bme/totals"  # (burned | minted | credit | pending, denom) -> amount
_PENDING = "bme/pending"
_EXECUTED = "bme/executed"
_CANCELED = "bme/canceled"
Reason = types_pb2.LedgerCanceledRecord
Key = tuple[str, str, bytes, int, int]
_MAX_KEY = b"\xff" * 64


class Status(NamedTuple):
    """The circuit breaker: its state, the one before and the blocks between mint epochs."""

    status: int
    previous: int
    epoch_blocks: int


class Swap(NamedTuple):
    """What one request comes to at the current prices."""

    burn: types_pb2.CoinPrice
    mint: Coin
    mint_price: Dec
    spread: int


class Refusal(Exception):
    """A request that can never be executed: it is cancelled and refunded."""

    def __init__(self, reason: int) -> None:
        super().__init__(reason)
        self.reason = reason


def load(ctx: Context, state: dict[str, Any]) -> None:
    """Totals and remint credits of genesis; the breaker starts halted."""
    for kind, name in (("burned", "total_burned"), ("minted", "total_minted"), ("credit", "remint_credits")):
        for coin in state.get(name) or ():
            ctx.state.put(_TOTALS, (kind, coin["denom"]), int(coin["amount"]))
    least = int(ctx.params["bme"].get("min_epoch_blocks", 0))
    ctx.state.put(_ITEMS, "status", Status(HALT_CR, 0, least))
    ctx.state.put(_ITEMS, "mint_epoch", least)


def status(ctx: Context) -> Status:
    found: Status = ctx.state.get(_ITEMS, "status")
    return found


def fallback_allowed(ctx: Context) -> bool:
    """Escrow debts may be paid in uakt only while minting is halted."""
    return status(ctx).status >= HALT_CR


def total(ctx: Context, kind: str, denom: str) -> int:
    return int(ctx.state.get(_TOTALS, (kind, denom)) or 0)


def _add(ctx: Context, kind: str, denom: str, amount: int) -> None:
    ctx.state.put(_TOTALS, (kind, denom), total(ctx, kind, denom) + amount)


def totals(ctx: Context, kind: str) -> list[Coin]:
    """All amounts of one kind, in denomination order."""
    return [Coin(denom, amount) for (k, denom), amount in ctx.state.table(_TOTALS).items() if k == kind]


# --- requests ------------------------------------------------------------------------------------------------------


def msg_mint_act(ctx: Context, msg: Any) -> Message:
    return msgs_pb2.MsgMintACTResponse(id=request(ctx, msg.owner, msg.to, msg.coins_to_burn, UACT))


def msg_burn_act(ctx: Context, msg: Any) -> Message:
    return msgs_pb2.MsgBurnACTResponse(id=request(ctx, msg.owner, msg.to, msg.coins_to_burn, UAKT))


def msg_burn_mint(ctx: Context, msg: Any) -> Message:
    return msgs_pb2.MsgBurnMintResponse(id=request(ctx, msg.owner, msg.to, msg.coins_to_burn, msg.denom_to_mint))


def request(ctx: Context, owner: str, to: str, coin: Any, to_denom: str) -> types_pb2.LedgerRecordID:
    """Queue a swap: the coins move to the module now, the rest happens at an epoch."""
    if {coin.denom, to_denom} != {UAKT, UACT}:
        raise errors.ModuleError("bme", 9, f"invalid swap route {coin.denom} -> {to_denom}: invalid denomination")
    oracle.price(ctx, coin.denom)
    oracle.price(ctx, to_denom)
    breaker = status(ctx).status
    if breaker > HALT_CR or (breaker == HALT_CR and coin.denom != UACT):
        raise errors.ModuleError("bme", 6, "circuit breaker is active")
    amount = int(coin.amount)
    id_ = types_pb2.LedgerRecordID(
        denom=coin.denom, to_denom=to_denom, source=owner, height=ctx.height, sequence=_peek_sequence(ctx)
    )
    bank.send(ctx, owner, addresses.module("bme"), [Coin(coin.denom, amount)])
    _add(ctx, "pending", coin.denom, amount)
    record = types_pb2.LedgerPendingRecord(owner=owner, to=to, coins_to_burn=coin, denom_to_mint=to_denom)
    ctx.state.put(_PENDING, key_of(id_), record)
    ctx.state.table(_SEQUENCE)[0] = (ctx.height, id_.sequence + 1)
    return id_


def _peek_sequence(ctx: Context) -> int:
    """Per block, from 1. The real keeper counts in memory, so a failing transaction does not give numbers back."""
    height, following = ctx.state.table(_SEQUENCE).get(0, (0, 1))
    return int(following) if height == ctx.height else 1


def key_of(id_: types_pb2.LedgerRecordID) -> Key:
    return (id_.denom, id_.to_denom, addresses.decode(id_.source) or b"", id_.height, id_.sequence)


def id_of(key: Key) -> types_pb2.LedgerRecordID:
    denom, to_denom, source, height, sequence = key
    return types_pb2.LedgerRecordID(
        denom=denom, to_denom=to_denom, source=addresses.encode(source), height=height, sequence=sequence
    )


def records(ctx: Context, kind: str) -> list[tuple[Key, Any]]:
    """Ledger entries of one kind (``pending``, ``executed``, ``canceled``) in key order."""
    return list(ctx.state.table(f"bme/{kind}").items())


# --- end of block --------------------------------------------------------------------------------------------------


def end_block(ctx: Context) -> None:
    """ACT to AKT on its epochs, then the breaker, then AKT to ACT on its own."""
    least = int(ctx.params["bme"].get("min_epoch_blocks", 0))
    if not least:
        return
    budget = [int(ctx.params["bme"]["max_endblocker_records"])]
    if ctx.height >= (ctx.state.get(_ITEMS, "burn_epoch") or 0):
        ctx.state.put(_ITEMS, "burn_epoch", ctx.height + least)
        _execute_waiting(ctx, UACT, UAKT, budget)
    before = status(ctx).status
    now, changed = _update_status(ctx)
    if now.status > WARNING:
        return
    if changed and before >= HALT_CR:
        ctx.state.put(_ITEMS, "mint_epoch", ctx.height + now.epoch_blocks)
    elif ctx.height >= (ctx.state.get(_ITEMS, "mint_epoch") or 0):
        ctx.state.put(_ITEMS, "mint_epoch", ctx.height + now.epoch_blocks)
        _execute_waiting(ctx, UAKT, UACT, budget)
        _update_status(ctx)


def _execute_waiting(ctx: Context, denom: str, to_denom: str, budget: list[int]) -> None:
    """At most ``max_endblocker_records`` a block; without a price all wait on."""
    table = ctx.state.table(_PENDING)
    if not table:
        return
    for key in list(table.irange((denom, to_denom, b"", 0, 0), (denom, to_denom, _MAX_KEY, 0, 0))):
        if budget[0] <= 0:
            return
        budget[0] -= 1
        record = table[key]
        try:
            swap = _price_swap(ctx, record)
        except Refusal as refusal:
            _cancel(ctx, key, record, refusal.reason)
        except errors.ModuleError:
            return
        else:
            _execute(ctx, key, record, swap)


def _price_swap(ctx: Context, record: types_pb2.LedgerPendingRecord) -> Swap:
    params = ctx.params["bme"]
    burn, to_denom = Coin(record.coins_to_burn.denom, int(record.coins_to_burn.amount)), record.denom_to_mint
    price_from, price_to = oracle.price(ctx, burn.denom), oracle.price(ctx, to_denom)
    if not price_from or not price_to:
        raise Refusal(Reason.zero_price)
    if burn.denom == UACT and bank.supply(ctx, UACT) < burn.amount:
        raise Refusal(Reason.insufficient_funds)
    exact = Dec.of(burn.amount) * (price_from / price_to)
    amount = exact.truncate()
    if amount <= 0:
        raise Refusal(Reason.epsilon)
    for least in params.get("min_mint") or ():
        if least["denom"] == to_denom and amount < int(least["amount"]):
            raise Refusal(Reason.minimum_mint)
    bps = int(params["mint_spread_bps"] if burn.denom == UAKT else params["settle_spread_bps"])
    spread = (exact * bps / Dec.of(_BPS)).truncate()
    return Swap(_priced(burn, price_from), Coin(to_denom, amount), price_to, spread)


def _priced(coin: Coin, price: Dec) -> types_pb2.CoinPrice:
    return types_pb2.CoinPrice(coin=PbCoin(denom=coin.denom, amount=str(coin.amount)), price=str(price.raw))


def _execute(ctx: Context, key: Key, record: types_pb2.LedgerPendingRecord, swap: Swap) -> None:
    burned = Coin(record.coins_to_burn.denom, int(record.coins_to_burn.amount))
    done = types_pb2.LedgerRecord(burned_from=record.owner, minted_to=record.to, burner="bme", minter="bme")
    done.spread.CopyFrom(PbCoin(denom=swap.mint.denom, amount=str(swap.spread)))
    if burned.denom == UAKT:
        fresh = swap.mint.amount
        _add(ctx, "credit", UAKT, burned.amount)
        done.remint_credit_accrued.CopyFrom(swap.burn)
    else:
        credit = min(total(ctx, "credit", UAKT), swap.mint.amount)
        fresh = swap.mint.amount - credit
        bank.burn(ctx, "bme", [burned])
        _add(ctx, "burned", UACT, burned.amount)
        done.burned.CopyFrom(swap.burn)
        if credit:
            _add(ctx, "credit", UAKT, -credit)
            done.remint_credit_issued.CopyFrom(_priced(Coin(UAKT, credit), swap.mint_price))
    if fresh:
        minted = Coin(swap.mint.denom, fresh)
        bank.mint(ctx, "bme", [minted])
        _add(ctx, "minted", minted.denom, fresh)
        done.minted.CopyFrom(_priced(minted, swap.mint_price))
    paid = Coin(swap.mint.denom, swap.mint.amount - swap.spread)
    bank.send(ctx, addresses.module("bme"), record.to, [paid])
    _add(ctx, "pending", burned.denom, -burned.amount)
    ctx.state.delete(_PENDING, key)
    ctx.state.put(_EXECUTED, key, done)
    event = events_pb2.EventLedgerRecordExecuted(id=id_of(key))
    for field, value in done.ListFields():
        target = getattr(event, field.name)
        if isinstance(value, str):
            setattr(event, field.name, value)
        else:
            target.CopyFrom(value)
    ctx.emit_typed(event)


def _cancel(ctx: Context, key: Key, record: types_pb2.LedgerPendingRecord, reason: int) -> None:
    coin = Coin(record.coins_to_burn.denom, int(record.coins_to_burn.amount))
    fields: dict[str, Any] = {
        "owner": record.owner,
        "to": record.to,
        "cancel_reason": reason,
        "coins_to_burn": record.coins_to_burn,
        "denom_to_mint": record.denom_to_mint,
    }
    ctx.state.put(_CANCELED, key, types_pb2.LedgerCanceledRecord(**fields))
    ctx.state.delete(_PENDING, key)
    _add(ctx, "pending", coin.denom, -coin.amount)
    bank.send(ctx, addresses.module("bme"), record.owner, [coin])
    ctx.emit_typed(events_pb2.EventLedgerRecordCanceled(id=id_of(key), **fields))


# --- the circuit breaker -------------------------------------------------------------------------------------------


def collateral_ratio(ctx: Context) -> Dec:
    """Vault AKT, without what waits to be swapped, in USD per outstanding ACT. Raises while there is no price."""
    price = oracle.price(ctx, UAKT)
    held = bank.balance(ctx, addresses.module("bme"), UAKT) - total(ctx, "pending", UAKT)
    ratio = Dec.of(held) * price
    outstanding = bank.supply(ctx, UACT)
    return ratio / Dec.of(outstanding) if outstanding else ratio


def _update_status(ctx: Context) -> tuple[Status, bool]:
    params = ctx.params["bme"]
    old = status(ctx)
    ratio = Dec()
    if oracle.price_or_none(ctx, UAKT) is None:
        new = old._replace(status=HALT_ORACLE)
    else:
        ratio = collateral_ratio(ctx)
        bps = min((ratio * _BPS).truncate(), _MAX_U32)
        if bps > int(params["circuit_breaker_halt_threshold"]):
            healthy = bps > int(params["circuit_breaker_warn_threshold"])
            new = Status(HEALTHY if healthy else WARNING, old.previous, _epoch_blocks(params, bps))
        else:
            new = old._replace(status=HALT_CR)
    if new == old:
        return old, False
    new = new._replace(previous=old.status)
    ctx.state.put(_ITEMS, "status", new)
    ctx.emit_typed(
        events_pb2.EventMintStatusChange(
            previous_status=old.status,  # type: ignore[arg-type]
            new_status=new.status,  # type: ignore[arg-type]
            collateral_ratio=str(ratio.raw),
        )
    )
    return new, True


def _epoch_blocks(params: dict[str, Any], bps: int) -> int:
    """The warning state makes epochs longer: by a percentage for each 10 bps below the threshold, a day at most."""
    least = int(params["min_epoch_blocks"])
    steps = max(int(params["circuit_breaker_warn_threshold"]) - bps, 0) // 10
    percent = int(params["epoch_blocks_backoff_percent"])
    base, power = Dec.of(100 + percent) / Dec.of(100), Dec.of(1)
    for _ in range(steps if percent else 0):
        power = power * base
        if (power * least).truncate() > MAX_EPOCH_BLOCKS:
            return max(MAX_EPOCH_BLOCKS, least)
    return max((power * least).truncate(), least)
