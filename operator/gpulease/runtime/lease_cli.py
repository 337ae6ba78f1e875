"""The verbs ``gpulease lease logs|shell|status|events``: talk to the provider that runs a lease.

A lease is named by its GPULease object, whose cluster holds the wallet too; with a key file and a node of the chain,
by its deployment's number. What goes wrong is a sentence and an exit code, never an empty answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from gpulease.chain.client import ChainClient, Endpoint
from gpulease.chain.keys import Key
from gpulease.errors import ConfigError, GatewayRefused, GpuleaseError
from gpulease.gateway import tenant
from gpulease.gateway.client import Caller, lease_path
from gpulease.ids import LeaseId
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Ref
from gpulease.runtime.specs import parse_chain, parse_wallet
from gpulease.runtime.terminal import Terminal
from gpulease.runtime.wallets import read_key

app = typer.Typer(help="Logs, events, status and a shell of a lease that you rent.", no_args_is_help=True)
_API = "gpulease.dev/v1alpha1"
_TIMEOUT_S = 20.0

_Target = Annotated[str, typer.Argument(help="The GPULease's name; with --key-file the deployment's number.")]
_Namespace = Annotated[str, typer.Option("--namespace", "-n", help="The GPULease's namespace.")]
_Services = Annotated[list[str] | None, typer.Option("--service", "-s", help="Only this service. Repeatable.")]


@dataclass(frozen=True, slots=True)
class _Access:
    """Either a cluster that knows lease and wallet, or a key and a node of the chain."""

    kubeconfig: str | None
    key_file: Path | None
    chain: tuple[str, str, str]
    provider: str


@dataclass(frozen=True, slots=True)
class _Reached:
    """A lease and how to call its provider."""

    lease: LeaseId
    caller: Caller


@app.callback()
def access(
    context: typer.Context,
    kubeconfig: Annotated[str | None, typer.Option(help="Default: $KUBECONFIG, then ~/.kube/config.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="The account's key, hexadecimal or mnemonic: use no cluster, only the chain.")
    ] = None,
    rpc: Annotated[str, typer.Option(help="With --key-file: the chain's RPC URL.")] = "",
    grpc: Annotated[str, typer.Option(help="With --key-file: the chain's gRPC HOST:PORT.")] = "",
    chain_id: Annotated[str, typer.Option(help="With --key-file: the chain's id.")] = "",
    provider: Annotated[str, typer.Option(help="The provider, where several lease the same deployment.")] = "",
) -> None:
    """Talk to the provider that runs a lease."""
    if key_file and not (rpc and grpc and chain_id):
        raise typer.BadParameter("--key-file needs --rpc, --grpc and --chain-id")
    context.obj = _Access(kubeconfig, key_file, (rpc, grpc, chain_id), provider)


@app.command()
def status(
    context: typer.Context,
    target: _Target,
    namespace: _Namespace = "default",
) -> None:
    """Print the provider's status of the lease as JSON."""

    async def work(reached: _Reached) -> int:
        raw = await reached.caller.call("GET", f"{lease_path(reached.lease)}/status", scope="status")
        try:
            typer.echo(json.dumps(json.loads(raw), indent=2))
        except ValueError:
            raise ConfigError("the provider answered something that is not JSON") from None
        return 0

    _do(context.obj, target, namespace, work)


@app.command()
def logs(
    context: typer.Context,
    target: _Target,
    namespace: _Namespace = "default",
    service: _Services = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="At most this many old lines of each pod.")] = None,
) -> None:
    """Print the log lines of the lease's pods, each after its pod's name."""

    async def work(reached: _Reached) -> int:
        lines = tenant.logs(reached.caller, reached.lease, follow=follow, tail_lines=tail, services=service or ())
        async for line in lines:
            typer.echo(f"[{line.pod}] {line.message}")
        return 0

    _do(context.obj, target, namespace, work)


@app.command()
def events(
    context: typer.Context,
    target: _Target,
    namespace: _Namespace = "default",
    service: _Services = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new events.")] = False,
) -> None:
    """Print what Kubernetes says about the lease's objects."""

    async def work(reached: _Reached) -> int:
        async for event in tenant.events(reached.caller, reached.lease, follow=follow, services=service or ()):
            about = event.get("object") or {}
            subject = f"{about.get('kind', '')}/{about.get('name', '')}"
            typer.echo(f"{event.get('type', '')} {event.get('reason', '')} {subject}: {event.get('note', '')}")
        return 0

    _do(context.obj, target, namespace, work)


