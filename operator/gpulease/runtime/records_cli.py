"""The verb ``gpulease records export``: a lease's usage records as a file for its tenant.

It only reads the operator's store, which may be in use.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gpulease.errors import BadInput, GpuleaseError
from gpulease.ids import LeaseId
from gpulease.runtime import usage_file
from gpulease.store.journal import Journal

app = typer.Typer(help="Hand a lease's usage records to its tenant.", no_args_is_help=True)


@app.callback()
def records() -> None:
    """Usage records."""


@app.command()
def export(
    state_dir: Annotated[Path, typer.Option(help="The operator's state directory.", envvar="GPULEASE_STATE_DIR")],
    lease: Annotated[str, typer.Option(help="OWNER/DSEQ/GSEQ/OSEQ/PROVIDER.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write; - for standard output.")],
) -> None:
    """Write the signed records of one lease, with the nodes' public keys, for gpulease verify."""
    try:
        count = _export(state_dir, parse_lease(lease), out)
    except (GpuleaseError, OSError) as error:
        typer.echo(f"gpulease records export: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{count} records of lease {lease} in {out}", err=True)


def parse_lease(text: str) -> LeaseId:
    """``BadInput`` for what is no lease id."""
    try:
        return LeaseId.parse(text)
    except ValueError as error:
        raise BadInput(f"--lease: {error}") from error


def _export(state_dir: Path, lease: LeaseId, out: Path) -> int:
    journal = Journal(store_file(state_dir), read_only=True)
    try:
        if str(out) == "-":
            return usage_file.export(journal, lease, sys.stdout)
        part = out.with_name(out.name + ".part")
        with part.open("w", encoding="utf-8") as stream:
            count = usage_file.export(journal, lease, stream)
        part.replace(out)
        return count
    finally:
        journal.close()


def store_file(state_dir: Path) -> Path:
    """The one store in a state directory; ``BadInput`` when there is none or more than one."""
    found = sorted(state_dir.glob("*.db")) if state_dir.is_dir() else []
    if len(found) != 1:
        words = "no store (*.db)" if not found else f"{len(found)} stores ({', '.join(p.name for p in found)})"
        raise BadInput(f"--state-dir {state_dir} holds {words}; name the directory of one operator")
    return found[0]
