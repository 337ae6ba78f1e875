"""What the cluster holds of a lease: read from the API server and the kubelet."""

from __future__ import annotations

import base64
from datetime import datetime

from gpulease.errors import ManifestError
from gpulease.workload import manifest
from gpulease.workload.names import manifest_secret
from tests.rig.chainview import OnChain
from tests.rig.errors import RigError
from tests.rig.stack import OPERATOR_NAMESPACE, Json, Stack
from tests.rig.web import get_text, metric_sum

_LIMITS = ("networkpolicy", "resourcequota", "limitrange")


def manifest_kept(stack: Stack, lease: OnChain, namespace: str) -> str | None:
    """The gateway answered the PUT with 200, and what it kept hashes to what the chain has."""
    metrics = get_text(f"{stack.gateway_metrics_url}/metrics")
    name, route = "gpulease_gateway_requests_total", "/deployment/{dseq}/manifest"
    taken = metric_sum(metrics, name, route=route, status="200")
    if not taken:
        answers = [line for line in metrics.splitlines() if route in line]
        raise RigError(f"the gateway took none in; its answers: {answers or 'nobody asked'}")
    secret = stack.get("secret", manifest_secret(namespace), OPERATOR_NAMESPACE)
    if secret is None:
        return None
    try:
        raw = base64.b64decode(secret["data"]["manifest.json"], validate=True)
        ours = manifest.manifest_hash(manifest.parse(raw))
    except (KeyError, ValueError, ManifestError) as error:
        raise RigError(f"the kept manifest cannot be read: {error}") from error
    (deployment,) = (d for d in stack.chain.deployments(lease.id["owner"]) if d.id["dseq"] == lease.id["dseq"])
    if base64.b64decode(deployment.raw["deployment"]["hash"]) != ours:
        raise RigError("the kept manifest's hash is not the one on chain")
    return f"200; sha256 {ours.hex()[:12]}… is the chain's"


def objects(stack: Stack, namespace: str) -> tuple[str, str] | None:
    """The pod's name and what surrounds it, once all of it is there."""
    space = stack.get("namespace", namespace)
    if space is None:
        return None
    found = stack.items(",".join((*_LIMITS, "pod")), namespace)
    kinds = [one["kind"].lower() for one in found]
    missing = [kind for kind in (*_LIMITS, "pod") if kind not in kinds]
    if missing:
        raise RigError(f"namespace {namespace} has no {', '.join(missing)} yet")
    level = space["metadata"]["labels"].get("pod-security.kubernetes.io/enforce", "no pod security")
    pod = str(next(one for one in found if one["kind"] == "Pod")["metadata"]["name"])
    return pod, f"{namespace[:8]}…: {level}, network policy, quota, limits; pod {pod}"


def running(stack: Stack, namespace: str, pod: str) -> tuple[str, float]:
    """The device's UUID as PodResources has it, once the pod runs, and since when at the latest (Unix time): the
    kubelet writes whole seconds."""
    body = stack.get("pod", pod, namespace)
    if body is None:
        raise RigError(f"pod {pod} is not there any more")
    phase = (body.get("status") or {}).get("phase", "")
    if phase != "Running":
        raise RigError(f"pod {pod} is {phase or 'without a phase'}; {_why(body)}")
    held = [uuid for uuid, who in stack.cluster.holders().items() if (who.namespace, who.pod) == (namespace, pod)]
    if not held:
        raise RigError(f"pod {pod} runs, and PodResources names no GPU for it")
    if len(held) > 1:
        raise RigError(f"pod {pod} asked for one GPU and PodResources names {len(held)}: {', '.join(held)}")
    states = [one.get("state", {}).get("running") for one in body["status"].get("containerStatuses", ())]
    if not states or None in states:
        raise RigError(f"pod {pod} is Running and a container of it is not; {_why(body)}")
    return held[0], max(datetime.fromisoformat(one["startedAt"]).timestamp() for one in states) + 1


def _why(body: Json) -> str:
    """The kubelet's reason for a container that waits, or the scheduler's for a pod that does."""
    status = body.get("status") or {}
    for one in status.get("containerStatuses", ()):
        waiting = one.get("state", {}).get("waiting")
        if waiting:
            return f"{waiting.get('reason')}: {waiting.get('message', '')}".strip()
    for one in status.get("conditions", ()):
        if one.get("status") == "False" and one.get("message"):
            return f"{one.get('reason')}: {one['message']}"
    return "no reason given yet"


def gone(stack: Stack, namespace: str) -> str | None:
    found = stack.get("namespace", namespace)
    if found is not None:
        left = [one["metadata"]["name"] for one in stack.items("pod", namespace)]
        raise RigError(f"namespace {namespace} is {found['status']['phase']}, pods: {', '.join(left) or 'none'}")
    return f"namespace {namespace[:8]}… is not there any more"


def gpu_free(stack: Stack, uuid: str) -> str | None:
    """PodResources names no holder, and the provider offers the GPU again."""
    holder = stack.cluster.holders().get(uuid)
    if holder is not None:
        raise RigError(f"PodResources still names {holder.namespace}/{holder.pod} for {uuid}")
    body = stack.get("gpuprovider", "demo", OPERATOR_NAMESPACE) or {}
    gpus = (body.get("status") or {}).get("gpus") or {}
    if not gpus or gpus["free"] != gpus["total"]:
        raise RigError(f"the provider's status says {gpus or 'nothing of its GPUs'}")
    return f"{uuid[:12]}… has no holder; {gpus['free']} of {gpus['total']} free"
