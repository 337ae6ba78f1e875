"""The verb ``gpulease verify``: a tenant holds usage records against the chain, without the provider's help.

Exit codes: 0 all that could be checked holds, 1 something does not, 2 bad input, 3 the chain did not answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import aiohttp
import typer

from gpulease.chain.rpc import RpcEndpoint
from gpulease.chain.withdrawals import lease_by_rpc, time_ms_at, withdrawals
from gpulease.errors import BadInput, ChainError, GpuleaseError, Unreachable
from gpulease.ids import LeaseId
from gpulease.market.model import Lease, LeaseState
from gpulease.meter.audit import Findings, RecordAudit
from gpulease.meter.verify import LeaseFacts, Report, Verdict, Withdrawal, verify
from gpulease.runtime import usage_file
from gpulease.runtime.records_cli import parse_lease
from gpulease.workload.names import lease_namespace

app = typer.Typer(help="Hold usage records against the chain.", invoke_without_command=True)
BROKEN, BAD_INPUT, NO_CHAIN = 1, 2, 3
_MARKS = {Verdict.HOLDS: "holds ", Verdict.OPEN: "open  ", Verdict.BROKEN: "BROKEN"}


class Output(Enum):
    TEXT = "text"
    JSON = "json"


@app.callback()
def main(
    lease: Annotated[str, typer.Option(help="OWNER/DSEQ/GSEQ/OSEQ/PROVIDER.")],
    records: Annotated[Path, typer.Option(help="What gpulease records export wrote.")],
    chain: Annotated[str, typer.Option(help="RPC URL of a node of the chain that you trust.")],
    node_key: Annotated[list[str] | None, typer.Option(help="NODE=HEX: a node's key from a source you trust.")] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="text or json.")] = Output.TEXT,
    timeout_s: Annotated[float, typer.Option(min=0.1, max=120, help="Deadline of each question to the chain.")] = 10.0,
) -> None:
    """Check a lease's usage records, and say what to believe. Exit 0 holds, 1 broken, 2 bad input, 3 no chain."""
    try:
        report = _verify(parse_lease(lease), records, chain, node_key or (), timeout_s)
    except BadInput as error:
        typer.echo(f"gpulease verify: {error}", err=True)
        raise typer.Exit(BAD_INPUT) from None
    except (Unreachable, ChainError) as error:
        typer.echo(f"gpulease verify: {error}; name another node with --chain, or try again later", err=True)
        raise typer.Exit(NO_CHAIN) from None
    except GpuleaseError as error:
        typer.echo(f"gpulease verify: {error}", err=True)
        raise typer.Exit(BAD_INPUT) from None
    typer.echo(json.dumps(report.to_json(), indent=2) if output is Output.JSON else render(report))
    if not report.holds:
        raise typer.Exit(BROKEN)


def _verify(lease: LeaseId, path: Path, url: str, node_keys: Sequence[str], timeout_s: float) -> Report:
    if not url.startswith(("http://", "https://")):
        raise BadInput(f"--chain {url!r} is no RPC URL such as https://rpc.example.net:443")
    pinned = usage_file.pinned_keys(node_keys)
    findings, named = _audit(lease, path, pinned)
    facts, paid = asyncio.run(_ask(url, lease, timeout_s))
    return verify(str(lease), findings, facts=facts, withdrawals=paid, pinned=bool(named) and named <= pinned.keys())


def _audit(lease: LeaseId, path: Path, pinned: Mapping[str, Sequence[str]]) -> tuple[Findings, set[str]]:
    """What the records say, and of which nodes. A pinned key replaces those in the file."""
    head, bodies = usage_file.read(path)
    if head.lease != lease:
        raise BadInput(f"{path} holds the records of lease {head.lease}, not of {lease}")
    audit = RecordAudit(lease_namespace(lease), {**head.keys, **pinned})
    for body in bodies:
        audit.take(body)
    findings = audit.findings()
    return findings, {device.node for device in findings.devices}


async def _ask(url: str, lease: LeaseId, timeout_s: float) -> tuple[LeaseFacts | None, list[Withdrawal]]:
    async with aiohttp.ClientSession() as session:
        rpc = RpcEndpoint(url, session, timeout_s=timeout_s)
        found = await lease_by_rpc(rpc, lease)
        if found is None:
            return None, []
        status = await rpc.status()
        last = found.closed_on or status.height
        first = max(found.created_at, status.earliest_height, 1)
        paid = await withdrawals(rpc, lease, first=first, last=last) if first <= last else []
        created_ms = await time_ms_at(rpc, found.created_at)
        ended_ms = await time_ms_at(rpc, found.closed_on) if found.closed_on else status.time_ns // 1_000_000
        return _facts(found, created_ms, ended_ms, (first, last)), paid


def _facts(lease: Lease, created_ms: int | None, ended_ms: int | None, span: tuple[int, int]) -> LeaseFacts:
    return LeaseFacts(
        state=lease.state.value.replace("_", " "),
        price=str(lease.price),
        withdrawn=str(lease.payment.withdrawn) if lease.payment is not None else "nothing known",
        created_ms=created_ms,
        ended_ms=ended_ms,
        live=lease.state in (LeaseState.ACTIVE, LeaseState.RECLAIMING),
        height_range=span,
        searched_all=span[0] <= lease.created_at,
    )


def render(report: Report) -> str:
    """The report for a person."""
    lines = [f"Lease {report.lease}", f"{report.records} records, {report.gpu_ms / 1000:.1f} GPU-seconds", ""]
    for check in report.checks:
        lines.append(f"  {_MARKS[check.verdict]}  {check.name}: {check.words}")
        lines += [f"          {problem}" for problem in check.problems]
    if report.settlements:
        lines += ["", "Roots on chain"]
    for one in report.settlements:
        where = f"height {one.height}, records {one.first} to {one.last}, tx {one.tx[:16]}"
        lines.append(f"  {_MARKS[one.verdict]}  {where}: {one.words}")
    lines += ["", "You may believe", *(f"  - {words}" for words in report.believe or ("nothing of this.",))]
    lines += ["", "You may not believe on this alone", *(f"  - {words}" for words in report.do_not_believe)]
    lines += ["", "It holds." if report.holds else "It does NOT hold."]
    return "\n".join(lines)
