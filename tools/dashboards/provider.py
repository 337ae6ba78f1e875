"""Provider: what is sold, what it earns, why bids are won and lost, and whether the chain takes our transactions."""

from __future__ import annotations

from tools.dashboards.board import (
    AKT,
    AMBER,
    GREEN,
    RED,
    UACT_PER_USD,
    USD,
    Board,
    Choice,
    Query,
    Section,
    lines,
    number,
    rows_of,
)

P = 'provider=~"$provider"'
C = 'chain=~"$chain"'
OURS = f"on (lease) group_left (provider) max by (lease, provider) (gpulease_lease_info{{{P}}})"
HOURLY = f"sum(gpulease_lease_price_uact_per_hour * {OURS}) / {UACT_PER_USD}"
LEASED_GPUS = f"sum(gpulease_lease_gpus * {OURS})"
DAY, HOUR = 24 * 3600, 3600


def _now() -> Section:
    won = f'sum(increase(gpulease_bid_outcomes_total{{{P},outcome="won"}}[24h]))'
    sold = f'sum(gpulease_gpus{{{P},state="leased"}}) / sum(gpulease_gpus{{{P}}})'
    return Section(
        "Now",
        [
            number(
                "Sold", "percentunit", "Share of all GPUs that a lease holds.", sold, base=AMBER, steps=[(0.5, GREEN)]
            ),
            number("Income", USD, "Price of all live leases per hour.", HOURLY, decimals=2),
            number(
                "Per GPU-hour", USD, "Price of one leased GPU for an hour.", f"{HOURLY} / {LEASED_GPUS}", decimals=2
            ),
            number(
                "Win rate, 24 h",
                "percentunit",
                "Share of decided bids that became a lease.",
                f"{won} / sum(increase(gpulease_bid_outcomes_total{{{P}}}[24h]))",
            ),
            number(
                "Unsettled",
                USD,
                "What withdrawals would pay now.",
                f"sum(gpulease_owed_uact{{{P}}}) / {UACT_PER_USD}",
                decimals=2,
            ),
            number(
                "Shortest runway",
                "s",
                "Until the first lease's funds end. Its tenant may top up until then.",
                f"min(gpulease_lease_escrow_seconds * {OURS})",
                base=RED,
                steps=[(600, AMBER), (HOUR, GREEN)],
            ),
            number(
                "Fee wallet",
                AKT,
                "AKT left for fees and deposits.",
                f'sum(gpulease_wallet_balance{{{C},account=~"$provider",denom="uakt"}}) / 1e6',
                base=RED,
                steps=[(2, AMBER), (5, GREEN)],
                decimals=1,
            ),
            number(
                "Certificate",
                "s",
                "Until the gateway's certificate ends; it is renewed 30 days before.",
                f"min(gpulease_certificate_expires_seconds{{{P}}})",
                base=RED,
                steps=[(7 * DAY, AMBER), (21 * DAY, GREEN)],
            ),
        ],
    )


def _gpus() -> Section:
    def by(label: str, state: str) -> Query:
        return Query(f'sum by ({label}) (gpulease_gpus{{{P},state="{state}"}})', f"{{{{{label}}}}}")

    return Section(
        "GPUs",
        [
            lines(
                "GPUs by state",
                "short",
                "Free can be sold, reserved waits for a bid's outcome, quarantined is sick and not sold.",
                Query(f"sum by (state) (gpulease_gpus{{{P}}})", "{{state}}"),
                stacked=True,
            ),
            lines("Sold by model", "short", "GPUs held by leases.", by("product", "leased"), stacked=True),
            lines("Free by model", "short", "GPUs that could be sold now.", by("product", "free"), stacked=True),
            lines("Sold by node", "short", "GPUs held by leases.", by("node", "leased"), stacked=True),
            lines("Free by node", "short", "GPUs that could be sold now.", by("node", "free"), stacked=True),
            lines("Quarantined by node", "short", "Sick GPUs; see the GPUs dashboard.", by("node", "quarantined")),
        ],
    )


