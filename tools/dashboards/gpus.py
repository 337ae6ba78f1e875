"""GPUs: health of each device and of what measures it, from our node agents, DCGM and the kubelet."""

from __future__ import annotations

from tools.dashboards.board import AMBER, RED, Board, Choice, Panel, Query, Section, lines, number, rows_of

D = 'device=~"$device"'
DCGM = 'UUID=~"$device"'


def _now() -> Section:
    def quiet(title: str, why: str, expr: str) -> Panel:
        return number(title, "short", why, expr, steps=[(1, RED)], width=4)

    return Section(
        "Health",
        [
            number("GPUs that answer", "short", "By NVML.", f"sum(gpulease_agent_device_up{{{D}}})", width=4),
            quiet("GPUs silent", "Seen before, no answer now.", f"sum(1 - gpulease_agent_device_up{{{D}}})"),
            quiet(
                "Quarantined",
                "Withdrawn from sale as sick.",
                'sum(max by (node, product) (gpulease_gpus{state="quarantined"}))',
            ),
            quiet(
                "With a fault",
                "A driver fault message (XID) since the agent started.",
                f"count(gpulease_agent_device_last_xid{{{D}}} > 0) or vector(0)",
            ),
            quiet(
                "Contested", "Claims on a device that another container holds.", "sum(gpulease_agent_contested_claims)"
            ),
            number(
                "Hottest",
                "celsius",
                "The warmest GPU.",
                f"max(gpulease_agent_device_temperature_celsius{{{D}}})",
                steps=[(80, AMBER), (90, RED)],
                width=4,
            ),
            rows_of(
                "Newest XID",
                "none",
                "Code by device; 48, 63, 64, 74, 79, 94, 95 mean hardware.",
                f"gpulease_agent_device_last_xid{{{D}}}",
                width=12,
            ),
            rows_of("Devices", "none", "1 for a device that answers.", f"gpulease_agent_device_up{{{D}}}", width=12),
        ],
    )


def _devices() -> Section:
    def each(title: str, unit: str, why: str, expr: str) -> Panel:
        return lines(title, unit, why, Query(expr, "{{index}} {{device}}"))

    return Section(
        "Devices",
        [
            each("Temperature", "celsius", "Of each GPU.", f"gpulease_agent_device_temperature_celsius{{{D}}}"),
            each(
                "Power",
                "watt",
                "From energy counters.",
                f"rate(gpulease_agent_device_energy_joules_total{{{D}}}[$__rate_interval])",
            ),
            each(
                "Utilisation",
                "percentunit",
                "Share of time with any work.",
                f"gpulease_agent_device_utilisation_ratio{{{D}}}",
            ),
            each("Memory", "bytes", "Memory in use.", f"gpulease_agent_device_memory_used_bytes{{{D}}}"),
            lines(
                "Power, all",
                "watt",
                "All GPUs by product.",
                Query(
                    f"sum by (product) (rate(gpulease_agent_device_energy_joules_total{{{D}}}[$__rate_interval]))",
                    "{{product}}",
                ),
                stacked=True,
            ),
            lines(
                "GPUs by state and node",
                "short",
                "As the provider counts them.",
                Query("sum by (node, state) (max by (node, product, state) (gpulease_gpus))", "{{node}} {{state}}"),
                stacked=True,
            ),
        ],
    )


def _measuring() -> Section:
    return Section(
        "Measuring",
        [
            lines("Agents", "none", "0 while a node's usage is unknown.", Query("gpulease_agent_up", "{{node}}")),
            lines(
                "Sources",
                "none",
                "1 while NVML, the kubelet and DCGM answered the agent's last look.",
                Query("min by (source) (gpulease_agent_source_up)", "{{source}}"),
            ),
            lines(
                "Looks in a row without an answer",
                "short",
                "By source.",
                Query("max by (source) (gpulease_agent_source_failures_in_a_row)", "{{source}}"),
            ),
            lines(
                "Records written",
                "cps",
                "Usage records of all agents.",
                Query("sum(rate(gpulease_agent_records_total[$__rate_interval]))", "records"),
            ),
            lines(
                "Records waiting",
                "short",
                "Not yet taken by the operator.",
                Query("gpulease_agent_records_waiting", "{{instance}}"),
            ),
            lines(
                "Clock offset",
                "s",
                "Wall clock minus record time: jumps are clock corrections.",
                Query("gpulease_agent_clock_offset_seconds", "{{instance}}"),
            ),
        ],
    )


def _dcgm() -> Section:
    return Section(
        "DCGM and kubelet (where they are scraped)",
        [
            lines(
                "Compute engines busy",
                "percentunit",
                "DCGM; also right on MIG.",
                Query(f"DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{DCGM}}}", "{{gpu}} {{UUID}}"),
            ),
            lines(
                "Tensor cores busy",
                "percentunit",
                "DCGM.",
                Query(f"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{{{DCGM}}}", "{{gpu}} {{UUID}}"),
            ),
            lines(
                "Power by DCGM",
                "watt",
                "One value per board: MIG instances repeat their parent's.",
                Query(f"max by (UUID) (DCGM_FI_DEV_POWER_USAGE{{{DCGM}}})", "{{UUID}}"),
            ),
            lines(
                "Memory temperature",
                "celsius",
                "DCGM.",
                Query(f"max by (UUID) (DCGM_FI_DEV_MEMORY_TEMP{{{DCGM}}})", "{{UUID}}"),
            ),
            lines(
                "Row remapping failed",
                "none",
                "1: the GPU needs to be replaced.",
                Query(f"max by (UUID) (DCGM_FI_DEV_ROW_REMAP_FAILURE{{{DCGM}}})", "{{UUID}}"),
            ),
            lines(
                "Device plugin registrations, per hour",
                "short",
                "More than 0 in quiet times: the plugin restarts.",
                Query(
                    "sum by (resource_name) (increase(kubelet_device_plugin_registration_total"
                    '{resource_name=~"nvidia.com/.*"}[1h]))',
                    "{{resource_name}}",
                ),
            ),
        ],
    )


BOARD = Board(
    uid="gpulease-gpus",
    title="gpulease / GPUs",
    description="Health, faults, temperature and power of every GPU, and whether its use is being measured.",
    choices=[Choice("device", "GPU", "label_values(gpulease_agent_device_up, device)")],
    sections=[_now(), _devices(), _measuring(), _dcgm()],
)
