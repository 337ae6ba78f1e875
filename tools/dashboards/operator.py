"""Operator: whether the process keeps up with its work, and what it costs the API server and the machine."""

from __future__ import annotations

from tools.dashboards.board import AMBER, GREEN, RED, Board, Choice, Query, Section, lines, number

ON = 'instance=~"$instance"'
Q = f'{ON},queue=~"$queue"'
RATE = "[$__rate_interval]"


def _run_quantile(share: float) -> str:
    return f"histogram_quantile({share}, sum by (le, queue) (rate(gpulease_queue_run_seconds_bucket{{{Q}}}{RATE})))"


def _now() -> Section:
    return Section(
        "Now",
        [
            number(
                "Leaders",
                "none",
                "Exactly one process may act.",
                f"sum(gpulease_leader{{{ON}}})",
                base=RED,
                steps=[(1, GREEN), (2, RED)],
                width=4,
            ),
            number(
                "Leader changes, 1 h",
                "short",
                "Several an hour: the API server or the node is slow.",
                f"max(max_over_time(gpulease_leader_transitions_total{{{ON}}}[1h]))"
                f" - min(min_over_time(gpulease_leader_transitions_total{{{ON}}}[1h]))",
                steps=[(2, AMBER), (4, RED)],
                width=4,
            ),
            number(
                "Keys waiting",
                "short",
                "All queues.",
                f"sum(gpulease_queue_depth{{{Q}}})",
                steps=[(100, AMBER), (1000, RED)],
                width=4,
            ),
            number(
                "Longest wait",
                "s",
                "The process restarts itself after 5 minutes.",
                f"max(gpulease_queue_oldest_seconds{{{Q}}})",
                steps=[(5, AMBER), (60, RED)],
                width=4,
            ),
            number(
                "Memory",
                "bytes",
                "Resident.",
                f"max(process_resident_memory_bytes{{{ON}}} and on (instance) gpulease_leader)",
                width=4,
            ),
            number(
                "Chains down",
                "short",
                "Chains that cannot be used now.",
                f"sum(1 - gpulease_chain_up{{{ON}}})",
                steps=[(1, RED)],
                width=4,
            ),
        ],
    )


def _work() -> Section:
    return Section(
        "Work",
        [
            lines(
                "Keys waiting",
                "short",
                "By queue. Bids have one of their own.",
                Query(f"gpulease_queue_depth{{{Q}}}", "{{queue}}"),
            ),
            lines(
                "Longest wait",
                "s",
                "How long the oldest key has waited.",
                Query(f"gpulease_queue_oldest_seconds{{{Q}}}", "{{queue}}"),
            ),
            lines(
                "Looks",
                "ops",
                "Succeeded and failed, by queue. Failed ones are tried again, later and later.",
                Query(f"rate(gpulease_queue_done_total{{{Q}}}{RATE})", "{{queue}} done"),
                Query(f"rate(gpulease_queue_failed_total{{{Q}}}{RATE})", "{{queue}} failed"),
            ),
            lines(
                "Duration of a look",
                "s",
                "Median and 99th percentile.",
                Query(_run_quantile(0.5), "{{queue}} median"),
                Query(_run_quantile(0.99), "{{queue}} 99 %"),
                width=12,
            ),
            lines(
                "Workers busy",
                "none",
                "Average number of looks at the same time.",
                Query(f"rate(gpulease_queue_run_seconds_sum{{{Q}}}{RATE})", "{{queue}}"),
                width=12,
            ),
        ],
    )


def _costs() -> Section:
    return Section(
        "What it costs",
        [
            lines(
                "API writes",
                "wps",
                "Writes to the API server by kind.",
                Query(f"sum by (kind) (rate(gpulease_api_writes_total{{{ON}}}{RATE}))", "{{kind}}"),
                stacked=True,
            ),
            lines(
                "Memory",
                "bytes",
                "Resident.",
                Query(f"process_resident_memory_bytes{{{ON}}} and on (instance) gpulease_leader", "{{instance}}"),
            ),
            lines(
                "CPU",
                "percentunit",
                "Of one core.",
                Query(
                    f"rate(process_cpu_seconds_total{{{ON}}}{RATE}) and on (instance) gpulease_leader", "{{instance}}"
                ),
            ),
            lines(
                "Open files",
                "short",
                "File descriptors.",
                Query(f"process_open_fds{{{ON}}} and on (instance) gpulease_leader", "{{instance}}"),
            ),
            lines("Blocks read", "ops", "Per chain.", Query(f"deriv(gpulease_chain_height{{{ON}}}[5m])", "{{chain}}")),
            lines(
                "GPULeases and hosted leases",
                "short",
                "Objects by state.",
                Query(f"sum by (state) (gpulease_tenant_leases{{{ON}}})", "bought, {{state}}"),
                Query(f"sum by (state) (gpulease_hosted_leases{{{ON}}})", "hosted, {{state}}"),
            ),
        ],
    )


BOARD = Board(
    uid="gpulease-operator",
    title="gpulease / Operator",
    description="Queues, durations, API writes, leadership, memory and CPU of the operator's process.",
    choices=[
        Choice("instance", "Instance", "label_values(gpulease_queue_depth, instance)"),
        Choice("queue", "Queue", 'label_values(gpulease_queue_depth{instance=~"$instance"}, queue)'),
    ],
    sections=[_now(), _work(), _costs()],
)
