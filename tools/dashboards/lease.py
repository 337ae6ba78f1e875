"""Lease: one lease as the provider hosts it, and the tenant's own GPULease objects."""

from __future__ import annotations

from tools.dashboards.board import AMBER, GREEN, RED, UACT_PER_USD, USD, Board, Choice, Query, Section, lines, number

L = 'lease="$lease"'
# The agent's series of a device have no lease: who holds the device does.
HELD = 'and on (device) gpulease_agent_gpu_seconds_total{namespace="$lease_namespace"}'


def _now() -> Section:
    price = f"gpulease_lease_price_uact_per_hour{{{L}}} / {UACT_PER_USD}"
    return Section(
        "Now",
        [
            number("GPUs", "short", "GPUs of the lease.", f"gpulease_lease_gpus{{{L}}}"),
            number("Price per hour", USD, "At the chain's measured block time.", price, decimals=2),
            number(
                "Cost so far",
                USD,
                "Withdrawn by the provider and owed to it.",
                f"(gpulease_lease_withdrawn_uact{{{L}}} + gpulease_lease_owed_uact{{{L}}}) / {UACT_PER_USD}",
                decimals=2,
            ),
            number(
                "Funds left",
                USD,
                "What the escrow pays for until it ends.",
                f"gpulease_lease_escrow_seconds{{{L}}} / 3600 * {price}",
                decimals=2,
            ),
            number(
                "Time left",
                "s",
                "Until the funds end; the tenant may top up until then.",
                f"gpulease_lease_escrow_seconds{{{L}}}",
                base=RED,
                steps=[(600, AMBER), (3600, GREEN)],
            ),
            number(
                "Last paid block",
                "none",
                "The last block that the escrow pays in full.",
                f"gpulease_lease_escrow_run_out_height{{{L}}}",
                decimals=0,
            ),
            number("Energy", "joule", "Measured so far.", f"gpulease_lease_energy_joules_total{{{L}}}"),
            number(
                "Not measured",
                "s",
                "GPU time of which nothing is known: it is marked in the records, not guessed.",
                f"gpulease_lease_gap_seconds_total{{{L}}}",
                steps=[(1, AMBER), (60, RED)],
            ),
        ],
    )


def _use() -> Section:
    return Section(
        "Use",
        [
            lines(
                "Utilisation",
                "percentunit",
                "Share of time with work on each GPU; one busy unit of many counts as busy.",
                Query(f"gpulease_agent_device_utilisation_ratio {HELD}", "{{device}}"),
            ),
            lines(
                "Memory",
                "bytes",
                "Memory in use on each GPU.",
                Query(f"gpulease_agent_device_memory_used_bytes {HELD}", "{{device}}"),
            ),
            lines(
                "Power",
                "watt",
                "From the GPUs' energy counters.",
                Query(f"rate(gpulease_agent_device_energy_joules_total[$__rate_interval]) {HELD}", "{{device}}"),
            ),
            lines(
                "GPU time",
                "s",
                "GPU-seconds held, from allocation intervals: what usage records say.",
                Query(f"gpulease_lease_gpu_seconds_total{{{L}}}", "GPU-seconds"),
            ),
            lines(
                "Energy",
                "joule",
                "Measured over the lease.",
                Query(f"gpulease_lease_energy_joules_total{{{L}}}", "energy"),
            ),
            lines(
                "Usage records",
                "short",
                "Signed records taken in from the nodes.",
                Query(f"gpulease_lease_usage_records_total{{{L}}}", "records"),
            ),
        ],
    )


def _money_and_faults() -> Section:
    return Section(
        "Money and faults",
        [
            lines(
                "Cost",
                USD,
                "Withdrawn, and owed since the last settlement.",
                Query(f"gpulease_lease_withdrawn_uact{{{L}}} / {UACT_PER_USD}", "withdrawn"),
                Query(f"gpulease_lease_owed_uact{{{L}}} / {UACT_PER_USD}", "owed"),
                stacked=True,
            ),
            lines(
                "Time left", "s", "Until the funds end.", Query(f"gpulease_lease_escrow_seconds{{{L}}}", "time left")
            ),
            lines(
                "Since the last settlement",
                "s",
                "Settlement drops fractions, so it is rare on purpose.",
                Query(f"gpulease_lease_settlement_age_seconds{{{L}}}", "age"),
                Query(f"gpulease_lease_settlement_overdue_seconds{{{L}}}", "overdue"),
            ),
            lines(
                "Last XID",
                "none",
                "Code of the driver's newest fault message on each GPU since the agent started.",
                Query(f"gpulease_agent_device_last_xid {HELD}", "{{device}}"),
            ),
            lines(
                "Temperature",
                "celsius",
                "Of each GPU.",
                Query(f"gpulease_agent_device_temperature_celsius {HELD}", "{{device}}"),
            ),
            lines(
                "Not measured",
                "s",
                "GPU time of which nothing is known.",
                Query(f"gpulease_lease_gap_seconds_total{{{L}}}", "gap"),
                Query(f"gpulease_lease_unpaid_gpu_seconds{{{L}}}", "unpaid GPU time"),
            ),
        ],
    )


def _bought() -> Section:
    o = 'object=~"$object"'
    return Section(
        "Bought: GPULease objects",
        [
            lines(
                "Spent",
                USD,
                "Spent by each GPULease so far.",
                Query(f"gpulease_tenant_spent_uact{{{o}}} / {UACT_PER_USD}", "{{object}}"),
            ),
            lines(
                "Funds",
                USD,
                "Left in each escrow at its last look.",
                Query(f"gpulease_tenant_funds_uact{{{o}}} / {UACT_PER_USD}", "{{object}}"),
            ),
            lines(
                "Time left",
                "s",
                "Until the funds end; the operator tops up within the budget before.",
                Query(f"gpulease_tenant_escrow_seconds{{{o}}}", "{{object}}"),
            ),
        ],
    )


BOARD = Board(
    uid="gpulease-lease",
    title="gpulease / Lease",
    description="One lease: what its GPUs do, what it costs, how long its funds last, what went wrong.",
    choices=[
        Choice("lease", "Lease", "label_values(gpulease_lease_info, lease)", many=False),
        Choice(
            "lease_namespace",
            "Namespace of the lease",
            'label_values(gpulease_lease_info{lease="$lease"}, lease_namespace)',
            many=False,
            hidden=True,
        ),
        Choice("object", "GPULease", "label_values(gpulease_tenant_spent_uact, object)"),
    ],
    sections=[_now(), _use(), _money_and_faults(), _bought()],
)
