"""What the simulated API server promises: the rules of the real one that the operator leans on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpulease.errors import KubeConflict, KubeError, KubeNotFound
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Ref
from gpulease.kube.transport import Answer, Transport
from tests.fakes.kube_api import KubeApi, Refused

pytestmark = pytest.mark.sim
API = "gpulease.dev/v1alpha1"


class Direct(Transport):
    """The transport with no wire at all."""

    def __init__(self, api: KubeApi) -> None:
        async def connect() -> Any:
            raise AssertionError

        super().__init__(connect)
        self._kube = api

    async def _once(self, method: str, path: str, query: Any, body: Any, content_type: str) -> tuple[Answer, None]:
        query = {k: v for k, v in (query or {}).items() if v is not None}
        return Answer(*self._kube.handle(method, path, query, body, content_type, actor="operator")), None


@pytest.fixture
def api() -> KubeApi:
    made = KubeApi(lambda: 0.0, lambda: "now")
    made.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}})
    return made


@pytest.fixture
def cluster(api: KubeApi) -> Cluster:
    return Cluster(Direct(api))


def thing(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": "a"}, "data": spec}


REF = Ref("v1", "Secret", "x", "a")


async def test_create_is_refused_when_it_exists(cluster: Cluster) -> None:
    await cluster.create(thing(k="v"))
    with pytest.raises(KubeConflict):
        await cluster.create(thing(k="v"))


async def test_apply_takes_back_what_it_gave_up_and_leaves_what_is_others(api: KubeApi, cluster: Cluster) -> None:
    await cluster.apply(thing(ours="1", gone="1"))
    api.change(("v1", "Secret"), "x", "a", lambda b: b["data"].update(theirs="1"), actor="kubectl")
    after = await cluster.apply(thing(ours="2"))
    assert after["data"] == {"ours": "2", "theirs": "1"}


async def test_apply_that_changes_nothing_makes_no_version(cluster: Cluster) -> None:
    first = await cluster.apply(thing(k="v"))
    again = await cluster.apply(thing(k="v"))
    assert first["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"]


async def test_generation_moves_with_the_spec_and_not_with_the_status(cluster: Cluster) -> None:
    body = {"apiVersion": API, "kind": "HostedLease", "metadata": {"name": "h", "namespace": "a"}, "spec": {"a": 1}}
    first = await cluster.apply(body)
    told = await cluster.apply_status({**body, "status": {"state": "Running"}})
    assert told["metadata"]["generation"] == first["metadata"]["generation"] == 1
    changed = await cluster.apply({**body, "spec": {"a": 2}})
    assert (changed["metadata"]["generation"], changed["status"]["state"]) == (2, "Running")


async def test_a_merge_patch_of_an_old_version_is_a_conflict(api: KubeApi, cluster: Cluster) -> None:
    old = await cluster.apply(thing(k="v"))
    await cluster.apply(thing(k="w"))
    with pytest.raises(KubeConflict):
        await cluster.patch_metadata(old, annotations={"a": "b"})


async def test_delete_holds_its_precondition_and_waits_for_finalizers(api: KubeApi, cluster: Cluster) -> None:
    made = await cluster.apply(thing(k="v"))
    with pytest.raises(KubeConflict):
        await cluster.delete(REF, uid="another")
    held = await cluster.patch_finalizers(made, add="gpulease.dev/test")
    assert await cluster.delete(REF, uid=held["metadata"]["uid"])
    ending = await cluster.get(REF)
    assert ending is not None
    assert "deletionTimestamp" in ending["metadata"]
    await cluster.patch_finalizers(ending, remove="gpulease.dev/test")
    assert await cluster.get(REF) is None
    assert not await cluster.delete(REF)


async def test_a_namespace_that_ends_takes_nothing_new(api: KubeApi, cluster: Cluster) -> None:
    await cluster.delete(Ref("v1", "Namespace", "a"))
    with pytest.raises(KubeError, match="being terminated"):
        await cluster.apply(thing(k="v"))
    with pytest.raises(KubeNotFound):
        await cluster.apply({**thing(k="v"), "metadata": {"name": "x", "namespace": "nowhere"}})


async def test_lists_select_by_label(cluster: Cluster) -> None:
    labelled = thing(k="v")
    labelled["metadata"]["labels"] = {"mine": "yes", "also": "this"}
    await cluster.apply(labelled)
    assert len((await cluster.list("v1", "Secret", namespace="a", labels="mine=yes,also")).items) == 1
    assert (await cluster.list("v1", "Secret", labels={"mine": "no"})).items == ()


def test_a_watch_from_before_the_compaction_is_expired(api: KubeApi) -> None:
    path = "/api/v1/namespaces/a/secrets"
    before = api.version
    api.put(thing(k="v"))
    assert [type_ for _, type_, _ in api.since(path, {}, before)] == ["ADDED"]
    api.compact()
    with pytest.raises(Refused) as refused:
        api.since(path, {}, before)
    assert json.loads(refused.value.body)["code"] == 410
    assert api.since(path, {}, api.version) == []