@app.command()
def shell(
    context: typer.Context,
    target: _Target,
    command: Annotated[list[str], typer.Argument(help="The command and its arguments, after --.")],
    service: Annotated[str, typer.Option("--service", "-s", help="The service to run it in.")],
    namespace: _Namespace = "default",
    pod_index: Annotated[int, typer.Option(min=0, help="Which pod of the service, by name.")] = 0,
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Pass standard input on.")] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Give the command a terminal; implies --stdin.")] = False,
) -> None:
    """Run a command in a container of the lease; exits with the command's exit code."""

    async def work(reached: _Reached) -> int:
        opening = tenant.shell(
            reached.caller,
            reached.lease,
            service=service,
            command=command,
            tty=tty,
            stdin=stdin,
            pod_index=pod_index,
        )
        async with opening as session:
            with Terminal(session, stdin=stdin or tty, tty=tty) as terminal:
                async for stream, data in session.output():
                    terminal.show(stream == tenant.STDERR, data)
        return session.exit_code or 0

    _do(context.obj, target, namespace, work)


def _do(access: _Access, target: str, namespace: str, work: Callable[[_Reached], Awaitable[int]]) -> None:
    async def all_of_it() -> int:
        async with _reach(access, target, namespace) as reached:
            return await work(reached)

    try:
        code = asyncio.run(all_of_it())
    except KeyboardInterrupt:
        code = 130
    except GatewayRefused as error:
        typer.echo(str(error), err=True)
        code = 4
    except GpuleaseError as error:
        typer.echo(str(error), err=True)
        code = 1
    sys.stdout.flush()
    raise typer.Exit(code)


@asynccontextmanager
async def _reach(access: _Access, target: str, namespace: str) -> AsyncIterator[_Reached]:
    if access.key_file is not None:
        key, endpoints, chain_id, dseq = _from_file(access, access.key_file, target)
    else:
        key, endpoints, chain_id, dseq = await _from_object(access, target, namespace)
    async with ChainClient(endpoints, chain_id) as chain:
        lease = await _lease(chain, key.address, dseq, access.provider)
        record = await chain.provider(lease.provider)
        if record is None:
            raise ConfigError(f"provider {lease.provider} has no record on chain, so its gateway is unknown")

        async def certificates(owner: str) -> Any:
            return await chain.certificates(owner, state="valid")

        caller = Caller(record.host_uri, lease.provider, key, certificates, now_s=time.time(), timeout_s=_TIMEOUT_S)
        yield _Reached(lease, caller)


def _from_file(access: _Access, path: Path, target: str) -> tuple[Key, list[Endpoint], str, int]:
    if not (target.isascii() and target.isdecimal() and 0 < int(target) < 2**64):
        raise ConfigError(f"{target!r} is no deployment number; with --key-file the lease is named by its number")
    try:
        key = Key.from_secret_text(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the key file cannot be read: {error}") from None
    rpc, grpc, chain_id = access.chain
    return key, [Endpoint(rpc, grpc)], chain_id, int(target)


async def _from_object(access: _Access, name: str, namespace: str) -> tuple[Key, list[Endpoint], str, int]:
    ref = Ref(_API, "GPULease", name, namespace)
    async with Cluster.connect(access.kubeconfig) as cluster:
        body = await cluster.get(ref)
        if body is None:
            raise ConfigError(f"{ref} does not exist; kubectl get gpuleases -A lists what does")
        dseq = str((body.get("status") or {}).get("dseq", ""))
        if not dseq.isdecimal():
            raise ConfigError(f"{ref} has no deployment on chain yet; kubectl describe it to see why")
        chain = parse_chain(body["spec"]["chain"])
        key = await read_key(cluster, namespace, parse_wallet(body["spec"]["wallet"]))
    if not isinstance(key, Key):
        raise ConfigError(key[1])
    return key, [Endpoint(rpc, grpc) for rpc, grpc in chain.endpoints], chain.chain_id, int(dseq)


async def _lease(chain: ChainClient, owner: str, dseq: int, provider: str) -> LeaseId:
    found = [entry.id for entry in await chain.leases(owner=owner, dseq=dseq, provider=provider, state="active")]
    if not found:
        raise ConfigError(f"{owner} has no active lease on deployment {dseq}; it may be closed or not won yet")
    if len({lease.provider for lease in found}) > 1:
        named = ", ".join(sorted({lease.provider for lease in found}))
        raise ConfigError(f"deployment {dseq} has leases with several providers; choose one with --provider: {named}")
    return found[0]
