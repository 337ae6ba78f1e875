"""The command line: ``gpulease`` or ``python -m gpulease``.

Each verb imports its room when it runs, so that the agent does not load the operator and ``--help`` is quick.
"""

from __future__ import annotations

import importlib
import sys

import typer

_GROUPS = {
    "agent": ("gpulease.agent.cli", "The node agent: who holds which GPU, for how long."),
    "devnet": ("gpulease.devnet.cli", "The embedded chain, for trials and tests."),
    "operator": ("gpulease.runtime.operator_cli", "Sell and buy leases: the operator."),
    "plan": ("gpulease.runtime.plan_cli", "What the operator would do in an observed state."),
    "records": ("gpulease.runtime.records_cli", "Hand a lease's usage records to its tenant."),
    "verify": ("gpulease.runtime.verify_cli", "Hold usage records against the chain."),
    "sdl": ("gpulease.runtime.sdl_cli", "Check and convert SDL files, the market's language for deployments."),
    "gateway": ("gpulease.runtime.gateway_cli", "The provider's HTTPS face."),
    "lease": ("gpulease.runtime.lease_cli", "Logs, events, status and a shell of a lease that you rent."),
}

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


def main() -> None:
    """Entry point of the console script."""
    _add_groups(sys.argv[1:])
    app()


def _add_groups(arguments: list[str]) -> None:
    """Register verb groups: only the room that is asked for is imported."""
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    for name, (module, words) in _GROUPS.items():
        if wanted == name:
            app.add_typer(importlib.import_module(module).app, name=name, help=words)
        else:
            app.add_typer(typer.Typer(), name=name, help=words)


if __name__ == "__main__":
    main()
