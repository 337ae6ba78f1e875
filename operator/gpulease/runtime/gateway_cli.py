"""The verb ``gpulease gateway``: serve the HTTPS and gRPC faces of one GPUProvider.

Its own process, so that a burst of tenants cannot slow down bidding. It reads the chain and the provider's object and
writes nothing but the Secrets that hold manifests.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from dataclasses import dataclass
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
from gpulease.runtime.screening import Screening
from gpulease.runtime.specs import ProviderSpec, parse_provider

log = structlog.get_logger(__name__)
app = typer.Typer(help="The provider's HTTPS face.", invoke_without_command=True)
_API = "gpulease.dev/v1alpha1"
_RETRY_S = 2.0
_REST_PORT, _GRPC_PORT = 8443, 8444


@app.callback()
def serve(
    provider_object: Annotated[str, typer.Option(help="The GPUProvider to serve, by name.")],
    kubeconfig: Annotated[str | None, typer.Option(help="Default: $KUBECONFIG, then the pod's account.")] = None,
    namespace: Annotated[str, typer.Option(help="The operator's namespace.")] = "gpulease-system",
    listen: Annotated[str, typer.Option(help="HOST:PORT for tenants.")] = "0.0.0.0:8443",
    grpc_listen: Annotated[
        str, typer.Option(help="HOST:PORT for gRPC, or none. Default: 8444 beside --listen's 8443, else none.")
    ] = "",
    blocked_host: Annotated[
        list[str] | None, typer.Option(help="A host name no tenant may have; .DOMAIN for all under it. Repeatable.")
    ] = None,
    public_certificate_secret: Annotated[
        str, typer.Option(help="Secret with a public authority's tls.crt and tls.key for the gateway's own name.")
    ] = "",
    metrics_host: str = "127.0.0.1",
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="/healthz and /metrics.")] = 9412,
) -> None:
    """Take in manifests and report on leases over TLS, with the provider's certificate from the chain."""
    rest = _address(listen, "--listen")
    grpc = (rest[0], _GRPC_PORT) if not grpc_listen and rest[1] == _REST_PORT else None
    if grpc_listen not in ("", "none"):
        grpc = _address(grpc_listen, "--grpc-listen")
    ports = _Ports(rest, grpc, (metrics_host, metrics_port))
    what = _What(provider_object, namespace, tuple(h.lower() for h in blocked_host or ()), public_certificate_secret)
    try:
        asyncio.run(_run(what, ports, kubeconfig))
    except OSError as error:
        typer.echo(
            f"the gateway cannot listen: {error}; choose other ports with --listen, --grpc-listen and --metrics-port",
            err=True,
        )
        raise typer.Exit(1) from None


@dataclass(frozen=True, slots=True)
class _Ports:
    rest: tuple[str, int]
    grpc: tuple[str, int] | None
    metrics: tuple[str, int]


@dataclass(frozen=True, slots=True)
class _What:
    provider_object: str
    namespace: str
    blocked_hosts: tuple[str, ...]
    public_secret: str


def _address(text: str, option: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise typer.BadParameter(f"{option} {text!r} must be HOST:PORT, for example 0.0.0.0:8443")
    return host.strip("[]") or "0.0.0.0", int(port)


async def _run(what: _What, ports: _Ports, kubeconfig: str | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Cluster.connect(kubeconfig) as cluster:
        work = asyncio.create_task(_serve(cluster, what, ports))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, stopping):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work


async def _serve(cluster: Cluster, what: _What, ports: _Ports) -> None:
    name, namespace = what.provider_object, what.namespace
    spec, address = await _provider(cluster, Ref(_API, "GPUProvider", name, namespace))
    endpoints = [Endpoint(rpc, grpc) for rpc, grpc in spec.chain.endpoints]
    async with ChainClient(endpoints, spec.chain.chain_id) as chain:
        host = spec.gateway_domain or urlsplit(spec.host_uri).hostname or ""
        identity = Identity(address, namespace, host, what.blocked_hosts)
        gateway = Gateway(identity, chain=chain, cluster=cluster, now_s=time.time)
        server = GatewayServer(
            gateway,
            chain,
            cluster,
            Ref("v1", "Secret", certificate_secret(name), namespace),
            host=ports.rest[0],
            port=ports.rest[1],
            grpc=ports.grpc,
            public_host=urlsplit(spec.host_uri).hostname or "",
            metrics_host=ports.metrics[0],
            metrics_port=ports.metrics[1],
            screen=Screening(cluster, chain, spec, address),
            public_secret=Ref("v1", "Secret", what.public_secret, namespace) if what.public_secret else None,
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
