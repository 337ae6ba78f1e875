"""Which pod holds which device, as the kubelet tells it."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from gpulease.pb.podresources import api_pb2, api_pb2_grpc
from tests.rig.config import KUBELET_DIR

SOCKET = KUBELET_DIR / "pod-resources" / "kubelet.sock"


@dataclass(frozen=True, slots=True)
class Holder:
    namespace: str
    pod: str
    container: str


def holders() -> dict[str, Holder]:
    """Device UUID to the container that has it. Empty where the kubelet does not answer: DCGM's exporter, too, then
    writes its series without pod labels."""
    options = (("grpc.default_authority", "localhost"),)
    found: dict[str, Holder] = {}
    with grpc.insecure_channel(f"unix://{SOCKET}", options=options) as channel:
        lister = api_pb2_grpc.PodResourcesListerStub(channel)  # type: ignore[no-untyped-call]
        try:
            answer = lister.List(api_pb2.ListPodResourcesRequest(), timeout=2)
        except grpc.RpcError:
            return {}
    for pod in answer.pod_resources:
        for container in pod.containers:
            for group in container.devices:
                if group.resource_name.startswith("nvidia.com/"):
                    holder = Holder(pod.namespace, pod.name, container.name)
                    found.update({device.partition("::")[0]: holder for device in group.device_ids})
    return found
