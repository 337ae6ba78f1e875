"""Coins out of nothing for whoever asks, within a limit per address: test chains only."""

from __future__ import annotations

from collections.abc import Sequence

from gpulease.devnet import addresses, bank
from gpulease.devnet.chain import Devnet
from gpulease.errors import GpuleaseError
from gpulease.units import UACT, UAKT, Coin

FAUCET_LIMIT = 1_000_000_000_000
DENOMS = (UACT, UAKT)
_INVALID, _EXHAUSTED = (3, 400), (8, 429)


class FaucetRefused(GpuleaseError):
    """``code`` is the gRPC status, ``status`` the HTTP one."""

    def __init__(self, reason: tuple[int, int], text: str) -> None:
        super().__init__(text)
        self.code, self.status = reason


class Faucet:
    """Gives each address at most ``limit`` of every denomination, counted over the life of the process."""

    def __init__(self, chain: Devnet, limit: int = FAUCET_LIMIT) -> None:
        self._chain = chain
        self._limit = limit
        self._given: dict[tuple[str, str], int] = {}

    def give(self, address: str, coins: Sequence[Coin]) -> None:
        """All of the coins or none; ``FaucetRefused`` for a bad address, another denomination or too much."""
        if addresses.decode(address) is None:
            raise FaucetRefused(_INVALID, f"{address!r} is no address of this chain: {addresses.problem(address)}")
        if address in bank.blocked_addresses():
            raise FaucetRefused(_INVALID, f"{address} is a module's account")
        if not coins:
            raise FaucetRefused(_INVALID, "no coins are asked for")
        wanted: dict[str, int] = {}
        for coin in coins:
            if coin.denom not in DENOMS or coin.amount <= 0:
                raise FaucetRefused(_INVALID, f"{coin}: the faucet gives positive amounts of {' and '.join(DENOMS)}")
            wanted[coin.denom] = wanted.get(coin.denom, 0) + coin.amount
        for denom, amount in wanted.items():
            left = self._limit - self._given.get((address, denom), 0)
            if amount > left:
                raise FaucetRefused(_EXHAUSTED, f"{address} may have {left}{denom} more of {self._limit}{denom}")
        for denom, amount in wanted.items():
            self._given[address, denom] = self._given.get((address, denom), 0) + amount
        self._chain.faucet(address, coins)