def _market() -> Section:
    return Section(
        "Market",
        [
            lines(
                "Bids by outcome, per hour",
                "short",
                "Outbid: another provider won. Ended: the order did, unwon. Failed: the chain refused the bid.",
                Query(f"sum by (outcome) (increase(gpulease_bid_outcomes_total{{{P}}}[1h]))", "{{outcome}}"),
                stacked=True,
            ),
            lines(
                "Orders without a bid, per hour",
                "short",
                "Why orders were declined, each counted once per reason; reasons are in the metrics reference.",
                Query("sum by (reason) (increase(gpulease_orders_declined_total[1h]))", "{{reason}}"),
                stacked=True,
            ),
            lines(
                "Open bids",
                "short",
                "Bids that may still win; each keeps capacity and a deposit.",
                Query(f"gpulease_open_bids{{{P}}}", "{{provider}}"),
            ),
            lines(
                "Leases by state",
                "short",
                "Leases hosted.",
                Query("sum by (state) (gpulease_hosted_leases)", "{{state}}"),
            ),
            lines(
                "Income per hour",
                USD,
                "Price of all live leases, and of one of their GPUs.",
                Query(HOURLY, "all leases"),
                Query(f"{HOURLY} / {LEASED_GPUS}", "one GPU"),
            ),
            lines(
                "Bids handed over, per hour",
                "short",
                "Bids signed and sent.",
                Query("increase(gpulease_bids_total[1h])", "bids"),
            ),
        ],
    )


def _money() -> Section:
    return Section(
        "Money",
        [
            lines(
                "Withdrawn and owed",
                USD,
                "Withdrawn from leases so far, and what withdrawals would add now.",
                Query(f"sum(gpulease_earned_uact{{{P}}}) / {UACT_PER_USD}", "withdrawn"),
                Query(f"sum(gpulease_owed_uact{{{P}}}) / {UACT_PER_USD}", "owed"),
            ),
            lines(
                "Settlement lag",
                "s",
                "Time since each lease was settled on chain, and how far that is past the provider's period.",
                Query(f"max(gpulease_lease_settlement_age_seconds * {OURS})", "longest"),
                Query(f"max(gpulease_lease_settlement_overdue_seconds * {OURS})", "overdue"),
            ),
            lines(
                "Escrow runway by lease",
                "s",
                "Until each lease's funds end; at 0 the chain closes it.",
                Query(f"gpulease_lease_escrow_seconds * {OURS}", "{{lease}}"),
            ),
            lines(
                "Unpaid GPU time",
                "s",
                "GPU time held after the funds ended: given away.",
                Query(f"sum(gpulease_lease_unpaid_gpu_seconds * {OURS})", "GPU-seconds"),
            ),
            lines(
                "Fees, last 24 hours",
                AKT,
                "Fees signed for, beside the budget at which sending stops.",
                Query(f'gpulease_fees_last_day_uakt{{{C},account=~"$provider"}} / 1e6', "fees of {{account}}"),
                Query(f'gpulease_fee_budget_uakt{{{C},account=~"$provider"}} / 1e6', "budget of {{account}}"),
            ),
            rows_of(
                "Ledger against chain",
                "short",
                "Chain minus our ledger in micro-units: anything but 0 is an error in somebody's books.",
                f"gpulease_ledger_difference{{{C}}}",
            ),
        ],
    )


def _chain() -> Section:
    return Section(
        "Chain",
        [
            lines(
                "Chain lag",
                "s",
                "Age of the last block read. Much more than a block time: the endpoints are behind or away.",
                Query(f"gpulease_chain_lag_seconds{{{C}}}", "{{chain}}"),
            ),
            lines(
                "Transactions, per hour",
                "short",
                "Settled transactions by kind and outcome.",
                Query(
                    f"sum by (kind, outcome) (increase(gpulease_transactions_total{{{C}}}[1h]))", "{{kind}} {{outcome}}"
                ),
                stacked=True,
            ),
            lines(
                "Transaction failures, per hour",
                "short",
                "Failed in a block, refused by a node, or never included.",
                Query(
                    f'sum by (kind, outcome) (increase(gpulease_transactions_total{{{C},outcome!="included"}}[1h]))',
                    "{{kind}} {{outcome}}",
                ),
                stacked=True,
            ),
            lines(
                "Oldest pending transaction",
                "s",
                "How long the oldest transaction that is in no block has waited.",
                Query(f"gpulease_oldest_transaction_seconds{{{C}}}", "{{account}}"),
            ),
            lines(
                "Pending transactions",
                "short",
                "Transactions in no block yet.",
                Query(f"gpulease_pending_transactions{{{C}}}", "{{account}}"),
            ),
            lines(
                "Fees paid, per hour",
                AKT,
                "Fees that blocks have taken.",
                Query(f"sum by (account) (increase(gpulease_fees_paid_uakt_total{{{C}}}[1h])) / 1e6", "{{account}}"),
            ),
        ],
    )


BOARD = Board(
    uid="gpulease-provider",
    title="gpulease / Provider",
    description="GPUs sold and free, bids, income, settlement and the chain, for who sells.",
    choices=[
        Choice("provider", "Provider", "label_values(gpulease_open_bids, provider)"),
        Choice("chain", "Chain", "label_values(gpulease_chain_height, chain)"),
    ],
    sections=[_now(), _gpus(), _market(), _money(), _chain()],
)
