"""The verb ``gpulease plan``: what the operator would do in an observed state, as YAML.

Goldens, documentation and support use the same tool: it calls the very functions that the operator calls, and touches
neither chain nor cluster.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from gpulease.errors import BadInput
from gpulease.lease import plan as lease_plan
from gpulease.lease.states import ObservedLease, Policy
from gpulease.lease.states import Plan as LeasePlan
from gpulease.runtime.plan_codec import decode, encode
from gpulease.tenancy import plan as tenant_plan
from gpulease.tenancy.states import ObservedTenant
from gpulease.tenancy.states import Plan as TenantPlan

app = typer.Typer(help="What the operator would do in an observed state.", invoke_without_command=True)
MAX_FILE_BYTES = 4 * 1024 * 1024
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KEYS = ("kind", "observed", "policy", "about")


@app.callback()
def main(
    file: Annotated[Path, typer.Option("-f", "--file", help="The observed state (YAML); - for standard input.")],
) -> None:
    """Print the plan that the operator would make of an observed state. Nothing is done."""
    try:
        typer.echo(as_yaml(plan_of(load(_read(file)))), nl=False)
    except BadInput as error:
        typer.echo(f"gpulease plan: {error}", err=True)
        raise typer.Exit(2) from None


def _read(file: Path) -> str:
    try:
        stream = sys.stdin.buffer if str(file) == "-" else file.open("rb")
        with stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
        text = raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"-f {file} cannot be read: {error}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise BadInput(f"-f {file} is longer than {MAX_FILE_BYTES} bytes")
    return text


def load(text: str) -> dict[str, Any]:
    """A YAML document that is a mapping; ``BadInput`` otherwise."""
    try:
        # Without aliases: a short document must not become a huge one.
        if any(isinstance(one, yaml.AliasEvent) for one in yaml.parse(text, Loader=_LOADER)):
            raise BadInput("aliases (*) are not read here; write the value out")
        document = yaml.load(text, Loader=_LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"this is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise BadInput("the file must hold a mapping with kind and observed")
    return document


def plan_of(document: Mapping[str, Any]) -> TenantPlan | LeasePlan:
    """Decide as the operator does. ``BadInput`` names the path to what is wrong."""
    for key in document:
        if key not in _KEYS:
            raise BadInput(f"{key} is not known; known are {', '.join(_KEYS)}")
    kind, observed = document.get("kind"), document.get("observed")
    if kind == "tenant":
        if document.get("policy") is not None:
            raise BadInput("policy belongs to kind hosted; a tenant's limits are in observed.wanted")
        return tenant_plan.decide(decode(ObservedTenant, observed, "observed"))
    if kind == "hosted":
        policy = decode(Policy, document.get("policy") or {}, "policy")
        return lease_plan.decide(decode(ObservedLease, observed, "observed"), policy)
    raise BadInput(f"kind is {kind!r}; tenant (a GPULease) or hosted (a HostedLease) is needed")


def document_of(observed: ObservedTenant | ObservedLease, policy: Policy | None = None) -> str:
    """The file that ``gpulease plan`` reads, for one observation: what support asks for."""
    kind = "tenant" if isinstance(observed, ObservedTenant) else "hosted"
    document = {"kind": kind, "observed": encode(observed)}
    if policy is not None:
        document["policy"] = encode(policy)
    return _dump(document)


def as_yaml(plan: TenantPlan | LeasePlan) -> str:
    """Actions in order, each with its kind; a ``state`` of null leaves the status as it is."""
    return _dump(
        {
            "state": encode(plan.state),
            "actions": [{"action": type(action).__name__, **encode(action)} for action in plan.actions],
            "conditions": encode(plan.conditions),
            "facts": encode(plan.facts),
            "figures": encode(plan.figures),
            "requeueAfterSeconds": plan.requeue_after_s,
        }
    )


def _dump(document: Mapping[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
