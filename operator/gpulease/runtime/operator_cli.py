"""The verb ``gpulease operator``: both roles, until SIGTERM."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer
from pydantic import ValidationError

from gpulease.errors import GpuleaseError
from gpulease.kube.client import Cluster
from gpulease.memory import few_arenas, give_back
from gpulease.runtime.app import Operator
from gpulease.runtime.clock import SystemClock
from gpulease.runtime.logs import configure
from gpulease.settings import OperatorSettings
from gpulease.store.journal import Journal

app = typer.Typer(help="Sell and buy leases: the operator.", invoke_without_command=True)
_STORE = "operator.db"
_TRIM_AFTER_S = 10.0


@app.callback()
def serve(
    kubeconfig: Annotated[str | None, typer.Option(help="Default: $KUBECONFIG, then the pod's account.")] = None,
) -> None:
    """Run both roles (GPULEASE_ROLES) until SIGTERM. Settings: environment variables GPULEASE_*."""
    try:
        settings = OperatorSettings()
        configure(level=settings.log_level, form=settings.log_format)
        few_arenas()
        asyncio.run(_run(settings, kubeconfig))
    except ValidationError as error:
        for entry in error.errors():
            name = "_".join(str(part) for part in entry["loc"]).upper()
            typer.echo(f"gpulease operator: GPULEASE_{name}: {entry['msg']}", err=True)
        raise typer.Exit(2) from None
    except GpuleaseError as error:
        typer.echo(f"gpulease operator: {error}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        typer.echo(f"gpulease operator: {error}; choose another GPULEASE_METRICS_LISTEN", err=True)
        raise typer.Exit(1) from None


async def _run(settings: OperatorSettings, kubeconfig: str | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    journal = Journal(settings.state_dir / _STORE)
    try:
        async with Cluster.connect(kubeconfig) as cluster:
            operator = Operator(settings, cluster, journal, SystemClock(), kubeconfig=kubeconfig)
            work = asyncio.create_task(operator.run(), name="operator")
            asyncio.get_running_loop().call_later(_TRIM_AFTER_S, give_back)
            stopping = asyncio.create_task(stop.wait(), name="stop")
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for task in (work, stopping):
                task.cancel()
            results = await asyncio.gather(work, return_exceptions=True)
            if results[0] is not None and not isinstance(results[0], asyncio.CancelledError):
                raise results[0]
    finally:
        journal.close()
