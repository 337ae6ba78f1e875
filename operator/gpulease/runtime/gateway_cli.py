"""The verb ``gpulease gateway``: serve the HTTPS face of one GPUProvider.

Its own process, so that a burst of tenants cannot slow down bidding. It reads the chain and the provider's object and
writes nothing but the Secrets that hold manifests.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import Annotated
from urllib.parse import urlsplit

import structlog
import typer

from gpulease.chain.client import ChainClient, Endpoint
from gpulease.errors import ConfigError, KubeError, Unreachable
from gpulease.gateway.app import Gateway, Identity
from gpulease.gateway.serve import GatewayServer, certificate_secret
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Ref
from gpulease.runtime.specs import ProviderSpec, parse_provider

log = structlog.get_logger(__name__)
app = typer.Typer(help="The provider's HTTPS face.", invoke_without_command=True)
_API = "gpulease.dev/v1alpha1"
_RETRY_S = 2.0


@app.callback()
def serve(
    provider_object: Annotated[str, typer.Option(help="The GPUProvider to serve, by name.")],
    kubeconfig: Annotated[str | None, typer.Option(help="Default: $KUBECONFIG, then the pod's account.")] = None,
    namespace: Annotated[str, typer.Option(help="The operator's namespace.")] = "gpulease-system",
    listen: Annotated[str, typer.Option(help="HOST:PORT for tenants.")] = "0.0.0.0:8443",
    metrics_host: str = "127.0.0.1",
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="/healthz and /metrics.")] = 9412,
) -> None:
    """Take in manifests and report on leases over TLS, with the provider's certificate from the chain."""
    host, port = _address(listen)
    try:
        asyncio.run(
            _run(
                provider_object,
                kubeconfig=kubeconfig,
                namespace=namespace,
                listen=(host, port),
                metrics=(metrics_host, metrics_port),
            )
        )
    except OSError as error:
        typer.echo(f"the gateway cannot listen: {error}; choose other ports with --listen and --metrics-port", err=True)
        raise typer.Exit(1) from None


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise typer.BadParameter(f"--listen {text!r} must be HOST:PORT, for example 0.0.0.0:8443")
    return host.strip("[]") or "0.0.0.0", int(port)


async def _run(
    name: str, *, kubeconfig: str | None, namespace: str, listen: tuple[str, int], metrics: tuple[str, int]
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Cluster.connect(kubeconfig) as cluster:
        work = asyncio.create_task(_serve(cluster, name, namespace, listen, metrics))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, stopping):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work


async def _serve(
    cluster: Cluster, name: str, namespace: str, listen: tuple[str, int], metrics: tuple[str, int]
) -> None:
    spec, address = await _provider(cluster, Ref(_API, "GPUProvider", name, namespace))
    endpoints = [Endpoint(rpc, grpc) for rpc, grpc in spec.chain.endpoints]
    async with ChainClient(endpoints, spec.chain.chain_id) as chain:
        host = spec.gateway_domain or urlsplit(spec.host_uri).hostname or ""
        gateway = Gateway(Identity(address, namespace, host), chain=chain, cluster=cluster, now_s=time.time)
        server = GatewayServer(
            gateway,
            chain,
            cluster,
            Ref("v1", "Secret", certificate_secret(name), namespace),
            host=listen[0],
            port=listen[1],
            metrics_host=metrics[0],
            metrics_port=metrics[1],
        )
        try:
            await server.start()
            await asyncio.Event().wait()
        finally:
            await server.stop()


async def _provider(cluster: Cluster, ref: Ref) -> tuple[ProviderSpec, str]:
    """Waits for the object and for the address that the operator writes into its status."""
    told = ""
    while True:
        words = f"{ref} does not exist yet; apply it"
        try:
            body = await cluster.get(ref)
            if body is not None:
                address = str((body.get("status") or {}).get("address", ""))
                if address:
                    return parse_provider(body), address
                words = f"{ref} has no status.address yet; the operator writes it"
        except (Unreachable, KubeError, ConfigError) as error:
            words = str(error)
        if words != told:
            log.warning("waiting_for_provider", why=words)
            told = words
        await asyncio.sleep(_RETRY_S)
