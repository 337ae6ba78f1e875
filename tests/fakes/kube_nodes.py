"""What makes a cluster move: Deployments become pods, pods get nodes and devices, namespaces end with all they hold.

Each part is a function of the API's state, run a moment after a change, so that what the operator sees is never quite
what it has just written. Nodes have GPUs with UUIDs; a device belongs to one pod at a time, as the kubelet has it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from gpulease.inventory.devices import GPU_RESOURCE, Amounts, node_of, pod_use, sum_amounts
from tests.fakes.kube_api import DEPLOYMENT, NAMESPACE, NODE, POD, QUOTA, Json, Kind, KubeApi, Name

_HASH_LABEL = "pod-template-hash"
CallLater = Callable[[float, Callable[[], None]], Any]


@dataclass(slots=True)
class SimNode:
    """``sick`` devices are withdrawn from allocatable but stay in capacity."""

    name: str
    devices: tuple[str, ...]
    product: str = "NVIDIA-A100-SXM4-80GB"
    cpu: int = 64
    memory_gib: int = 512
    up: bool = True
    sick: set[str] = field(default_factory=set)
    held: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Devices by pod uid."""

    def free(self) -> list[str]:
        taken = {device for devices in self.held.values() for device in devices}
        return [d for d in self.devices if d not in self.sick and d not in taken]

    def body(self) -> Json:
        amounts = {"cpu": str(self.cpu), "memory": f"{self.memory_gib}Gi", "ephemeral-storage": "2000Gi"}
        labels = {"nvidia.com/gpu.product": self.product} if self.devices else {}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": labels},
            "spec": {"podCIDRs": ["10.244.0.0/24"]},
            "status": {
                "capacity": {**amounts, GPU_RESOURCE: str(len(self.devices))},
                "allocatable": {**amounts, GPU_RESOURCE: str(len(self.devices) - len(self.sick))},
                "conditions": [{"type": "Ready", "status": "True" if self.up else "Unknown"}],
                "addresses": [{"type": "InternalIP", "address": "10.1.0.1"}],
            },
        }


@dataclass(slots=True)
class Habits:
    """How fast and how well things go. ``pull_fails`` and ``crashes`` name images that do."""

    controller_s: float = 0.2
    start_s: float = 2.0
    stop_s: float = 1.0
    retry_s: float = 10.0
    pull_fails: set[str] = field(default_factory=set)
    crashes: set[str] = field(default_factory=set)
    refuses_pods: bool = False


