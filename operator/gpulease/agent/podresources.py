"""Which container holds which GPU: the kubelet's PodResources API, the truth of allocation."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio

from gpulease.errors import NodeUnreachable
from gpulease.meter.intervals import Allocation
from gpulease.pb.podresources import api_pb2, api_pb2_grpc

RESOURCE_PREFIX = "nvidia.com/"
MAX_ANSWER_BYTES = 16 * 1024 * 1024
_OPTIONS = (
    # The kubelet refuses the authority grpc derives from a socket's path.
    ("grpc.default_authority", "localhost"),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
)


class PodResources:
    """Lists allocations over the kubelet's socket, with a deadline. A failed call gets a fresh connection next time."""

    def __init__(self, socket: Path, *, timeout_s: float = 2.0) -> None:
        self._socket = socket
        self._timeout_s = timeout_s
        self._channel: grpc.aio.Channel | None = None

    async def allocations(self) -> frozenset[Allocation]:
        if not self._socket.exists():
            await self.close()
            raise NodeUnreachable(f"the kubelet's socket {self._socket} does not exist; is the kubelet running?")
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(f"unix://{self._socket.absolute()}", options=_OPTIONS)
        lister = api_pb2_grpc.PodResourcesListerStub(self._channel)  # type: ignore[no-untyped-call]
        try:
            answer = await lister.List(api_pb2.ListPodResourcesRequest(), timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            await self.close()
            raise NodeUnreachable(
                f"the kubelet did not list its pods: {error.code().name} {error.details()}"
            ) from error
        return allocations_of(answer)

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)


def allocations_of(answer: api_pb2.ListPodResourcesResponse) -> frozenset[Allocation]:
    """NVIDIA devices only. ``GPU-…::N`` is replica N of a shared device."""
    found = set()
    for pod in answer.pod_resources:
        for container in pod.containers:
            for group in container.devices:
                if not group.resource_name.startswith(RESOURCE_PREFIX):
                    continue
                for device_id in group.device_ids:
                    uuid, _, share = device_id.partition("::")
                    found.add(Allocation(pod.namespace, pod.name, container.name, uuid, share))
    return frozenset(found)
