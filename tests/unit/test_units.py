"""The chain's decimals and coins: rounding is what the escrow arithmetic depends on."""

from __future__ import annotations

import pytest

from gpulease.units import Coin, Dec, uact_to_usd, usd_to_uact

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("left", "right", "product"),
    [
        ("0.5", "0.000000000000000001", "0.000000000000000000"),
        ("1.5", "0.000000000000000001", "0.000000000000000002"),
        ("2.5", "0.000000000000000001", "0.000000000000000002"),
        ("-1.5", "0.000000000000000001", "-0.000000000000000002"),
        ("3", "7", "21.000000000000000000"),
    ],
)
def test_products_round_half_to_even(left: str, right: str, product: str) -> None:
    assert str(Dec.of(left) * Dec.of(right)) == product


@pytest.mark.parametrize(("value", "down", "up"), [("1.9", 1, 2), ("-1.9", -1, -1), ("2", 2, 2), ("0.000001", 0, 1)])
def test_truncate_goes_toward_zero_and_ceil_up(value: str, down: int, up: int) -> None:
    assert Dec.of(value).truncate() == down
    assert Dec.of(value).ceil() == up


@pytest.mark.parametrize("bad", ["", "1e3", "1.", "0.1234567890123456789", "NaN", "1,5"])
def test_a_decimal_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="decimal"):
        Dec.of(bad)


def test_coins_read_back_what_they_print() -> None:
    assert str(Coin.parse("500000uakt")) == "500000uakt"
    with pytest.raises(ValueError, match="500000uakt"):
        Coin.parse("uakt5")


@pytest.mark.parametrize(("usd", "uact"), [("2.5", 2_500_000), ("0.000001", 1), ("0", 0)])
def test_usd_and_uact_are_one_to_a_million(usd: str, uact: int) -> None:
    assert usd_to_uact(usd) == uact
    assert usd_to_uact(uact_to_usd(uact)) == uact


def test_a_fraction_of_the_smallest_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="6 decimal places"):
        usd_to_uact("0.0000001")
