"""How far a lease's workload has come, from what the cluster shows, in words the tenant can act on.

Texts are stable: a figure that moves (restarts, back-off seconds) would rewrite the status at every look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gpulease.workload.objects import SERVICE_LABEL

Json = Mapping[str, Any]

_PULL = frozenset({"ErrImagePull", "ImagePullBackOff"})
_HINTS = {
    "ImagePullBackOff": "check the image's name and tag, and give credentials if its registry is private",
    "InvalidImageName": "correct the image's name",
    "ErrImageNeverPull": "use an image that can be pulled",
    "CrashLoopBackOff": "the container ends again and again; look at its log",
    "CreateContainerConfigError": "the image may run as root, which is not allowed here; choose one that does not",
    "CreateContainerError": "the container could not be created; check its command",
    "RunContainerError": "the container could not be started; check its command",
    "Unschedulable": "no node can take the pod now; the provider is looking at it",
    "FailedCreate": "the cluster refused to create the pod",
    "UnexpectedAdmissionError": "the node could not give the pod its devices; it is tried again",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """``state`` is Running, Deploying or Degraded, None when nothing is deployed."""

    state: str | None
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    reason: str
    message: str


def judge(deployments: Iterable[Json], pods: Iterable[Json]) -> Verdict:
    """All of one lease's Deployments and pods, as last read."""
    found = tuple(deployments)
    if not found:
        return Verdict(None)
    waiting = [d for d in found if not is_ready(d)]
    if not waiting:
        return Verdict("Running", "Running", "Every service has its replicas ready.")
    all_pods = tuple(pods)
    for deployment in sorted(waiting, key=lambda d: str(d["metadata"]["name"])):
        name = str(deployment["metadata"]["name"])
        own = [p for p in all_pods if (p["metadata"].get("labels") or {}).get(SERVICE_LABEL) == name]
        trouble = next((t for t in map(pod_trouble, own) if t is not None), None) or _not_created(deployment)
        if trouble is not None:
            hint = _HINTS.get(trouble.reason, "")
            words = f"Service {name}: {trouble.reason}{': ' + trouble.message if trouble.message else ''}"
            return Verdict("Degraded", trouble.reason, f"{words}{'; ' + hint if hint else ''}.")
    names = ", ".join(sorted(str(d["metadata"]["name"]) for d in waiting))
    return Verdict("Deploying", "Deploying", f"Waiting for the replicas of {names}.")


def is_ready(deployment: Json) -> bool:
    status = deployment.get("status") or {}
    wanted = int((deployment.get("spec") or {}).get("replicas", 1))
    current = int(status.get("observedGeneration", 0)) >= int(deployment["metadata"].get("generation", 0))
    return (
        current
        and int(status.get("readyReplicas", 0)) >= wanted
        and int(status.get("updatedReplicas", 0)) >= wanted
        and int(status.get("replicas", 0)) == wanted
    )


def pod_trouble(pod: Json) -> Trouble | None:
    """The kubelet's or scheduler's own reason why a pod does not come up."""
    if "deletionTimestamp" in pod["metadata"]:
        return None
    status = pod.get("status") or {}
    if status.get("phase") == "Failed" and status.get("reason"):
        return Trouble(str(status["reason"]), _short(str(status.get("message", ""))))
    for entry in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (entry.get("state") or {}).get("waiting") or {}
        reason = str(waiting.get("reason", ""))
        if reason in _PULL:
            # The two alternate with every attempt; one word for both keeps the status still.
            return Trouble("ImagePullBackOff", f"image {entry.get('image', '')} cannot be pulled (ErrImagePull)")
        if reason == "CrashLoopBackOff":
            code = ((entry.get("lastState") or {}).get("terminated") or {}).get("exitCode")
            return Trouble(reason, "" if code is None else f"exit code {code}")
        if reason and reason not in ("ContainerCreating", "PodInitializing"):
            return Trouble(reason, _short(str(waiting.get("message", ""))))
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return Trouble(str(condition.get("reason") or "Unschedulable"), _short(str(condition.get("message", ""))))
    return None


def _not_created(deployment: Json) -> Trouble | None:
    for condition in (deployment.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return Trouble(str(condition.get("reason") or "FailedCreate"), _short(str(condition.get("message", ""))))
    return None


def _short(text: str) -> str:
    return " ".join(text.split())[:300]
