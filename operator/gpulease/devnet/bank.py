"""Balances and transfers, with the bank module's events in its order."""

from __future__ import annotations

from collections.abc import Iterable

from gpulease.devnet import addresses, errors
from gpulease.devnet.context import Context
from gpulease.units import UACT, Coin

_BALANCES = "bank/balances"
_SUPPLY = "bank/supply"
BLOCKED = ("escrow", "bme", "fee_collector", "mint", "distribution", "gov")


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


def send(ctx: Context, sender: str, recipient: str, coins: list[Coin], *, message: bool = True) -> None:
    """Move coins; emits coin_spent, coin_received, transfer and (as ``SendCoins`` does) message(sender)."""
    for coin in coins:
        debit(ctx, sender, coin)
    ctx.emit("coin_spent", (("spender", sender), ("amount", text(coins))))
    for coin in coins:
        credit(ctx, recipient, coin)
    ctx.emit("coin_received", (("receiver", recipient), ("amount", text(coins))))
    ctx.emit("transfer", (("recipient", recipient), ("sender", sender), ("amount", text(coins))))
    if message:
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
    for coin in coins:
        issue(ctx, address, coin)
    ctx.emit("coin_received", (("receiver", address), ("amount", text(coins))))
    ctx.emit("coinbase", (("minter", address), ("amount", text(coins))))


def msg_send(ctx: Context, sender: str, recipient: str, coins: list[Coin]) -> None:
    """MsgSend: uact may not be sent (recorded on v2.1.0)."""
    for coin in coins:
        if coin.denom == UACT:
            raise errors.ModuleError(
                "bank", 5, f"{UACT} transfers are currently disabled: send transactions are disabled"
            )
    if recipient in {addresses.module(name) for name in BLOCKED}:
        raise errors.sdk(4, f"{recipient} is not allowed to receive funds: unauthorized")
    send(ctx, sender, recipient, coins)
