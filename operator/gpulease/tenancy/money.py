"""Money facts of a GPULease's status, in words a tenant can act on.

Figures that move every block are not written at every block: they go to metrics; the status carries what stays true
(price, run-out height) and is refreshed with the next transition.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from gpulease.market.model import Deployment
from gpulease.planning import NS_PER_S, Condition
from gpulease.tenancy.states import FundsView, ObservedTenant
from gpulease.units import SECONDS_PER_HOUR, Dec, uact_to_usd

_CENT = Decimal("0.01")
_HALF_STEP = Decimal("0.000001")
"""The ceiling per block is rounded down; a limit of 2.50 must not be told as 2.49."""
_LONGEST_NS = 100 * 365 * 24 * SECONDS_PER_HOUR * NS_PER_S


def usd_per_hour(uact_per_block: Dec, block_time_ns: int) -> str:
    """A price per block as USD per hour, rounded down to 6 places."""
    per_hour = uact_per_block.raw * SECONDS_PER_HOUR * NS_PER_S // max(block_time_ns, 1)
    return uact_to_usd(Dec(per_hour).truncate())


def usd_words(uact_per_block: Dec, block_time_ns: int) -> str:
    """The same for a sentence: to the cent, so that the sentence does not change with every block."""
    cents = (Decimal(usd_per_hour(uact_per_block, block_time_ns)) + _HALF_STEP).quantize(_CENT)
    return f"{cents:f}"


def describe_funds(funds: FundsView, *, height: int, block_time_ns: int, budget_uact: int) -> Condition:
    """The ``Funded`` condition. Its text names no moving figure."""
    if funds.run_out_height is None:
        return Condition.true("Funded", "NothingAccrues", "No payment is accruing.")
    if funds.run_out_height <= height:
        return Condition.false("Funded", "RunOut", f"The funds ran out at height {funds.run_out_height}.")
    if funds.deposited_uact >= budget_uact:
        words = (
            f"The budget of {uact_to_usd(budget_uact)} USD is fully deposited; the lease ends at height "
            f"{funds.run_out_height}. Raise spec.budgetUsd to keep it."
        )
        return Condition.true("Funded", "BudgetReached", words)
    hours = (funds.run_out_height - height) * block_time_ns / NS_PER_S / SECONDS_PER_HOUR
    if hours < 0:
        return Condition.false("Funded", "RunOut", "The funds ran out.")
    return Condition.true("Funded", "TopUpsWithinBudget", "Funds are topped up before they end, within spec.budgetUsd.")


def figures(seen: ObservedTenant, deployment: Deployment) -> dict[str, Any]:
    """Cost and funds as of the observed height; nothing is known of an account that is not projected."""
    if seen.funds is None:
        return spent_facts(seen, deployment)
    left_uact = max(seen.wanted.budget_uact - seen.funds.spent_uact, 0)
    known: dict[str, Any] = {
        "spentUact": seen.funds.spent_uact,
        "fundsUact": seen.funds.funds_uact,
        "budgetLeftUact": left_uact,
    }
    if seen.funds.run_out_height is not None:
        left_ns = (seen.funds.run_out_height - seen.height) * seen.block_time_ns
        known["runOutHeight"] = seen.funds.run_out_height
        # A tiny price makes funds last beyond any calendar: a hundred years is as good as for ever.
        moment_s = max(seen.now_ns + min(left_ns, _LONGEST_NS), 0) // NS_PER_S
        known["runOutTime"] = datetime.fromtimestamp(moment_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return known


def spent_facts(seen: ObservedTenant, deployment: Deployment) -> dict[str, Any]:
    """What the deployment has cost so far, from the chain's own account."""
    paid = sum(coin.amount.truncate() for coin in deployment.escrow.transferred if coin.denom == "uact")
    left = sum(max(coin.amount.truncate(), 0) for coin in deployment.escrow.funds if coin.denom == "uact")
    return {
        "spentUact": paid,
        "fundsUact": left,
        "budgetLeftUact": max(seen.wanted.budget_uact - paid, 0),
    }
