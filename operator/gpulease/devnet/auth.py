"""Accounts: number, sequence, public key, and the nonces of unordered transactions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from gpulease.devnet import addresses
from gpulease.devnet.context import Context

_ACCOUNTS = "auth/accounts"
_NONCES = "auth/unordered"
_NEXT = ("auth/next", 0)
# Modules whose genesis makes their account, in that order, and those that become one with their first coins.
GENESIS_MODULES = ("fee_collector", "distribution", "bonded_tokens_pool", "not_bonded_tokens_pool", "gov", "mint")
LATER_MODULES = ("escrow", "bme", "transfer", "wasm")


@dataclass(frozen=True, slots=True)
class Account:
    """``pubkey`` is the compressed secp256k1 key, None until the account has signed; ``module`` its module's name."""

    address: str
    number: int
    sequence: int = 0
    pubkey: bytes | None = None
    module: str | None = None


@cache
def _module_names() -> dict[str, str]:
    return {addresses.module(name): name for name in (*GENESIS_MODULES, *LATER_MODULES)}


def get(ctx: Context, address: str) -> Account | None:
    found: Account | None = ctx.state.get(_ACCOUNTS, address)
    return found


def put(ctx: Context, account: Account) -> None:
    ctx.state.put(_ACCOUNTS, account.address, account)


def create(ctx: Context, address: str) -> Account:
    """A new account with the next free number; a module's where the address is one's."""
    number = int(ctx.state.get(*_NEXT) or 0)
    ctx.state.put(*_NEXT, number + 1)
    account = Account(address, number, module=_module_names().get(address))
    put(ctx, account)
    return account


def ensure(ctx: Context, address: str) -> None:
    """Who receives coins or a grant for the first time becomes an account."""
    if get(ctx, address) is None:
        create(ctx, address)


def bump(ctx: Context, address: str) -> None:
    account = get(ctx, address)
    assert account is not None
    put(ctx, replace(account, sequence=account.sequence + 1))


def all_accounts(ctx: Context) -> list[Account]:
    return list(ctx.state.values(_ACCOUNTS))


def nonce_used(ctx: Context, address: str, timeout_ns: int) -> bool:
    return ctx.state.get(_NONCES, (timeout_ns, address)) is not None


def use_nonce(ctx: Context, address: str, timeout_ns: int) -> None:
    ctx.state.put(_NONCES, (timeout_ns, address), True)


def prune_nonces(ctx: Context) -> None:
    """The auth PreBlocker: expired nonces go."""
    table: Any = ctx.state.table(_NONCES)
    for key in list(table.irange((0, ""), (ctx.time_ns, ""))):
        ctx.state.delete(_NONCES, key)
