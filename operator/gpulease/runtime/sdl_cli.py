"""The verbs ``gpulease sdl …``: what an SDL file asks for, what is wrong with it, and its way to a GPULease and back.

JSON and YAML go to standard output, faults as ``FILE:LINE: reason`` to standard error with exit code 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from gpulease.errors import ConfigError, SdlError
from gpulease.market.pricing import ceiling_per_block
from gpulease.runtime.specs import usd_field
from gpulease.units import NS_PER_S, SECONDS_PER_HOUR, UACT, Dec, uact_to_usd
from gpulease.workload import sdl
from gpulease.workload.compile import compile_sdl, compile_services
from gpulease.workload.manifest import to_json
from gpulease.workload.sdl import convert as conversion
from gpulease.workload.sdl import tree

app = typer.Typer(help="Check and convert SDL files.", no_args_is_help=True)
_API = "gpulease.dev/v1alpha1"
_FILE = Annotated[str, typer.Argument(metavar="FILE", help="An SDL file; - reads standard input.")]
_LENIENT = Annotated[
    bool, typer.Option("--lenient", help="Leave the schema out, as the market's command line client does.")
]
_FAULT = 2


@app.command()
def groups(file: _FILE, lenient: _LENIENT = False) -> None:
    """Print the deployment groups for the chain as JSON."""
    _print(_compiled(file, lenient=lenient).groups_json())


@app.command()
def manifest(file: _FILE, lenient: _LENIENT = False) -> None:
    """Print the manifest for the provider as JSON."""
    _print(json.loads(to_json(_compiled(file, lenient=lenient).manifest)))


@app.command()
def version(file: _FILE, lenient: _LENIENT = False) -> None:
    """Print the deployment's version: the SHA-256 of the manifest, in hex."""
    typer.echo(_compiled(file, lenient=lenient).version.hex())


@app.command()
def check(file: _FILE, lenient: _LENIENT = False) -> None:
    """Say whether the file is a good SDL; exit with 2 and FILE:LINE: reason where it is not."""
    compiled = _compiled(file, lenient=lenient)
    services = _counted(sum(len(group.services) for group in compiled.manifest), "service")
    gpus = _counted(sum(group.gpu_count for group in compiled.groups), "GPU")
    names = ", ".join(group.name for group in compiled.groups)
    typer.echo(f"{file} is a good SDL: {services} with {gpus} at {names}, version {compiled.version.hex()}")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@app.command()
def convert(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A GPULease or an SDL; - reads standard input.")],
    block_seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Block time that prices are reckoned by.")] = 6,
    name: Annotated[str, typer.Option(help="The GPULease's name.")] = "lease",
    namespace: Annotated[str, typer.Option(help="The GPULease's namespace.")] = "default",
    wallet_secret: Annotated[str, typer.Option(help="The Secret that holds the key that pays.")] = "wallet",
    chain_id: Annotated[str, typer.Option(help="The chain's id.")] = "gpulease-devnet",
    rpc: Annotated[str, typer.Option(help="URL of a node's RPC.")] = "http://127.0.0.1:26657",
    grpc: Annotated[str, typer.Option(help="HOST:PORT of a node's gRPC.")] = "127.0.0.1:9090",
    max_usd_per_hour: Annotated[str | None, typer.Option(help="Default: what the SDL's prices come to.")] = None,
    budget_usd: Annotated[str, typer.Option(help="The most that may ever be spent.")] = "5",
) -> None:
    """Turn a GPULease into an SDL, or an SDL into a GPULease; the options fill in what an SDL does not say."""
    text = _read(file)
    block_time_ns = int(block_seconds * NS_PER_S)
    try:
        root = tree.parse(text)
        lease = tree.plain(root) if root is not None else None
        if isinstance(lease, Mapping) and lease.get("kind") == "GPULease":
            typer.echo(_to_sdl(lease, block_time_ns), nl=False)
            return
        compiled = sdl.compile_text(text)
        limit = max_usd_per_hour or _usd_per_hour(compiled, block_time_ns)
        spec = {
            "chain": {"chainID": chain_id, "endpoints": [{"rpc": rpc, "grpc": grpc}]},
            "wallet": {"secretName": wallet_secret},
            **_spec(text, compiled),
            "maxUsdPerHour": limit,
            "budgetUsd": budget_usd,
        }
    except SdlError as error:
        _fault(f"{file}:{error.line}: {error.reason}")
    except ConfigError as error:
        _fault(f"{file}: {error}")
    meta = {"name": name, "namespace": namespace}
    document = {"apiVersion": _API, "kind": "GPULease", "metadata": meta, "spec": spec}
    typer.echo(conversion.dump(document), nl=False)


