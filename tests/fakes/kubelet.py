"""A PodResources server on a unix socket that answers as a kubelet does; it can be stopped and started again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from gpulease.pb.podresources import api_pb2, api_pb2_grpc

Claim = tuple[str, str, str, str]
"""Namespace, pod, container, device id."""


class FakeKubelet:
    """Set ``claims`` to what it should list, ``fail`` to make it answer with an error."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.claims: list[Claim] = []
        self.resource = "nvidia.com/gpu"
        self.fail = False
        self.authorities: list[str] = []
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server()
        fake = self

        class Lister(api_pb2_grpc.PodResourcesListerServicer):  # type: ignore[misc]
            async def List(self, request: Any, context: Any) -> Any:
                if fake.fail:
                    await context.abort(grpc.StatusCode.INTERNAL, "cannot list")
                return answer(fake.claims, fake.resource)

        api_pb2_grpc.add_PodResourcesListerServicer_to_server(Lister(), self._server)  # type: ignore[no-untyped-call]
        self._server.add_insecure_port(f"unix://{self.socket}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None
        self.socket.unlink(missing_ok=True)


def answer(claims: Iterable[Claim], resource: str = "nvidia.com/gpu") -> Any:
    """The answer a kubelet would give, one container per claim."""
    pods = []
    for namespace, pod, container, device in claims:
        group = api_pb2.ContainerDevices(resource_name=resource, device_ids=[device])
        part = api_pb2.ContainerResources(name=container, devices=[group])
        pods.append(api_pb2.PodResources(name=pod, namespace=namespace, containers=[part]))
    return api_pb2.ListPodResourcesResponse(pod_resources=pods)
