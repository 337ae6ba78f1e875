"""Balances and transfers, with the bank module's events in its order."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Any

from gpulease.devnet import addresses, auth, errors
from gpulease.devnet.context import Context
from gpulease.units import UACT, Coin

_BALANCES = "bank/balances"
_SUPPLY = "bank/supply"
_DENOM = re.compile(r"^[a-zA-Z][a-zA-Z0-9/:._-]{2,127}\Z")
BLOCKED = (*auth.GENESIS_MODULES, *auth.LATER_MODULES)


def balance(ctx: Context, address: str, denom: str) -> int:
    return int(ctx.state.get(_BALANCES, (address, denom)) or 0)


def balances(ctx: Context, address: str) -> list[Coin]:
    """Non-zero balances in denomination order."""
    table = ctx.state.table(_BALANCES)
    found = table.irange((address, ""), (address, "\U0010ffff"))
    return [Coin(key[1], table[key]) for key in found if table[key]]


def supply(ctx: Context, denom: str) -> int:
    """All coins of a denomination; moves do not change it, only issue, mint and burn."""
    return int(ctx.state.get(_SUPPLY, denom) or 0)


def supplies(ctx: Context) -> list[Coin]:
    """The supply of every denomination, in order."""
    return [Coin(denom, amount) for denom, amount in ctx.state.table(_SUPPLY).items() if amount]


def issue(ctx: Context, address: str, coin: Coin) -> None:
    """Coins out of nothing: genesis, faucet and mint."""
    credit(ctx, address, coin)
    ctx.state.put(_SUPPLY, coin.denom, supply(ctx, coin.denom) + coin.amount)


def credit(ctx: Context, address: str, coin: Coin) -> None:
    ctx.state.put(_BALANCES, (address, coin.denom), balance(ctx, address, coin.denom) + coin.amount)


def debit(ctx: Context, address: str, coin: Coin) -> None:
    have = balance(ctx, address, coin.denom)
    if have < coin.amount:
        raise errors.sdk(5, f"spendable balance {have}{coin.denom} is smaller than {coin}: insufficient funds")
    left = have - coin.amount
    if left:
        ctx.state.put(_BALANCES, (address, coin.denom), left)
    else:
        ctx.state.delete(_BALANCES, (address, coin.denom))


def text(coins: Iterable[Coin]) -> str:
    return ",".join(str(coin) for coin in coins)


def is_denom(text: str) -> bool:
    return _DENOM.match(text) is not None


def valid(coins: list[Coin]) -> bool:
    """``Coins.IsValid``: positive amounts, denominations in order and once each. No coins at all are valid."""
    return all(c.amount > 0 for c in coins) and all(a.denom < b.denom for a, b in pairwise(coins))


def send(ctx: Context, sender: str, recipient: str, coins: list[Coin]) -> None:
    """Move coins, as ``SendCoins``: a recipient the chain does not know gets an account with the next number.

    Emits coin_spent, coin_received, transfer and message(sender), with an empty amount where ``coins`` is empty.
    """
    shown = text(coins)
    for coin in coins:
        debit(ctx, sender, coin)
    ctx.emit("coin_spent", (("spender", sender), ("amount", shown)))
    for coin in coins:
        credit(ctx, recipient, coin)
    ctx.emit("coin_received", (("receiver", recipient), ("amount", shown)))
    auth.ensure(ctx, recipient)
    ctx.emit("transfer", (("recipient", recipient), ("sender", sender), ("amount", shown)))
    ctx.emit("message", (("sender", sender),))


def burn(ctx: Context, module: str, coins: list[Coin]) -> None:
    address = addresses.module(module)
    for coin in coins:
        debit(ctx, address, coin)
        ctx.state.put(_SUPPLY, coin.denom, supply(ctx, coin.denom) - coin.amount)
    ctx.emit("coin_spent", (("spender", address), ("amount", text(coins))))
    ctx.emit("burn", (("burner", address), ("amount", text(coins))))


def mint(ctx: Context, module: str, coins: list[Coin]) -> None:
    address = addresses.module(module)
    auth.ensure(ctx, address)
    for coin in coins:
        issue(ctx, address, coin)
    ctx.emit("coin_received", (("receiver", address), ("amount", text(coins))))
    ctx.emit("coinbase", (("minter", address), ("amount", text(coins))))


def refuse_blocked(recipient: str) -> None:
    """Module accounts are not paid by messages."""
    if recipient in blocked_addresses():
        raise errors.sdk(4, f"{recipient} is not allowed to receive funds: unauthorized")


@lru_cache(maxsize=1)
def blocked_addresses() -> frozenset[str]:
    return frozenset(addresses.module(name) for name in BLOCKED)


def _refuse_disabled(coins: Iterable[Coin]) -> None:
    """uact may not be sent (recorded on v2.1.0)."""
    if any(coin.denom == UACT for coin in coins):
        raise errors.ModuleError("bank", 5, f"{UACT} transfers are currently disabled: send transactions are disabled")


def _coins(items: Any) -> list[Coin]:
    return [Coin(c.denom, int(c.amount or "0")) for c in items]


def msg_send(ctx: Context, msg: Any) -> None:
    coins = _coins(msg.amount)
    for field, address in (("from", msg.from_address), ("to", msg.to_address)):
        if addresses.decode(address) is None:
            raise errors.sdk(7, f"invalid {field} address: {addresses.problem(address)}: invalid address")
    if not coins or not valid(coins):
        raise errors.sdk(10, f"{text(coins)}: invalid coins")
    _refuse_disabled(coins)
    refuse_blocked(msg.to_address)
    send(ctx, msg.from_address, msg.to_address, coins)


def msg_multi_send(ctx: Context, msg: Any) -> None:
    """One sender, several recipients; what goes out must be what comes in."""
    if len(msg.inputs) != 1 or not msg.outputs:
        code, words = (2, "no inputs to send transaction") if not msg.inputs else (9, "multiple senders not allowed")
        if len(msg.inputs) == 1:
            code, words = 3, "no outputs to send transaction"
        raise errors.ModuleError("bank", code, words)
    sender, going = msg.inputs[0].address, _coins(msg.inputs[0].coins)
    coming = [(out.address, _coins(out.coins)) for out in msg.outputs]
    for coins in (going, *(c for _, c in coming)):
        if not coins or not valid(coins):
            raise errors.sdk(10, f"{text(coins)}: invalid coins")
    if _sum(going) != _sum(coin for _, coins in coming for coin in coins):
        raise errors.ModuleError("bank", 4, "sum inputs != sum outputs")
    _refuse_disabled(going)
    for address, _ in coming:
        refuse_blocked(address)
    ctx.emit("message", (("sender", sender),))
    for address, _ in coming:
        auth.ensure(ctx, address)
    for coin in going:
        debit(ctx, sender, coin)
    ctx.emit("coin_spent", (("spender", sender), ("amount", text(going))))
    for address, coins in coming:
        for coin in coins:
            credit(ctx, address, coin)
        ctx.emit("coin_received", (("receiver", address), ("amount", text(coins))))
        ctx.emit("transfer", (("recipient", address), ("sender", sender), ("amount", text(coins))))


def _sum(coins: Iterable[Coin]) -> dict[str, int]:
    total: dict[str, int] = {}
    for coin in coins:
        total[coin.denom] = total.get(coin.denom, 0) + coin.amount
    return total