def _spec(text: str, compiled: sdl.Compiled) -> dict[str, Any]:
    reclaims = compiled.reclamation_min_window_ns is not None
    spec = conversion.to_spec(compiled.groups, compiled.manifest, reclaims=reclaims, text=text)
    if "sdl" in spec:
        compile_sdl(text)
        if len(text) > conversion.MAX_SDL_CHARS:
            raise ConfigError(f"the SDL has more than {conversion.MAX_SDL_CHARS} characters; a GPULease takes no more")
    return spec


def _to_sdl(lease: Mapping[str, Any], block_time_ns: int) -> str:
    spec = lease.get("spec")
    if not isinstance(spec, Mapping):
        raise ConfigError("spec is missing; a GPULease says in it what to run")
    if isinstance(spec.get("sdl"), str):
        sdl.compile_text(spec["sdl"])
        return str(spec["sdl"])
    try:
        ceiling = ceiling_per_block(usd_field(spec, "maxUsdPerHour"), block_time_ns)
        group, services = compile_services(spec["services"], placement=spec.get("placement") or {}, ceiling=ceiling)
    except KeyError as error:
        raise ConfigError(f"spec lacks {error}; write it as the GPULease's schema wants") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"spec.services is not as the GPULease's schema wants it: {error}") from error
    text = conversion.to_sdl(group, services)
    try:
        sdl.compile_text(text)
    except SdlError as error:
        raise ConfigError(f"no provider would take this GPULease: {error.reason}") from error
    return text


def _usd_per_hour(compiled: sdl.Compiled, block_time_ns: int) -> str:
    """The orders' prices together, rounded up to 6 places."""
    prices = [group.max_price for group in compiled.groups]
    if prices[0].denom != UACT:
        raise ConfigError(f"the prices are in {prices[0].denom}, not in {UACT}; name a limit with --max-usd-per-hour")
    total = sum((price.amount for price in prices), Dec())
    micro = Decimal(total.raw) / 10**18 * SECONDS_PER_HOUR * NS_PER_S / block_time_ns
    return uact_to_usd(int(micro.to_integral_value(ROUND_CEILING))).rstrip("0").rstrip(".")


def _compiled(file: str, *, lenient: bool) -> sdl.Compiled:
    try:
        return sdl.compile_text(_read(file), lenient=lenient)
    except SdlError as error:
        _fault(f"{file}:{error.line}: {error.reason}")


def _read(file: str) -> str:
    """At most a little more than an SDL may have; the rest would be refused anyway."""
    try:
        if file == "-":
            raw = sys.stdin.buffer.read(tree.MAX_BYTES + 1)
        else:
            with Path(file).open("rb") as handle:
                raw = handle.read(tree.MAX_BYTES + 1)
    except OSError as error:
        _fault(f"{file}: cannot be read: {error.strerror}; name a file or - for standard input")
    if len(raw) > tree.MAX_BYTES:
        _fault(f"{file}:1: the file has more than {tree.MAX_BYTES} bytes; make it smaller")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        _fault(f"{file}:{line}: this is not UTF-8; save the file as UTF-8")


def _fault(words: str) -> NoReturn:
    typer.echo(words, err=True)
    raise typer.Exit(_FAULT)


def _print(body: Any) -> None:
    typer.echo(json.dumps(body, indent=2, ensure_ascii=False))
