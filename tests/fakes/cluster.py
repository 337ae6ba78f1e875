"""A cluster in memory with the calls that the gateway makes: get, list, apply, version."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from gpulease.errors import KubeUnreachable
from gpulease.kube.refs import Json, Listing, Ref


class FakeCluster:
    """``down`` makes every call unknown; ``applied`` counts writes by kind."""

    def __init__(self) -> None:
        self.objects: dict[Ref, Json] = {}
        self.applied: list[Ref] = []
        self.down = False

    def put(self, obj: Mapping[str, Any]) -> None:
        self.objects[Ref.of(obj)] = copy.deepcopy(dict(obj))

    def _up(self) -> None:
        if self.down:
            raise KubeUnreachable("the API server did not answer")

    async def get(self, ref: Ref, *, deadline_s: float | None = None) -> Json | None:
        self._up()
        return copy.deepcopy(self.objects.get(ref))

    async def list(
        self,
        api_version: str,
        kind: str,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | str | None = None,
    ) -> Listing:
        self._up()
        found = [
            body
            for ref, body in sorted(self.objects.items(), key=lambda item: str(item[0]))
            if (ref.api_version, ref.kind) == (api_version, kind)
            and namespace in (None, ref.namespace)
            and _labelled(body, labels)
        ]
        return Listing(tuple(copy.deepcopy(found)), "1")

    async def apply(self, obj: Mapping[str, Any], *, deadline_s: float | None = None) -> Json:
        self._up()
        self.put(obj)
        self.applied.append(Ref.of(obj))
        return dict(obj)

    async def version(self) -> Json:
        self._up()
        return {"major": "1", "minor": "34", "gitVersion": "v1.34.4"}


def _labelled(body: Json, labels: Mapping[str, str] | str | None) -> bool:
    held = body["metadata"].get("labels") or {}
    if not labels:
        return True
    if isinstance(labels, str):
        return labels in held
    return all(held.get(key) == value for key, value in labels.items())
