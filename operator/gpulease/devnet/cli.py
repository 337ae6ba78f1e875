"""The verbs ``gpulease devnet``, ``gpulease devnet replay`` and ``gpulease devnet faucet``."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated

import coincurve
import typer

from gpulease.devnet import addresses
from gpulease.devnet import replay as replays
from gpulease.devnet.faucet import FAUCET_LIMIT
from gpulease.devnet.serve import DevnetServer, open_chain
from gpulease.units import UACT, UAKT, Coin

app = typer.Typer(help="The embedded chain, for trials and tests.", invoke_without_command=True)
NAMES = ("provider", "provider-hot", "tenant", "faucet")
FUNDS = 1_000_000_000_000
_FAUCET_TIMEOUT_S = 10


@app.callback()
def serve(
    ctx: typer.Context,
    home: Annotated[Path, typer.Option(help="Where keys and blocks are kept.")] = Path(".devnet"),
    chain_id: str = "gpulease-devnet",
    block_time_ms: Annotated[int, typer.Option(min=10, max=600_000)] = 1000,
    host: str = "127.0.0.1",
    rpc_port: int = 26657,
    grpc_port: int = 9090,
    rest_port: int = 1317,
    account: Annotated[list[str] | None, typer.Option(help="NAME=HEXKEY: a further funded account.")] = None,
    faucet_limit: Annotated[int, typer.Option(min=0, help="Units of a coin per address.")] = FAUCET_LIMIT,
) -> None:
    """Serve a chain whose accounts (HOME/keys.json, test keys) are funded in its genesis."""
    if ctx.invoked_subcommand is not None:
        return
    home.mkdir(parents=True, exist_ok=True)
    keys = _keys(home, account or [])
    chain = open_chain(
        home,
        chain_id=chain_id,
        accounts={k["address"]: [Coin(UACT, FUNDS), Coin(UAKT, FUNDS)] for k in keys.values()},
    )
    server = DevnetServer(
        chain,
        host=host,
        rpc_port=rpc_port,
        grpc_port=grpc_port,
        rest_port=rest_port,
        block_time_ms=block_time_ms,
        home=home,
        faucet_limit=faucet_limit,
    )
    asyncio.run(_run(server, home / "keys.json"))


def _keys(home: Path, extra: list[str]) -> dict[str, dict[str, str]]:
    path = home / "keys.json"
    keys: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.exists() else {}
    for name in NAMES:
        if name not in keys:
            keys[name] = _entry(secrets.token_bytes(32))
    for text in extra:
        name, _, secret = text.partition("=")
        try:
            keys[name] = _entry(bytes.fromhex(secret))
        except ValueError:
            raise typer.BadParameter(f"--account {name}=… needs a private key of 64 hexadecimal digits") from None
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(keys, stream, indent=1)
    return keys


def _entry(secret: bytes) -> dict[str, str]:
    public = coincurve.PrivateKey(secret).public_key.format()
    return {"address": addresses.of_pubkey(public), "private_key_hex": secret.hex()}


async def _run(server: DevnetServer, keys: Path) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    async with server:
        ready = {
            "ready": True,
            "chain_id": server.chain.chain_id,
            "rpc": server.endpoints.rpc,
            "grpc": server.endpoints.grpc,
            "rest": server.endpoints.rest,
            "keys": str(keys),
        }
        print(json.dumps(ready), flush=True)
        await stop.wait()


@app.command()
def replay(folders: Annotated[list[Path], typer.Argument(help="Folders with a recording each.")]) -> None:
    """Feed recordings of the real chain to ours and compare; exit 1 if anything differs, 2 if one cannot be read."""
    found = []
    for folder in folders:
        try:
            found.append(replays.run(folder))
        except replays.BadRecording as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None
        print(f"{folder.name}\n{replays.report(found[-1])[0]}")
    wrong, compared = replays.counts(found)
    if len(found) > 1:
        print(f"all {len(found)}\n{replays.verdict(wrong, compared)}")
    raise typer.Exit(0 if wrong == 0 and compared > 0 else 1)


@app.command()
def faucet(
    address: str,
    coins: Annotated[list[str], typer.Argument(help="Amounts with their denomination, as 5000000uact.")],
    rest: Annotated[str, typer.Option(help="The running devnet's REST endpoint.")] = "http://127.0.0.1:1317",
) -> None:
    """Ask a running devnet for coins."""
    body = json.dumps({"address": address, "coins": coins}).encode()
    request = urllib.request.Request(f"{rest.rstrip('/')}/faucet", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_FAUCET_TIMEOUT_S) as response:
            given = json.load(response)
    except urllib.error.HTTPError as error:
        typer.echo(f"refused: {json.load(error).get('message', error.reason)}", err=True)
        raise typer.Exit(1) from None
    except (OSError, ValueError) as error:
        typer.echo(f"{rest} does not answer: {error}", err=True)
        raise typer.Exit(2) from None
    print(f"{given['address']} has been given {', '.join(given['coins'])}")
