"""What transactions cost: a durable account of fees per day, and gas limits learned by message kind.

A day's fees are counted by the chain's clock, which nobody's local clock can move, and written together with the
transaction they belong to: a restart neither forgets nor repeats them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gpulease.units import NS_PER_S, Coin, Dec

HOURS = 24
_HOUR_NS = 3600 * NS_PER_S

# What one message of each kind used at most on the recorded chain, with half as much again on top.
GAS_BY_TYPE = {
    "/akash.audit.v1.MsgSignProviderAttributes": 115_000,
    "/akash.cert.v1.MsgCreateCertificate": 155_000,
    "/akash.cert.v1.MsgRevokeCertificate": 125_000,
    "/akash.deployment.v1beta4.MsgCloseDeployment": 600_000,
    "/akash.deployment.v1beta4.MsgCloseGroup": 260_000,
    "/akash.deployment.v1beta4.MsgCreateDeployment": 350_000,
    "/akash.deployment.v1beta4.MsgUpdateDeployment": 95_000,
    "/akash.escrow.v1.MsgAccountDeposit": 200_000,
    "/akash.market.v1beta5.MsgCloseBid": 370_000,
    "/akash.market.v1beta5.MsgCloseLease": 370_000,
    "/akash.market.v1beta5.MsgCreateBid": 200_000,
    "/akash.market.v1beta5.MsgCreateLease": 350_000,
    "/akash.market.v1beta5.MsgLeaseStartReclaim": 115_000,
    "/akash.market.v1beta5.MsgWithdrawLease": 690_000,
    "/akash.provider.v1beta4.MsgCreateProvider": 120_000,
    "/akash.provider.v1beta4.MsgUpdateProvider": 120_000,
    "/cosmos.bank.v1beta1.MsgSend": 140_000,
}
DEFAULT_GAS = 400_000


@dataclass(frozen=True, slots=True)
class Purse:
    """One signer's running account.

    ``by_hour`` is uakt by hour of chain time, the last :data:`HOURS` of them, reserved when a transaction is signed.
    ``paid_uakt`` is what blocks have taken; it only grows (a counter).
    ``gas`` is the most one message of a type URL was seen to use. ``last_timeout_ns`` keeps unordered transactions'
    timestamps unique over restarts.
    """

    signer: str
    by_hour: Mapping[int, int] = field(default_factory=dict)
    paid_uakt: int = 0
    gas: Mapping[str, int] = field(default_factory=dict)
    last_timeout_ns: int = 0

    def spent_uakt(self, *, chain_time_ns: int) -> int:
        """Over the last day."""
        oldest = chain_time_ns // _HOUR_NS - HOURS + 1
        return sum(amount for hour, amount in self.by_hour.items() if hour >= oldest)

    def reserved(self, amount_uakt: int, *, at_ns: int) -> Purse:
        hour = at_ns // _HOUR_NS
        kept = {h: a for h, a in self.by_hour.items() if h > hour - HOURS}
        kept[hour] = kept.get(hour, 0) + amount_uakt
        return replace(self, by_hour=kept)

    def paid(self, amount_uakt: int) -> Purse:
        """A block took what was reserved."""
        return replace(self, paid_uakt=self.paid_uakt + amount_uakt)

    def refunded(self, amount_uakt: int, *, at_ns: int) -> Purse:
        """A transaction signed at ``at_ns`` died without a block taking its fee."""
        hour = at_ns // _HOUR_NS
        rest = {h: a - (amount_uakt if h == hour else 0) for h, a in self.by_hour.items()}
        return replace(self, by_hour={h: a for h, a in rest.items() if a > 0})

    def learned(self, kinds: Sequence[str], gas_used: int) -> Purse:
        """From a transaction of like messages; mixed ones teach nothing."""
        if not kinds or len(set(kinds)) != 1 or gas_used <= 0:
            return self
        kind, each = kinds[0], -(-gas_used // len(kinds))
        if each <= self.gas.get(kind, 0):
            return self
        return replace(self, gas={**self.gas, kind: each})

    def knows(self, kind: str) -> bool:
        return kind in GAS_BY_TYPE or kind in self.gas


def gas_limit(kinds: Sequence[str], learned: Mapping[str, int], *, failures: int = 0) -> int:
    """For a transaction of these message kinds.

    Each kind's first message gets the larger of the table and one and a half times what was seen, its further ones
    five quarters of what was seen: all of them at once do not meet their worst case. Doubled per one of ``failures``.
    """
    total, seen = 0, set[str]()
    for kind in kinds:
        own = learned.get(kind, 0)
        worst = max(GAS_BY_TYPE.get(kind, 0), own * 3 // 2) or DEFAULT_GAS
        total += own * 5 // 4 if kind in seen and own else worst
        seen.add(kind)
    return total << min(failures, 3)


def fee_for(gas: int, gas_price_uakt: Dec) -> Coin:
    return Coin("uakt", (gas_price_uakt * gas).ceil())
