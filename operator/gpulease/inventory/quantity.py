"""Kubernetes quantities as integers: CPU in milli-cores, everything else in whole units (bytes, devices)."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, InvalidOperation

_SUFFIX = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
    "Pi": Decimal(2) ** 50,
    "Ei": Decimal(2) ** 60,
}


def parse(text: str | int | float) -> Decimal:
    """``ValueError`` for what the API server would not accept either."""
    raw = str(text).strip()
    for length in (2, 1, 0):
        suffix = raw[len(raw) - length :] if length else ""
        if suffix in _SUFFIX:
            try:
                number = Decimal(raw[: len(raw) - length])
            except InvalidOperation:
                continue
            if number.is_finite():
                return number * _SUFFIX[suffix]
    raise ValueError(f"{text!r} is not a quantity such as 500m, 2 or 16Gi")


def whole(text: str | int | float) -> int:
    """Rounded up, as the scheduler does."""
    return int(parse(text).to_integral_value(ROUND_CEILING))


def milli(text: str | int | float) -> int:
    return int((parse(text) * 1000).to_integral_value(ROUND_CEILING))
