"""``kubectl gpulease``: the console script ``kubectl-gpulease``, which kubectl finds on the PATH.

Exit codes: 0 done; 1 the cluster or the chain did not give what is needed; 2 wrong usage; 3 doctor found something bad.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer
import yaml
from rich.console import Console
from rich.table import Table as RichTable

from gpulease import __version__
from gpulease.chain import client as chain
from gpulease.errors import ConfigError, GpuleaseError
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Json, Ref
from gpulease.runtime import lease_cli, verify_cli
from gpulease.runtime import plugin_doctor as doctoring
from gpulease.runtime import plugin_views as views
from gpulease.runtime.specs import ChainSpec, parse_chain, parse_wallet
from gpulease.runtime.usage import AGENT_LABEL
from gpulease.runtime.wallets import read_key

API = "gpulease.dev/v1alpha1"
T = TypeVar("T")
_CHAIN_S = 10.0
_MOST_WALLETS = 20
_COLOURS = {"True": "green", "False": "red", "good": "green", "look": "yellow", "bad": "red", "unknown": "magenta"}

app = typer.Typer(
    name="kubectl gpulease",
    no_args_is_help=True,
    add_completion=False,
    help="GPU leases sold and bought by this cluster: what there is, what it costs, what is wrong.",
)


app.add_typer(lease_cli.app, name="lease", help="Logs, events, status and a shell of a lease that you rent.")
app.add_typer(verify_cli.app, name="verify", help="Hold usage records against the chain.")


class Form(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True, slots=True)
class _Where:
    kubeconfig: str | None
    context: str | None


_Output = Annotated[Form, typer.Option("--output", "-o", help="How to print.")]
_Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Only this namespace; all without it.")]


@app.callback()
def where(
    context: typer.Context,
    kubeconfig: Annotated[str | None, typer.Option(help="Default: $KUBECONFIG, then ~/.kube/config.")] = None,
    kube_context: Annotated[str | None, typer.Option("--context", help="The kubeconfig's context to use.")] = None,
) -> None:
    """GPU leases sold and bought by this cluster."""
    context.obj = _Where(kubeconfig, kube_context)


@app.command()
def status(context: typer.Context, namespace: _Namespace = "", output: _Output = Form.TABLE) -> None:
    """Show providers, hosted leases and GPULeases, and what to do where one is not ready."""

    async def work(cluster: Cluster) -> Sequence[views.Table]:
        return views.status(
            await _listed(cluster, "GPUProvider", namespace),
            await _listed(cluster, "HostedLease", namespace),
            await _listed(cluster, "GPULease", namespace),
        )

    _show(_run(context, work), output)


@app.command()
def bids(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The GPULease.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Its namespace.")] = "default",
    output: _Output = Form.TABLE,
) -> None:
    """Show what providers offered for a GPULease, and why an offer was not taken."""

    async def work(cluster: Cluster) -> Sequence[views.Table]:
        body = await cluster.get(Ref(API, "GPULease", name, namespace))
        if body is None:
            raise ConfigError(f"There is no GPULease {name} in namespace {namespace}; name its namespace with -n.")
        return (views.bids(body),)

    _show(_run(context, work), output)


@app.command()
def cost(context: typer.Context, namespace: _Namespace = "", output: _Output = Form.TABLE) -> None:
    """Show what GPULeases cost, and how long their funds last."""

    async def work(cluster: Cluster) -> Sequence[views.Table]:
        return (views.cost(await _listed(cluster, "GPULease", namespace)),)

    _show(_run(context, work), output)


@app.command()
def earnings(context: typer.Context, namespace: _Namespace = "", output: _Output = Form.TABLE) -> None:
    """Show what providers have withdrawn and are owed, in all and by lease."""

    async def work(cluster: Cluster) -> Sequence[views.Table]:
        return views.earnings(
            await _listed(cluster, "GPUProvider", namespace), await _listed(cluster, "HostedLease", namespace)
        )

    _show(_run(context, work), output)


@app.command()
def events(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Only events of this object.")] = "",
    namespace: _Namespace = "",
    output: _Output = Form.TABLE,
) -> None:
    """Show the events of providers and leases, oldest first."""

    async def work(cluster: Cluster) -> Sequence[views.Table]:
        listing = await cluster.list("events.k8s.io/v1", "Event", namespace=namespace or None)
        return (views.events(listing.items, name=name),)

    _show(_run(context, work), output)


@app.command()
def doctor(
    context: typer.Context,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="The operator's.")] = "gpulease-system",
    output: _Output = Form.TABLE,
) -> None:
    """Look at everything that an installation needs; each finding says what to do. Exit code 3 when one is bad."""

    async def work(cluster: Cluster) -> list[doctoring.Finding]:
        return doctoring.examine(await gather(cluster, namespace=namespace))

    found = _run(context, work)
    columns = [("check", "CHECK"), ("verdict", "IS"), ("says", "SAYS"), ("do", "DO")]
    rows = [{"check": f.check, "verdict": f.verdict.value, "says": f.says, "do": f.do} for f in found]
    _show((views.Table("findings", columns, rows),), output)
    if any(finding.verdict is doctoring.Verdict.BAD for finding in found):
        raise typer.Exit(3)


async def gather(cluster: Cluster, *, namespace: str) -> doctoring.Facts:
    """What the doctor looks at. Reads only; a part that cannot be read is told as such and ends nothing."""

    async def listed(
        version: str, kind: str, where: str | None = None, **labels: str
    ) -> Sequence[Json] | doctoring.Unread:
        query = ",".join(f"{key}={value}" for key, value in labels.items()) or None
        return await _or_why(_items(cluster, version, kind, where, query))

    server = await _or_why(cluster.version())
    wanted = (
        listed(API, "GPUProvider"),
        listed(API, "GPULease"),
        listed("v1", "Node"),
        listed("apps/v1", "DaemonSet"),
        listed("v1", "Pod", namespace, **{AGENT_LABEL: "true"}),
        listed("apps/v1", "Deployment", namespace, **{"app.kubernetes.io/name": "gpulease"}),
        listed("coordination.k8s.io/v1", "Lease", "kube-node-lease"),
    )
    providers, leases, nodes, daemons, agents, operators, heartbeats = await asyncio.gather(*wanted)
    bodies = [body for part in (providers, leases) if not isinstance(part, doctoring.Unread) for body in part]
    ours = next((part for part in (providers, leases) if isinstance(part, doctoring.Unread)), bodies)
    endpoints, wallets = await _chains(cluster, bodies)
    return doctoring.Facts(
        now_ns=time.time_ns(),
        own_version=__version__,
        server=server,
        ours=ours,
        nodes=nodes,
        daemons=daemons,
        agents=agents,
        operators=operators,
        heartbeats=heartbeats,
        endpoints=endpoints,
        wallets=wallets,
    )


async def _chains(cluster: Cluster, bodies: Sequence[Json]) -> tuple[list[doctoring.Endpoint], list[doctoring.Wallet]]:
    """Each endpoint that an object names asked once, and each object's wallet."""
    pairs: dict[tuple[str, tuple[str, str]], None] = {}
    for body in bodies:
        spec = _spec(body)
        pairs |= dict.fromkeys((spec.chain_id, pair) for pair in spec.endpoints) if spec is not None else {}
    endpoints = await asyncio.gather(*(_endpoint(chain_id, pair) for chain_id, pair in list(pairs)[:_MOST_WALLETS]))
    wallets = await asyncio.gather(*(_wallet(cluster, body) for body in bodies[:_MOST_WALLETS]))
    return list(endpoints), list(wallets)


