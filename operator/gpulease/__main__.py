"""The command line: ``gpulease`` or ``python -m gpulease``.

Each verb imports its room when it runs, so that the agent does not load the operator and ``--help`` is quick.
"""

from __future__ import annotations

import typer

app = typer.Typer(
    name="gpulease",
    no_args_is_help=True,
    add_completion=False,
    help="Sell and buy GPU leases on a Cosmos market from Kubernetes.",
)


@app.command()
def version() -> None:
    """Print the version."""
    from gpulease import __version__

    typer.echo(__version__)


@app.command()
def operator() -> None:
    """Run the operator (settings: GPULEASE_* environment variables)."""
    from gpulease.runtime.app import main as run_operator

    raise typer.Exit(run_operator())


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
