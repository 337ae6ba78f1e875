"""Rights in the namespaces of leases, given when such a namespace is made: no standing right over everybody's objects.

What runs a lease needs Secrets, Deployments and a shell in namespaces whose names nobody knows beforehand. A
ClusterRole bound cluster-wide would give those in every namespace; so the operator binds it in each lease's namespace
alone (it holds ``bind`` on these roles and no others), and an admission policy of the chart lets it do so nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from gpulease.errors import KubeError
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Json
from gpulease.runtime.clock import Clock
from gpulease.workload.objects import MANAGED_BY

T = TypeVar("T")
_FORBIDDEN = 403
_PATIENCE_S = (0.05, 0.1, 0.2, 0.4, 0.8)
"""A new binding is known to an API server only once its own watch has brought it."""


class LeaseRights:
    """``bindings``: ClusterRole name to service account of ``namespace``; empty where rights come otherwise."""

    def __init__(self, cluster: Cluster, clock: Clock, *, namespace: str, bindings: Mapping[str, str]) -> None:
        self._cluster, self._clock, self._namespace = cluster, clock, namespace
        self._bindings = dict(bindings)

    async def grant(self, lease_namespace: str) -> None:
        """Write the bindings; errors are the API server's."""
        await asyncio.gather(*(self._cluster.apply(self._body(role, lease_namespace)) for role in self._bindings))

    async def grant_after(self, error: KubeError, lease_namespace: str) -> None:
        """A namespace whose bindings were never written, or were removed: write them, for the next look."""
        if self._bindings and error.status == _FORBIDDEN:
            await self.grant(lease_namespace)

    async def patiently(self, do: Callable[[], Awaitable[T]]) -> T:
        """``do``, again while it is forbidden, for about a second and a half; at once without bindings."""
        for wait_s in _PATIENCE_S if self._bindings else ():
            try:
                return await do()
            except KubeError as error:
                if error.status != _FORBIDDEN:
                    raise
            await self._clock.sleep(wait_s)
        return await do()

    def _body(self, role: str, lease_namespace: str) -> Json:
        group = "rbac.authorization.k8s.io"
        return {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": role, "namespace": lease_namespace, "labels": dict(MANAGED_BY)},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [
                {"kind": "ServiceAccount", "name": self._bindings[role], "namespace": self._namespace},
            ],
        }
