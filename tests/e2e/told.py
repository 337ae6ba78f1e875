"""What an object says of itself: for tests that look where its sender looks."""

from __future__ import annotations

from collections.abc import Mapping

from tests.rig.errors import RigError
from tests.rig.stack import OPERATOR_NAMESPACE, TENANT_NAMESPACE, Change, Json, Stack, until


def condition(body: Mapping[str, object] | None, kind: str = "Ready") -> Json:
    """The condition, empty where there is none yet."""
    status = (body or {}).get("status") or {}
    assert isinstance(status, dict)
    found: Json = next((one for one in status.get("conditions", ()) if one["type"] == kind), {})
    return found


def wait_told(
    stack: Stack,
    name: str,
    reason: str,
    *,
    kind: str = "gpulease",
    namespace: str = TENANT_NAMESPACE,
    type_: str = "Ready",
) -> str:
    """The message of the condition, once it has this reason."""

    def look() -> str:
        now = condition(stack.get(kind, name, namespace), type_)
        if now.get("reason") != reason:
            raise RigError(f"{type_} is {now}")
        return str(now["message"])

    return str(until(f"{kind} {name}: {type_} with reason {reason}", look, timeout_s=60))


def wait_ready(stack: Stack, name: str, *, kind: str = "gpulease", namespace: str = TENANT_NAMESPACE) -> None:
    def look() -> bool:
        now = condition(stack.get(kind, name, namespace))
        if now.get("status") != "True":
            raise RigError(f"Ready is {now}")
        return True

    until(f"{kind} {name} being Ready", look, timeout_s=90, alive=stack.processes.values())


def lease(stack: Stack, name: str, change: Change | None = None) -> None:
    """The example lease under another name, changed."""

    def renamed(body: Json) -> None:
        body["metadata"]["name"] = name
        body["spec"]["bidWindowSeconds"] = 1
        if change is not None:
            change(body)

    stack.apply_example("lease.yaml", renamed)


def delete(stack: Stack, name: str) -> None:
    """Delete a GPULease and wait until it is gone: its finalizer lets go only when its deposit is home."""
    stack.cluster.kubectl("delete", "gpulease", name, "-n", TENANT_NAMESPACE, "--timeout=60s", timeout_s=70)


def deployment_of(stack: Stack, name: str) -> str:
    """The dseq of an object, once it is claimed."""

    def look() -> str:
        body = stack.get("gpulease", name, TENANT_NAMESPACE) or {}
        return str(body["metadata"].get("annotations", {}).get("gpulease.dev/dseq", ""))

    return str(until(f"GPULease {name} having a dseq", look, timeout_s=60))


__all__ = ["OPERATOR_NAMESPACE", "condition", "delete", "deployment_of", "lease", "wait_ready", "wait_told"]
