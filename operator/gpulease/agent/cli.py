"""The verb ``gpulease agent``: run the node agent."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer
from aiohttp import web

from gpulease.agent.clock import SystemClock
from gpulease.agent.dcgm import DcgmExporter
from gpulease.agent.loop import Agent, AgentPolicy, close_all
from gpulease.agent.nvml import Nvml
from gpulease.agent.podresources import PodResources
from gpulease.agent.serve import build_app
from gpulease.agent.store import RecordStore
from gpulease.errors import ConfigError, GpuleaseError
from gpulease.memory import give_back

app = typer.Typer(help="The node agent: who holds which GPU, for how long.", invoke_without_command=True)
_TRIM_AFTER_S = 5.0
KUBELET_SOCKET = Path("/var/lib/kubelet/pod-resources/kubelet.sock")


@app.callback()
def serve(
    node: Annotated[str, typer.Option(help="This node's name in Kubernetes.", envvar="NODE_NAME")],
    listen: Annotated[str, typer.Option(help="HOST:PORT to answer on.")] = "127.0.0.1:9412",
    data: Annotated[Path, typer.Option(help="Where records and the node's key are kept.")] = Path(
        "/var/lib/gpulease-agent"
    ),
    podresources: Annotated[Path, typer.Option(help="The kubelet's PodResources socket.")] = KUBELET_SOCKET,
    dcgm_url: Annotated[str, typer.Option(help="The node's dcgm-exporter; empty for none.")] = "",
    token_file: Annotated[Path | None, typer.Option(help="File with the token the operator must show.")] = None,
    sample_s: Annotated[float, typer.Option(min=0.05, max=60, help="Seconds between looks.")] = 1.0,
    record_s: Annotated[float, typer.Option(min=0.05, max=3600, help="Seconds between records.")] = 10.0,
    dcgm_s: Annotated[float, typer.Option(min=0.5, max=300, help="Seconds between scrapes.")] = 5.0,
) -> None:
    """Watch this node's GPUs and keep signed usage records until SIGTERM."""
    policy = AgentPolicy(node=node, sample_s=sample_s, record_s=record_s, dcgm_s=dcgm_s)
    try:
        host, port = parse_listen(listen)
        token = read_token(token_file)
        asyncio.run(_run(policy, host, port, data, podresources, dcgm_url, token))
    except GpuleaseError as error:
        typer.echo(f"gpulease agent: {error}", err=True)
        raise typer.Exit(1) from None


def parse_listen(text: str) -> tuple[str, int]:
    """``ConfigError`` for what is not HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--listen {text!r} is not HOST:PORT, such as 127.0.0.1:9412")
    return host.strip("[]"), int(port)


def read_token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"--token-file {path} cannot be read: {error}") from error
    if not token:
        raise ConfigError(f"--token-file {path} is empty; write the operator's token into it")
    return token


async def _run(
    policy: AgentPolicy, host: str, port: int, data: Path, socket: Path, dcgm_url: str, token: str | None
) -> None:
    clock, store, nvml, kubelet = SystemClock(), RecordStore(data), Nvml(), PodResources(socket)
    dcgm = DcgmExporter(dcgm_url) if dcgm_url else None
    agent = Agent(policy, clock=clock, store=store, nvml=nvml, kubelet=kubelet, dcgm=dcgm)
    runner = web.AppRunner(build_app(agent, store, clock, token=token), access_log=None)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await runner.setup()
    looking: asyncio.Task[None] | None = None
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --listen") from error
        typer.echo(f"agent of node {policy.node} on http://{host}:{port}")
        looking = asyncio.create_task(agent.run())
        loop.call_later(_TRIM_AFTER_S, give_back)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({looking, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if looking.done():
            looking.result()
    finally:
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        await runner.cleanup()
        await close_all(*(part for part in (nvml, kubelet, dcgm, store) if part is not None))