async def _endpoint(chain_id: str, pair: tuple[str, str]) -> doctoring.Endpoint:
    async with chain.ChainClient([chain.Endpoint(*pair)], chain_id) as client:
        answer = await _or_why(client.status())
    if isinstance(answer, doctoring.Unread):
        return doctoring.Endpoint(chain_id, pair[0], answer)
    return doctoring.Endpoint(chain_id, pair[0], None, answer.height, answer.time_ns, answer.catching_up)


async def _wallet(cluster: Cluster, body: Json) -> doctoring.Wallet:
    meta, spec = body["metadata"], _spec(body)
    owner = f"{body.get('kind', 'object')} {meta.get('namespace', '')}/{meta['name']}"
    if spec is None:
        return doctoring.Wallet(owner, "spec.chain cannot be used; see the object's conditions.")
    key = await _or_why(read_key(cluster, str(meta.get("namespace", "")), parse_wallet(body["spec"]["wallet"])))
    if isinstance(key, doctoring.Unread):
        return doctoring.Wallet(owner, address="its Secret", balances=key)
    if isinstance(key, tuple):
        return doctoring.Wallet(owner, key[1])
    async with chain.ChainClient([chain.Endpoint(*pair) for pair in spec.endpoints], spec.chain_id) as client:
        return doctoring.Wallet(owner, address=key.address, balances=await _or_why(client.balances(key.address)))


def _spec(body: Json) -> ChainSpec | None:
    try:
        return parse_chain(body["spec"]["chain"])
    except (ConfigError, KeyError):
        return None


async def _or_why(call: Awaitable[T]) -> T | doctoring.Unread:
    try:
        async with asyncio.timeout(_CHAIN_S):
            return await call
    except TimeoutError:
        return doctoring.Unread(f"no answer within {_CHAIN_S:.0f} s")
    except GpuleaseError as error:
        return doctoring.Unread(str(error))


async def _items(
    cluster: Cluster, version: str, kind: str, namespace: str | None, labels: str | None
) -> Sequence[Json]:
    # A list's items do not carry their kind: it is put back for whoever shows them.
    found = await cluster.list(version, kind, namespace=namespace, labels=labels)
    return [{"kind": kind, **item} for item in found.items]


async def _listed(cluster: Cluster, kind: str, namespace: str) -> Sequence[Json]:
    return await _items(cluster, API, kind, namespace or None, None)


def _run(context: typer.Context, work: Callable[[Cluster], Awaitable[T]]) -> T:
    where: _Where = context.obj

    async def connected() -> T:
        async with Cluster.connect(where.kubeconfig, context=where.context) as cluster:
            return await work(cluster)

    try:
        return asyncio.run(connected())
    except GpuleaseError as error:
        typer.echo(f"kubectl gpulease: {error}", err=True)
        raise typer.Exit(1) from None


def _show(tables: Sequence[views.Table], form: Form) -> None:
    if form is not Form.TABLE:
        body: dict[str, Any] = {table.name: [dict(row) for row in table.rows] for table in tables}
        text = json.dumps(body, indent=2) if form is Form.JSON else yaml.safe_dump(body, sort_keys=False)
        typer.echo(text.rstrip("\n"))
        return
    console = Console(highlight=False)
    for table in tables:
        if not table.rows:
            typer.echo(f"No {_words(table.name)}.")
            continue
        shown = RichTable(box=None, pad_edge=False, header_style="bold")
        for _, heading in table.columns:
            shown.add_column(heading, overflow="fold")
        for row in table.rows:
            shown.add_row(*(_cell(row.get(key)) for key, _ in table.columns))
        console.print(shown)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    text = str(value).replace("[", "\\[")
    colour = _COLOURS.get(str(value))
    return text if colour is None else f"[{colour}]{text}[/{colour}]"


def _words(name: str) -> str:
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)


def main() -> None:
    """Entry point of the console script."""
    app()
