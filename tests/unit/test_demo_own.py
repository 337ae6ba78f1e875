"""What the demo says of a cluster that the user brought, with a kubectl that answers from a table."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.demo import own
from tests.demo.own import OwnCluster
from tests.demo.story import Story
from tests.rig.errors import RigError
from tests.rig.process import Process, alive, marked, write_pid_file
from tests.rig.stack import Stack

pytestmark = pytest.mark.unit


def gpu_node(**changes: object) -> dict[str, object]:
    node: dict[str, object] = {
        "metadata": {"name": "n1", "labels": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}},
        "status": {"allocatable": {"nvidia.com/gpu": "8"}, "images": [{"names": ["localhost/gpulease-demo:1"]}]},
    }
    return {**node, **changes}


def cluster(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    answers: tuple[tuple[str, str | None], ...] = (),
    nodes: tuple[dict[str, object], ...] | None = None,
    **env: str,
) -> OwnCluster:
    """All well except for what ``answers`` (looked at first) and ``nodes`` say."""
    given = {"items": list(nodes if nodes is not None else (gpu_node(),))}
    good = [
        ("config view", "apiVersion: v1"),
        ("get --raw /readyz", "ok"),
        ("get crd", ""),
        ("auth can-i", "yes"),
        ("get namespace", ""),
        ("get nodes", json.dumps(given)),
    ]

    def kubectl(program: str, kubeconfig: Path | None, *words: str, input_text: str | None, timeout_s: float) -> str:
        answer = next(text for start, text in (*answers, *good) if " ".join(words).startswith(start))
        if answer is None:
            raise RigError("refused")
        return answer

    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    for name in ("kubectl", "prometheus"):
        program.with_name(name).write_text("#!/bin/sh\n")
        program.with_name(name).chmod(0o755)
    monkeypatch.setattr(own, "kubectl_with", kubectl)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("GPULEASE_RIG_CACHE", str(tmp_path / "cache" / "gpulease-rig"))
    monkeypatch.setattr(own, "status_of", lambda url: 200 if "up.test" in url else 0)
    return OwnCluster({"KUBECONFIG": "/home/me/config", "DEMO_AGENTS": "n1=http://up.test:1", **env})


def test_a_cluster_with_everything_lacks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cluster(tmp_path, monkeypatch, DEMO_DCGM_URL="http://up.test/metrics")
    assert found.prepare() == []
    assert (found.node_name, found.gpu_model) == ("n1", "h100")
    assert found.kubeconfig.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("answers", "nodes", "env", "words"),
    [
        ((("get --raw /readyz", None),), None, {}, "does not answer"),
        (
            (("auth can-i create customresourcedefinitions", None),),
            None,
            {},
            "may not create customresourcedefinitions",
        ),
        ((), (), {}, "no node has allocatable nvidia.com/gpu"),
        ((), (gpu_node(status={"allocatable": {"cpu": "4"}}),), {}, "no node has allocatable nvidia.com/gpu"),
        ((), (gpu_node(metadata={"name": "n1", "labels": {}}),), {}, "GPU feature discovery does not run"),
        (
            (),
            (gpu_node(metadata={"name": "n1", "labels": {"nvidia.com/gpu.product": "Quadro-9"}}),),
            {},
            "not in the operator's table",
        ),
        ((), (gpu_node(status={"allocatable": {"nvidia.com/gpu": "1"}}),), {}, "DEMO_IMAGE="),
        ((), None, {"DEMO_AGENTS": "n1=http://down.test:1"}, "does not answer /healthz"),
        (
            (("get namespace team-a", json.dumps({"metadata": {"name": "team-a"}})),),
            None,
            {},
            "namespace team-a exists and is not the demo's",
        ),
    ],
)
def test_what_is_missing_is_named_and_ends_the_demo(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers: tuple[tuple[str, str | None], ...],
    nodes: tuple[dict[str, object], ...] | None,
    env: dict[str, str],
    words: str,
) -> None:
    lacks = cluster(tmp_path, monkeypatch, answers=answers, nodes=nodes, **env).prepare()
    assert [words in lack.words for lack in lacks if lack.fatal] == [True]


def test_a_missing_exporter_only_leaves_its_step_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (lack,) = cluster(tmp_path, monkeypatch, DEMO_DCGM_URL="http://down.test/metrics").prepare()
    assert not lack.fatal
    assert "http://down.test/metrics" in lack.words
    assert lack.skips == ("DCGM series of that GPU",)


def test_agents_that_cannot_be_read_are_refused_with_their_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RigError, match="NODE=http://HOST:PORT"):
        cluster(tmp_path, monkeypatch, DEMO_AGENTS="n1")


def test_what_is_left_out_are_steps_of_the_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cluster(tmp_path, monkeypatch)
    story = Story(Stack(found))
    titles = {step.title for step in (*story.setup(), *story.lease(), *story.close())}
    lacks = found.prepare()
    (tmp_path / "bin" / "prometheus").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    left_out = [title for lack in (*lacks, *found.monitoring()) for title in lack.skips]
    assert left_out == ["DCGM series of that GPU", "Prometheus", "DCGM series of that GPU"]
    assert set(left_out) <= titles


def test_what_was_started_is_found_without_its_pid_file_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = cluster(tmp_path, monkeypatch)
    found.prepare()
    process = found.start_process("sleeper", ["sleep", "60"])
    process.pid_file.unlink()
    assert [pid for pid, _ in marked(found.run_dir)] == [process.pid]
    found.kubeconfig.unlink()
    found.clean()
    assert isinstance(process, Process)
    assert not alive(process.pid)
    assert process.returncode == -15


def test_a_demo_that_runs_now_is_not_cleaned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cluster(tmp_path, monkeypatch)
    found.prepare()
    write_pid_file(found.state_dir / "owner", os.getppid())
    with pytest.raises(RigError, match=f"process {os.getppid()} shows the demo"):
        found.clean()
    assert found.kubeconfig.exists()