class Controllers:
    """All controllers of one cluster over one API; ``on_devices(node, namespace, pod, devices)`` tells agents."""

    def __init__(self, api: KubeApi, later: CallLater, rng: Random, habits: Habits | None = None) -> None:
        self.api, self._later, self._rng = api, later, rng
        self.habits = habits or Habits()
        self.nodes: dict[str, SimNode] = {}
        self._waiting: set[tuple[str, Name]] = set()
        self.double_use: list[str] = []
        self.unschedulable: set[Name] = set()
        self.on_devices: Callable[[str, Json, tuple[str, ...], bool], None] | None = None
        self._pod_serial = 0
        api.listen(self._heard)

    def add_node(self, node: SimNode) -> None:
        self.nodes[node.name] = node
        self.api.put(node.body(), actor="kubelet")

    def refresh_node(self, name: str) -> None:
        """Publish what has become of a node."""
        self.api.put(self.nodes[name].body(), actor="kubelet")
        for pod in self.api.all(POD):
            if pod["spec"].get("nodeName") == name:
                self._soon("pod", _name(pod))

    # --- scheduling of the work --------------------------------------------------------------------------------------

    def _soon(self, what: str, name: Name, delay_s: float | None = None) -> None:
        if (what, name) in self._waiting:
            return
        self._waiting.add((what, name))
        base = self.habits.controller_s if delay_s is None else delay_s
        self._later(base * (0.5 + self._rng.random()), lambda: self._run(what, name))

    def _run(self, what: str, name: Name) -> None:
        self._waiting.discard((what, name))
        {"deployment": self._deployment, "pod": self._pod, "namespace": self._namespace}[what](name)

    def _heard(self, type_: str, kind: Kind, body: Json) -> None:
        if kind == DEPLOYMENT and type_ != "DELETED":
            self._soon("deployment", _name(body))
        elif kind == POD:
            if type_ == "DELETED":
                self._freed(body)
            else:
                self._soon("pod", _name(body))
            for owner in body["metadata"].get("ownerReferences") or ():
                self._soon("deployment", (_name(body)[0], str(owner["name"])))
        elif kind == NODE:
            for name in list(self.unschedulable):
                self._soon("pod", name)
        elif kind == QUOTA:
            for body_ in self.api.all(DEPLOYMENT, _name(body)[0]):
                self._soon("deployment", _name(body_))
        elif kind == NAMESPACE and "deletionTimestamp" in body["metadata"] and type_ != "DELETED":
            self._soon("namespace", ("", body["metadata"]["name"]))
        space = body["metadata"].get("namespace")
        if type_ == "DELETED" and space:
            holder = self.api.get(NAMESPACE, space)
            if holder is not None and "deletionTimestamp" in holder["metadata"]:
                self._soon("namespace", ("", space))

    # --- Deployments -------------------------------------------------------------------------------------------------

    def _deployment(self, name: Name) -> None:
        body = self.api.get(DEPLOYMENT, name[1], name[0])
        if body is None or "deletionTimestamp" in body["metadata"]:
            return
        template, wanted = body["spec"]["template"], int(body["spec"].get("replicas", 1))
        digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
        own = [p for p in self.api.all(POD, name[0]) if _owner(p) == body["metadata"]["uid"]]
        alive = [p for p in own if "deletionTimestamp" not in p["metadata"]]
        good = [p for p in alive if (p.get("status") or {}).get("phase") not in ("Failed", "Succeeded")]
        for failed in [p for p in alive if p not in good]:
            self.api.remove(POD, failed["metadata"]["name"], name[0], actor="deployment-controller")
        new = [p for p in good if p["metadata"]["labels"].get(_HASH_LABEL) == digest]
        old = [p for p in good if p not in new]
        for pod in (*old, *new[wanted:]):
            self.api.remove(POD, pod["metadata"]["name"], name[0], actor="deployment-controller")
        problem = ""
        # Recreate: the new ones come when the old ones are gone.
        if not [p for p in own if p["metadata"]["labels"].get(_HASH_LABEL) != digest]:
            for _ in range(wanted - len(new)):
                problem = self._create_pod(body, template, digest)
                if problem:
                    self._soon("deployment", name, self.habits.retry_s)
                    break
        self._report(body, new[:wanted], good, problem)

    def _create_pod(self, owner: Json, template: Json, digest: str) -> str:
        namespace = owner["metadata"]["namespace"]
        if self.habits.refuses_pods:
            return "admission webhook denied the request"
        refusal = self._over_quota(namespace, template)
        space = self.api.get(NAMESPACE, namespace)
        if refusal or space is None or "deletionTimestamp" in space["metadata"]:
            return refusal or "the namespace ends"
        self._pod_serial += 1
        meta = owner["metadata"]
        reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": meta["name"], "uid": meta["uid"]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{meta['name']}-{digest}-{self._pod_serial}",
                "namespace": namespace,
                "labels": {**template["metadata"]["labels"], _HASH_LABEL: digest},
                "ownerReferences": [reference],
            },
            "spec": json.loads(json.dumps(template["spec"])),
            "status": {"phase": "Pending"},
        }
        self.api.put(pod, actor="deployment-controller")
        return ""

    def _over_quota(self, namespace: str, template: Json) -> str:
        live = [p for p in self.api.all(POD, namespace) if (p.get("status") or {}).get("phase") not in ("Failed",)]
        for quota in self.api.all(QUOTA, namespace):
            hard = quota["spec"].get("hard") or {}
            if "pods" in hard and len(live) + 1 > int(hard["pods"]):
                return f"exceeded quota: {quota['metadata']['name']}, limited: pods={hard['pods']}"
            asked = need({"spec": template["spec"]}).gpus + sum(need(p).gpus for p in live)
            if "requests.nvidia.com/gpu" in hard and asked > int(hard["requests.nvidia.com/gpu"]):
                return f"exceeded quota: {quota['metadata']['name']}, limited: requests.nvidia.com/gpu"
        return ""

    def _report(self, body: Json, new: list[Json], good: list[Json], problem: str) -> None:
        ready = sum(_is_ready(p) for p in new)
        status: Json = {
            "observedGeneration": body["metadata"]["generation"],
            "replicas": len(good),
            "updatedReplicas": len(new),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "conditions": [],
        }
        if problem:
            failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": problem}
            status["conditions"] = [failure]
        if body.get("status") != status:
            name = _name(body)
            self.api.change(
                DEPLOYMENT, name[1], name[0], lambda b: b.update(status=status), actor="deployment-controller"
            )

    # --- pods --------------------------------------------------------------------------------------------------------

    def _pod(self, name: Name) -> None:
        pod = self.api.get(POD, name[1], name[0])
        if pod is None:
            return
        status = pod.get("status") or {}
        node = self.nodes.get(str(pod["spec"].get("nodeName", "")))
        if "deletionTimestamp" in pod["metadata"]:
            if node is None or node.up:
                self._later(self.habits.stop_s * (0.5 + self._rng.random()), lambda: self._ended(name, pod))
            return
        if node is None:
            self._schedule(name, pod)
            return
        if status.get("phase") in ("Failed", "Succeeded"):
            return
        if not node.up:
            if _is_ready(pod):
                self._set(name, pod, ready=False)
            return
        if not self._has_devices(node, pod):
            self._fail(name, "UnexpectedAdmissionError", "Allocate failed: no healthy device is free")
        elif status.get("phase") == "Pending" or not _is_ready(pod):
            self._start(name, pod)

    def _ended(self, name: Name, pod: Json) -> None:
        now = self.api.get(POD, name[1], name[0])
        if now is not None and now["metadata"]["uid"] == pod["metadata"]["uid"]:
            self.api.drop(POD, name)

    def _schedule(self, name: Name, pod: Json) -> None:
        allowed = _allowed_nodes(pod)
        asked = need(pod)
        pods = [u for u in map(pod_use, self.api.all(POD)) if u is not None]
        fitting = []
        for node in self.nodes.values():
            seen = node_of(node.body())
            left = seen.allocatable - sum_amounts(u.amounts for u in pods if u.node == node.name)
            if seen.usable and left.covers(asked) and (allowed is None or node.name in allowed):
                fitting.append(node.name)
        if not fitting:
            self.unschedulable.add(name)
            message = "0 nodes are available: insufficient nvidia.com/gpu."
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            if (pod.get("status") or {}).get("conditions") != [condition]:
                self.api.change(
                    POD, name[1], name[0], lambda b: b["status"].update(conditions=[condition]), actor="scheduler"
                )
            return
        self.unschedulable.discard(name)
        chosen = self._rng.choice(sorted(fitting))

        def bind(body: Json) -> None:
            body["spec"]["nodeName"] = chosen
            body["status"] = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}

        self.api.change(POD, name[1], name[0], bind, actor="scheduler")

    def _has_devices(self, node: SimNode, pod: Json) -> bool:
        uid, count = pod["metadata"]["uid"], need(pod).gpus
        if not count or uid in node.held:
            return True
        free = node.free()
        if len(free) < count:
            return False
        node.held[uid] = tuple(free[:count])
        if self.on_devices is not None:
            self.on_devices(node.name, pod, node.held[uid], True)
        return True

    def _freed(self, pod: Json) -> None:
        self.unschedulable.discard(_name(pod))
        node = self.nodes.get(str(pod["spec"].get("nodeName", "")))
        if node is not None:
            devices = node.held.pop(pod["metadata"]["uid"], ())
            if devices and self.on_devices is not None:
                self.on_devices(node.name, pod, devices, False)
        for name in list(self.unschedulable):
            self._soon("pod", name)

    def _start(self, name: Name, pod: Json) -> None:
        image = str(pod["spec"]["containers"][0]["image"])
        if image in self.habits.pull_fails:
            self._wait(name, pod, "ErrImagePull")
        elif image in self.habits.crashes:
            self._wait(name, pod, "CrashLoopBackOff")
        else:
            uid = pod["metadata"]["uid"]
            self._later(self.habits.start_s * (0.5 + self._rng.random()), lambda: self._started(name, uid))

    def _started(self, name: Name, uid: str) -> None:
        pod = self.api.get(POD, name[1], name[0])
        if pod is None or pod["metadata"]["uid"] != uid or "deletionTimestamp" in pod["metadata"] or _is_ready(pod):
            return
        node = self.nodes[pod["spec"]["nodeName"]]
        if node.up and (pod.get("status") or {}).get("phase") != "Failed":
            self._set(name, pod, ready=True)

    def _set(self, name: Name, pod: Json, *, ready: bool) -> None:
        status = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [
                {"name": c["name"], "image": c["image"], "ready": ready, "state": {"running": {}}}
                for c in pod["spec"]["containers"]
            ],
        }
        self.api.change(POD, name[1], name[0], lambda b: b.update(status=status), actor="kubelet")

    def _wait(self, name: Name, pod: Json, reason: str) -> None:
        status = {
            "phase": "Pending",
            "conditions": [{"type": "Ready", "status": "False"}],
            "containerStatuses": [
                {"name": c["name"], "image": c["image"], "ready": False, "state": {"waiting": {"reason": reason}}}
                for c in pod["spec"]["containers"]
            ],
        }
        if pod.get("status") != status:
            self.api.change(POD, name[1], name[0], lambda b: b.update(status=status), actor="kubelet")
        self._soon("pod", name, self.habits.retry_s)

    def _fail(self, name: Name, reason: str, message: str) -> None:
        status = {"phase": "Failed", "reason": reason, "message": message}
        self.api.change(POD, name[1], name[0], lambda b: b.update(status=status), actor="kubelet")

    # --- namespaces --------------------------------------------------------------------------------------------------

    def _namespace(self, name: Name) -> None:
        body = self.api.get(NAMESPACE, name[1])
        if body is None or "deletionTimestamp" not in body["metadata"]:
            return
        left = False
        for kind in list(self.api.objects):
            for key, stored in list(self.api.objects[kind].items()):
                if key[0] != name[1]:
                    continue
                if "deletionTimestamp" not in stored.body["metadata"]:
                    self.api.remove(kind, key[1], key[0], actor="namespace-controller")
                left = left or key in self.api.objects[kind]
        if left:
            self._soon("namespace", name, self.habits.stop_s * 5)
        else:
            self.api.drop(NAMESPACE, name)


def need(pod: Json) -> Amounts:
    """What a pod asks for, wherever it is."""
    use = pod_use({"metadata": {"name": "x"}, "spec": {**pod["spec"], "nodeName": "x"}})
    return use.amounts if use is not None else Amounts()


def _allowed_nodes(pod: Json) -> set[str] | None:
    affinity = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if not affinity:
        return None
    return {v for term in affinity["nodeSelectorTerms"] for f in term.get("matchFields", ()) for v in f["values"]}


def _name(body: Json) -> Name:
    return str(body["metadata"].get("namespace") or ""), str(body["metadata"]["name"])


def _owner(pod: Json) -> str | None:
    return next((str(o["uid"]) for o in pod["metadata"].get("ownerReferences") or ()), None)


def _is_ready(pod: Json) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
