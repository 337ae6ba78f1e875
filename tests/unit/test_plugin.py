"""``kubectl gpulease``: tables from objects, findings from facts, and the command over a cluster in memory."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from gpulease.chain.rpc import NodeStatus
from gpulease.errors import ChainUnreachable, KubeUnreachable
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Json
from gpulease.runtime import plugin_cli, plugin_doctor, plugin_views
from gpulease.runtime.plugin_doctor import Endpoint, Facts, Unread, Verdict, Wallet
from gpulease.units import NS_PER_S
from tests.fakes.cluster import FakeCluster

pytestmark = pytest.mark.unit
API = "gpulease.dev/v1alpha1"
NOW_NS = 1_800_000_000 * NS_PER_S
READY = {"type": "Ready", "status": "True", "reason": "Bidding", "message": "Orders that fit are being bid on."}


def body(kind: str, name: str, *, spec: Json | None = None, status: Json | None = None, **meta: Any) -> Json:
    return {
        "apiVersion": API,
        "kind": kind,
        "metadata": {"name": name, "namespace": "team", **meta},
        "spec": spec or {},
        "status": status or {},
    }


def daemon(name: str, *, ready: int = 1) -> Json:
    return {"metadata": {"name": name, "namespace": "x"}, "status": {"numberReady": ready}}


def node(name: str, *, capacity: int = 2, allocatable: int = 2, product: str = "NVIDIA-A100-SXM4-80GB") -> Json:
    labels = {"nvidia.com/gpu.product": product} if product else {}
    return {
        "metadata": {"name": name, "labels": labels},
        "status": {"capacity": {"nvidia.com/gpu": capacity}, "allocatable": {"nvidia.com/gpu": allocatable}},
    }


GOOD = Facts(
    now_ns=NOW_NS,
    own_version="1.0",
    server={"gitVersion": "v1.34.4", "minor": "34"},
    ours=[],
    nodes=[node("gpu-1")],
    daemons=[daemon("nvidia-device-plugin-daemonset"), daemon("dcgm-exporter"), daemon("cilium")],
    agents=[{"spec": {"nodeName": "gpu-1"}, "status": {"phase": "Running"}}],
    operators=[{"metadata": {"name": "o", "labels": {"app.kubernetes.io/version": "1.0"}}}],
    heartbeats=[{"metadata": {"name": "gpu-1"}, "spec": {"renewTime": "2027-01-15T07:59:55.000000Z"}}],
    endpoints=[Endpoint("c", "http://rpc", None, 7, NOW_NS - 6 * NS_PER_S)],
    wallets=[Wallet("GPUProvider team/p", address="akash1p", balances={"uakt": 5_000_000})],
)


def test_a_sound_installation_has_nothing_to_do() -> None:
    found = plugin_doctor.examine(GOOD)
    assert [(f.check, f.verdict.value, f.do) for f in found if f.verdict is not Verdict.GOOD or f.do] == []
    assert [f.check for f in found] == [
        "cluster", "resources", "device plugin", "GFD labels", "node agents", "DCGM", "NetworkPolicy", "versions",
        "clock", "chain c", "wallet of GPUProvider team/p",
    ]  # fmt: skip


AHEAD = [{"metadata": {"name": "gpu-1"}, "spec": {"renewTime": "2027-01-15T08:00:30.000000Z"}}]
ENDPOINT = Endpoint("c", "http://rpc", None, 7, NOW_NS)
FAULTS: list[tuple[str, str, Any, Verdict]] = [
    ("cluster", "server", Unread("away"), Verdict.BAD),
    ("cluster", "server", {"gitVersion": "v1.25.0", "minor": "25+"}, Verdict.BAD),
    ("resources", "ours", Unread("404"), Verdict.BAD),
    ("device plugin", "nodes", [node("gpu-1", allocatable=1)], Verdict.LOOK),
    ("device plugin", "nodes", [node("gpu-1", capacity=0, allocatable=0)], Verdict.BAD),
    ("GPUs", "nodes", Unread("403"), Verdict.UNKNOWN),
    ("GFD labels", "nodes", [node("gpu-1", product="")], Verdict.BAD),
    ("GFD labels", "nodes", [node("gpu-1", product="Strange-9000")], Verdict.LOOK),
    ("node agents", "agents", [], Verdict.BAD),
    ("node agents", "agents", Unread("403"), Verdict.UNKNOWN),
    ("DCGM", "daemons", [daemon("dcgm-exporter", ready=0)], Verdict.LOOK),
    ("NetworkPolicy", "daemons", [daemon("kube-flannel")], Verdict.UNKNOWN),
    ("NetworkPolicy", "daemons", Unread("403"), Verdict.UNKNOWN),
    ("versions", "own_version", "0.9", Verdict.LOOK),
    ("versions", "operators", [], Verdict.UNKNOWN),
    ("clock", "heartbeats", AHEAD, Verdict.BAD),
    ("clock", "heartbeats", [], Verdict.UNKNOWN),
    ("chain c", "endpoints", [replace(ENDPOINT, answer=Unread("refused"))], Verdict.BAD),
    ("chain c", "endpoints", [replace(ENDPOINT, catching_up=True)], Verdict.LOOK),
    ("chain c", "endpoints", [replace(ENDPOINT, time_ns=NOW_NS - 300 * NS_PER_S)], Verdict.BAD),
    ("chain c", "endpoints", [replace(ENDPOINT, time_ns=NOW_NS + 60 * NS_PER_S)], Verdict.BAD),
    ("wallet of w", "wallets", [Wallet("w", problem="Secret wallet is not there.")], Verdict.BAD),
    ("wallet of w", "wallets", [Wallet("w", address="a", balances={"uakt": 1})], Verdict.LOOK),
    ("wallet of w", "wallets", [Wallet("w", address="a", balances=Unread("away"))], Verdict.UNKNOWN),
]


@pytest.mark.parametrize(("check", "part", "value", "verdict"), FAULTS)
def test_what_is_wrong_is_said_with_what_to_do(check: str, part: str, value: Any, verdict: Verdict) -> None:
    found = {f.check: f for f in plugin_doctor.examine(replace(GOOD, **{part: value}))}
    assert found[check].verdict is verdict
    assert found[check].says.strip()
    assert found[check].do.endswith(".")


def test_money_is_exact_and_unknown_is_not_zero() -> None:
    lease = body("GPULease", "a", status={"spentUact": 1_250_001, "usdPerHour": "1.50"})
    (row,) = plugin_views.cost([lease]).rows
    assert row["spentUsd"] == "1.250001"
    assert row["fundsUsd"] is None


def test_the_taken_bid_comes_first_then_the_cheapest() -> None:
    offers = [
        {"provider": "dear", "priceUactPerBlock": "9"},
        {"provider": "cheap", "priceUactPerBlock": "1.5"},
        {"provider": "taken", "priceUactPerBlock": "3", "accepted": True},
    ]
    rows = plugin_views.bids(body("GPULease", "a", status={"bids": offers})).rows
    assert [row["provider"] for row in rows] == ["taken", "cheap", "dear"]


def test_events_are_ours_in_order_of_time() -> None:
    def event(kind: str, name: str, at: str) -> Json:
        return {
            "regarding": {"kind": kind, "name": name},
            "eventTime": at,
            "type": "Normal",
            "reason": "R",
            "note": "n",
        }

    all_of_them = [event("Pod", "p", "1"), event("GPULease", "b", "3"), event("HostedLease", "a", "2")]
    assert [row["object"] for row in plugin_views.events(all_of_them).rows] == ["HostedLease/a", "GPULease/b"]
    assert [row["object"] for row in plugin_views.events(all_of_them, name="b").rows] == ["GPULease/b"]


class Answering(FakeCluster):
    async def __aenter__(self) -> Answering:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def version(self) -> Json:
        if self.down:
            raise KubeUnreachable("the API server is away")
        return {"gitVersion": "v1.34.4", "minor": "34"}


class Chain:
    def __init__(self, endpoints: Any, chain_id: str) -> None:
        self._endpoint = endpoints[0]

    async def __aenter__(self) -> Chain:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def status(self) -> NodeStatus:
        raise ChainUnreachable("no endpoint answers")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Answering:
    found = Answering()
    monkeypatch.setattr(Cluster, "connect", lambda *_, **__: found)
    monkeypatch.setattr(plugin_cli.chain, "ChainClient", Chain)
    spec = {
        "chain": {"chainID": "c", "endpoints": [{"rpc": "http://rpc", "grpc": "g:1"}]},
        "wallet": {"secretName": "wallet"},
    }
    provider = {"conditions": [READY], "gpus": {"total": 4, "leased": 1, "free": 3, "quarantined": 0}}
    found.put(body("GPUProvider", "p", spec=spec, status={**provider, "earnedUact": 2_000_000}))
    found.put(body("GPULease", "train", spec=spec, status={"state": "Running", "spentUact": 10}))
    return found


def invoke(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(plugin_cli.app, list(arguments), env={"COLUMNS": "200"})
    return done.exit_code, done.output


@pytest.mark.parametrize("verb", ["status", "cost", "earnings", "events", "bids train -n team"])
def test_json_and_yaml_say_the_same_as_the_table(cluster: Answering, verb: str) -> None:
    words = verb.split()
    code, text = invoke(*words, "-o", "json")
    assert code == 0, text
    parsed = json.loads(text)
    assert yaml.safe_load(invoke(*words, "-o", "yaml")[1]) == parsed
    table = invoke(*words)[1]
    names = [row["name"] for rows in parsed.values() for row in rows if "name" in row]
    assert [name for name in names if name not in table] == []


def test_status_shows_what_is_ready(cluster: Answering) -> None:
    code, text = invoke("status")
    assert code == 0
    assert "team/p" in text
    assert "Orders that fit are being bid on." in text
    assert "No hosted leases." in text


def test_a_lease_that_is_not_there_is_a_sentence(cluster: Answering) -> None:
    code, text = invoke("bids", "nobody")
    assert code == 1
    assert "There is no GPULease nobody in namespace default" in text


def test_a_cluster_that_does_not_answer_is_a_sentence(cluster: Answering) -> None:
    cluster.down = True
    code, text = invoke("status")
    assert code == 1
    assert text.startswith("kubectl gpulease: ")


def test_doctor_goes_on_after_what_fails_and_ends_with_3(cluster: Answering) -> None:
    code, text = invoke("doctor", "-o", "json")
    found = {row["check"]: row for row in json.loads(text)["findings"]}
    assert code == 3
    assert found["cluster"]["verdict"] == "good"
    assert found["chain c"]["verdict"] == "bad"
    assert "create secret generic wallet" in found["wallet of GPUProvider team/p"]["says"]


def test_doctor_without_a_cluster_still_says_what_to_do(cluster: Answering) -> None:
    cluster.down = True
    code, text = invoke("doctor", "-o", "json")
    rows = json.loads(text)["findings"]
    assert code == 3
    assert rows[0]["check"] == "cluster"
    assert all(row["do"] for row in rows if row["verdict"] != "good")
