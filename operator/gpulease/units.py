"""Money, time and GPU units.

Money is an integer number of micro-units (``uact``: 1 ACT = 1 USD; ``uakt``: gas). The chain's fractional prices
are ``LegacyDec``: integers scaled by 10^18, whose rounding the escrow arithmetic depends on, so they are kept in
that form (:class:`Dec`) and never turned into floats.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import total_ordering

UACT = "uact"
UAKT = "uakt"
MICRO = 1_000_000
DEC_SCALE = 10**18
NS_PER_S = 1_000_000_000
SECONDS_PER_HOUR = 3600

_COIN = re.compile(r"^(?P<amount>[0-9]+)(?P<denom>[a-zA-Z][a-zA-Z0-9/:._-]{2,127})$")
_DEC = re.compile(r"^(?P<sign>-?)(?P<whole>[0-9]+)(?:\.(?P<frac>[0-9]{1,18}))?$")


def _half_even(numerator: int, denominator: int) -> int:
    """Integer quotient rounded half to even on the absolute value (cosmossdk.io/math ``chopPrecisionAndRound``)."""
    sign = -1 if (numerator < 0) != (denominator < 0) else 1
    quotient, rest = divmod(abs(numerator), abs(denominator))
    twice = 2 * rest
    if twice > abs(denominator) or (twice == abs(denominator) and quotient % 2 == 1):
        quotient += 1
    return sign * quotient


@total_ordering
@dataclass(frozen=True, slots=True)
class Dec:
    """The chain's ``LegacyDec``: ``raw`` is the value times 10^18. Mul and Quo round half to even."""

    raw: int = 0

    @classmethod
    def of(cls, value: int | str | Decimal) -> Dec:
        """From a whole number or decimal text with at most 18 places; ``ValueError`` otherwise."""
        if isinstance(value, int):
            return cls(value * DEC_SCALE)
        text = format(value, "f") if isinstance(value, Decimal) else value
        match = _DEC.match(text)
        if match is None:
            raise ValueError(f"{text!r} is not a decimal number with at most 18 places")
        raw = int(match["whole"]) * DEC_SCALE + int((match["frac"] or "").ljust(18, "0"))
        return cls(-raw if match["sign"] else raw)

    def __add__(self, other: Dec) -> Dec:
        return Dec(self.raw + other.raw)

    def __sub__(self, other: Dec) -> Dec:
        return Dec(self.raw - other.raw)

    def __neg__(self) -> Dec:
        return Dec(-self.raw)

    def __mul__(self, other: Dec | int) -> Dec:
        if isinstance(other, int):
            return Dec(self.raw * other)
        return Dec(_half_even(self.raw * other.raw, DEC_SCALE))

    def __truediv__(self, other: Dec) -> Dec:
        return Dec(_half_even(self.raw * DEC_SCALE, other.raw))

    def __lt__(self, other: Dec) -> bool:
        return self.raw < other.raw

    def __bool__(self) -> bool:
        return self.raw != 0

    def truncate(self) -> int:
        """Whole units, toward zero (``TruncateInt``)."""
        return -(-self.raw // DEC_SCALE) if self.raw < 0 else self.raw // DEC_SCALE

    def ceil(self) -> int:
        """Smallest whole number not below the value."""
        return -(-self.raw // DEC_SCALE)

    def __str__(self) -> str:
        whole, frac = divmod(abs(self.raw), DEC_SCALE)
        return f"{'-' if self.raw < 0 else ''}{whole}.{frac:018d}"


@dataclass(frozen=True, slots=True, order=True)
class Coin:
    """A whole number of micro-units of one denomination."""

    denom: str
    amount: int

    @classmethod
    def parse(cls, text: str) -> Coin:
        """From ``500000uakt``; ``ValueError`` otherwise."""
        match = _COIN.match(text)
        if match is None:
            raise ValueError(f"{text!r} is not an amount such as 500000uakt")
        return cls(match["denom"], int(match["amount"]))

    def __str__(self) -> str:
        return f"{self.amount}{self.denom}"


@dataclass(frozen=True, slots=True)
class DecCoin:
    """A price: a :class:`Dec` number of micro-units of one denomination (per block, where it is a rate)."""

    denom: str
    amount: Dec

    def __str__(self) -> str:
        return f"{self.amount}{self.denom}"


def usd_to_uact(usd: str | Decimal) -> int:
    """USD text with at most 6 places to whole ``uact``; ``ValueError`` on anything finer or not a number."""
    raw = Dec.of(usd).raw * MICRO
    if raw % DEC_SCALE:
        raise ValueError(f"{usd} USD has more than 6 decimal places, the smallest unit is 0.000001")
    return raw // DEC_SCALE


def uact_to_usd(amount_uact: int) -> str:
    """Whole ``uact`` as USD text with 6 places."""
    sign = "-" if amount_uact < 0 else ""
    whole, micro = divmod(abs(amount_uact), MICRO)
    return f"{sign}{whole}.{micro:06d}"
