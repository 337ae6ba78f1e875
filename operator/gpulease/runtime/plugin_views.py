"""What ``kubectl gpulease`` shows, made from objects of the cluster. Pure: bodies in, tables out.

A table is for people and programs alike: the same rows are printed as columns, JSON or YAML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gpulease.kube.refs import Json
from gpulease.units import uact_to_usd

OUR_KINDS = ("GPULease", "GPUProvider", "HostedLease")


@dataclass(frozen=True, slots=True)
class Table:
    """``columns`` are (key of a row, heading); a value that is not known is None, never 0."""

    name: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Mapping[str, Any]]


def status(providers: Iterable[Json], hosted: Iterable[Json], bought: Iterable[Json]) -> tuple[Table, ...]:
    """What is there, whether it is ready, and what to do where it is not."""
    return (
        Table(
            "providers",
            [
                ("name", "PROVIDER"),
                *_READY,
                ("gpus", "GPUS"),
                ("leased", "LEASED"),
                ("free", "FREE"),
                ("sick", "SICK"),
                *_WHY,
            ],
            [_ready(body) | _gpus(body) for body in _sorted(providers)],
        ),
        Table(
            "hostedLeases",
            [("name", "HOSTED LEASE"), *_READY, ("state", "STATE"), ("dseq", "DSEQ"), ("gpuSeconds", "GPU-S"), *_WHY],
            [
                _ready(body)
                | {"state": _of(body, "state"), "gpuSeconds": _of(body, "gpuSeconds"), "dseq": _lease(body).get("dseq")}
                for body in _sorted(hosted)
            ],
        ),
        Table(
            "leases",
            [("name", "GPULEASE"), *_READY, ("state", "STATE"), ("provider", "RUN BY"), ("usdPerHour", "USD/H"), *_WHY],
            [
                _ready(body) | {key: _of(body, key) for key in ("state", "provider", "usdPerHour")}
                for body in _sorted(bought)
            ],
        ),
    )


def bids(lease: Json) -> Table:
    """What was offered for one GPULease, the taken one first, then by price."""
    rows = [
        {key: bid.get(key) for key in ("provider", "usdPerHour", "priceUactPerBlock", "accepted", "reason")}
        for bid in _of(lease, "bids") or ()
    ]
    rows.sort(key=lambda row: (not row["accepted"], Decimal(row["priceUactPerBlock"] or 0), str(row["provider"])))
    columns = [("provider", "PROVIDER"), ("usdPerHour", "USD/H"), ("accepted", "TAKEN"), ("reason", "WHY")]
    return Table("bids", columns, rows)


def cost(leases: Iterable[Json]) -> Table:
    """What each GPULease costs and how long its funds last, in USD."""
    rows = [
        {
            "name": _name(body),
            "usdPerHour": _of(body, "usdPerHour"),
            "spentUsd": _usd(_of(body, "spentUact")),
            "fundsUsd": _usd(_of(body, "fundsUact")),
            "budgetLeftUsd": _usd(_of(body, "budgetLeftUact")),
            "runOutTime": _of(body, "runOutTime"),
        }
        for body in _sorted(leases)
    ]
    columns = [
        ("name", "GPULEASE"),
        ("usdPerHour", "USD/H"),
        ("spentUsd", "SPENT"),
        ("fundsUsd", "IN ESCROW"),
        ("budgetLeftUsd", "BUDGET LEFT"),
        ("runOutTime", "FUNDS END"),
    ]
    return Table("cost", columns, rows)


def earnings(providers: Iterable[Json], hosted: Iterable[Json]) -> tuple[Table, Table]:
    """What providers have withdrawn and are owed, in all and by lease, in USD."""
    by_provider = [
        {
            "name": _name(body),
            "earnedUsd": _usd(_of(body, "earnedUact")),
            "unsettledUsd": _usd(_of(body, "unsettledUact")),
            "activeLeases": _of(body, "activeLeases"),
        }
        for body in _sorted(providers)
    ]
    by_lease = [
        {
            "name": _name(body),
            "state": _of(body, "state"),
            "withdrawnUsd": _usd(_of(body, "withdrawnUact")),
            "owedUsd": _usd(_of(body, "owedUact")),
            "gpuSeconds": _of(body, "gpuSeconds"),
            "runOutHeight": _of(body, "runOutHeight"),
        }
        for body in _sorted(hosted)
    ]
    return (
        Table(
            "providers",
            [("name", "PROVIDER"), ("earnedUsd", "EARNED"), ("unsettledUsd", "UNSETTLED"), ("activeLeases", "LEASES")],
            by_provider,
        ),
        Table(
            "hostedLeases",
            [
                ("name", "HOSTED LEASE"),
                ("state", "STATE"),
                ("withdrawnUsd", "WITHDRAWN"),
                ("owedUsd", "OWED"),
                ("gpuSeconds", "GPU-S"),
                ("runOutHeight", "FUNDS END AT BLOCK"),
            ],
            by_lease,
        ),
    )


def events(bodies: Iterable[Json], *, name: str = "") -> Table:
    """Events of our objects, oldest first; only those of ``name`` when it is given."""
    rows = []
    for body in bodies:
        about = body.get("regarding") or {}
        if about.get("kind") not in OUR_KINDS or (name and about.get("name") != name):
            continue
        series = body.get("series") or {}
        rows.append(
            {
                "time": str(series.get("lastObservedTime") or body.get("eventTime") or ""),
                "type": body.get("type"),
                "object": f"{about.get('kind')}/{about.get('name')}",
                "reason": body.get("reason"),
                "note": body.get("note"),
            }
        )
    rows.sort(key=lambda row: (row["time"], str(row["object"])))
    columns = [("time", "TIME"), ("type", "TYPE"), ("object", "OBJECT"), ("reason", "REASON"), ("note", "SAYS")]
    return Table("events", columns, rows)


_READY = [("ready", "READY")]
_WHY = [("reason", "REASON"), ("message", "SAYS")]


def _ready(body: Json) -> dict[str, Any]:
    found: Mapping[str, Any] = next((c for c in _of(body, "conditions") or () if c.get("type") == "Ready"), {})
    return {
        "name": _name(body),
        "ready": found.get("status"),
        "reason": found.get("reason"),
        "message": found.get("message"),
    }


def _gpus(body: Json) -> dict[str, Any]:
    counts = _of(body, "gpus") or {}
    return {
        "gpus": counts.get("total"),
        "leased": counts.get("leased"),
        "free": counts.get("free"),
        "sick": counts.get("quarantined"),
    }


def _of(body: Json, key: str) -> Any:
    return (body.get("status") or {}).get(key)


def _lease(body: Json) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (body.get("spec") or {}).get("leaseID") or {}
    return found


def _name(body: Json) -> str:
    meta = body["metadata"]
    return f"{meta.get('namespace', '')}/{meta['name']}"


def _sorted(bodies: Iterable[Json]) -> list[Json]:
    return sorted(bodies, key=_name)


def _usd(uact: int | None) -> str | None:
    return None if uact is None else uact_to_usd(uact)
