"""The demo's parts that decide or draw, without a cluster."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from tests.demo import report
from tests.demo.figures import figures
from tests.demo.model import Seen, Step, StepFailed, run_steps
from tests.demo.signals import Interrupted, interruptible
from tests.demo.story import Story, coins, condition, short
from tests.demo.table import LiveTable, PlainLines, span, stamp
from tests.rig.audit import writes
from tests.rig.chainview import OnChain
from tests.rig.errors import RigError
from tests.rig.stack import EXAMPLES, Ports, Stack, until
from tests.rig.web import metric_sum

pytestmark = pytest.mark.unit


def step(title: str, look: Callable[[], Seen], act: str = "lease") -> Step:
    return Step(act, title, "operator", look)


def fails(words: str) -> Callable[[], Seen]:
    def look() -> Seen:
        raise RigError(words)

    return look


class Heard:
    """A reporter that keeps what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def begin(self, step: Step) -> None:
        self.calls.append(("begin", step.title))

    def detail(self, words: str) -> None:
        self.calls.append(("detail", words))

    waiting = detail

    def seen(self, step: Step, seen: Seen, *, took_s: float) -> None:
        self.calls.append(("seen", f"{step.title} {seen.height} {seen.at_s}"))

    def failed(self, step: Step, words: str, *, took_s: float) -> None:
        self.calls.append(("failed", f"{step.title} {words}"))


# -- steps ---------------------------------------------------------------------------------------------------------


def test_the_first_step_that_fails_ends_the_story_and_is_named() -> None:
    heard = Heard()
    steps = [step("a", lambda: Seen("x")), step("b", fails("no bid")), step("c", lambda: Seen("y"))]
    with pytest.raises(StepFailed, match="no bid") as caught:
        run_steps(steps, heard, height=lambda: 7, now_s=lambda: 100.0)
    assert caught.value.step.title == "b"
    assert heard.calls == [
        ("begin", "a"),
        ("seen", "a 7 100.0"),
        ("begin", "b"),
        ("failed", "b no bid"),
    ]


def test_a_steps_own_height_and_time_go_before_those_of_the_look() -> None:
    heard = Heard()
    run_steps([step("a", lambda: Seen("x", 3, 50.0))], heard, height=lambda: 7, now_s=lambda: 100.0)
    assert heard.calls[-1] == ("seen", "a 3 50.0")


def test_every_step_of_the_story_has_a_title_of_its_own_and_a_log() -> None:
    story = Story(Stack(_Cluster(Path("/nonexistent"))))
    steps = [*story.setup(), *story.lease(), *story.close()]
    assert len({one.title for one in steps}) == len(steps) == 22
    assert {one.act for one in steps} == {"setup", "lease", "close"}
    assert all(one.part for one in steps)


def test_until_asks_silent_sources_again_and_says_what_the_last_look_said() -> None:
    answers = iter([RigError("silent"), None, "there"])

    def look() -> str | None:
        found = next(answers)
        if isinstance(found, RigError):
            raise found
        return found

    assert until("it", look, timeout_s=5, interval_s=0) == "there"
    with pytest.raises(RigError, match=r"the bid did not happen within 0 s; last: order 5 is closed"):
        until("the bid", fails("order 5 is closed"), timeout_s=0, interval_s=0)


# -- presentation --------------------------------------------------------------------------------------------------


def live(height: int) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=True, width=100, height=height, color_system=None), out


@pytest.mark.parametrize("height", [12, 24, 60])
def test_a_live_table_never_outgrows_the_terminal_and_shows_the_running_step(height: int) -> None:
    console, _ = live(height)
    steps = [step(f"step {n}", lambda: Seen("ok"), act=("setup", "lease", "close")[n // 8]) for n in range(22)]
    table = LiveTable(console, steps, height=lambda: 5)
    for n, one in enumerate(steps):
        table.begin(one)
        with console.capture() as caught:
            console.print(table._render())
        lines = caught.get().splitlines()
        assert len(lines) <= height
        assert any(f"step {n}" in line for line in lines)
        table.seen(one, Seen("evidence", n + 1, time.time()), took_s=0.1)
    table._final = True
    with console.capture() as caught:
        console.print(table._render())
    assert caught.get().count("evidence") == 22


def test_plain_lines_have_a_line_per_step_with_block_time_and_evidence() -> None:
    out = io.StringIO()
    lines = PlainLines(out)
    with lines:
        good, bad = step("our bid", lambda: Seen("")), step("lease", lambda: Seen(""))
        lines.begin(good)
        lines.seen(good, Seen("417 uact per block", 12, time.time()), took_s=1.0)
        lines.begin(bad)
        lines.failed(bad, "nobody won\nmore", took_s=1.0)
    said = out.getvalue()
    assert "kubectl apply -f lease.yaml" in said
    assert "block 12" in said
    assert "our bid: 417 uact per block" in said
    assert "FAIL" in said
    assert "lease: nobody won\n" in said
    assert "\x1b" not in said


def test_a_failure_names_the_step_and_shows_the_loud_lines(tmp_path: Path) -> None:
    log = tmp_path / "operator.log"
    log.write_text("\n".join([f"info line {n}" for n in range(50)] + ["2026 [error] no wallet", "info last"]))
    out = io.StringIO()
    console = Console(file=out, width=100)
    failed = StepFailed(step("our bid", fails("")), "our bid did not happen within 70 s")
    report.failure(console, failed, log=log, logs=tmp_path)
    said = out.getvalue()
    assert "Failed at step: our bid" in said
    assert "no wallet" in said
    assert "info line" not in said
    assert str(tmp_path) in said.replace("\n", "")


def test_a_quiet_log_shows_its_end_and_a_missing_one_nothing(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("\n".join(f"line {n}" for n in range(50)))
    assert report.loud_lines(log)[-1] == "line 49"
    assert report.loud_lines(tmp_path / "none") == []


@pytest.mark.parametrize(("seconds", "short_form", "since_start"), [(7.31, "7.3 s", "0:07.3"), (125, "2:05", "2:05.0")])
def test_times(seconds: float, short_form: str, since_start: str) -> None:
    assert (span(seconds), stamp(seconds)) == (short_form, since_start)


def test_amounts_and_addresses_in_words() -> None:
    assert coins({"uact": Decimal("500000.000000000000000000"), "uakt": 0}) == "500 000 uact"
    assert coins({"uact": Decimal("0.5")}) == "0.5 uact"
    assert coins({}) == "nothing"
    assert short("akash1aj89vx8z5nv409su5nls86cqdcgekvrrlahapd") == "akash1aj89…hapd"


def test_a_condition_in_words() -> None:
    one = {"type": "Ready", "status": "False", "reason": "WalletMissing", "message": "Create it."}
    assert condition({"status": {"conditions": [one]}}, "Ready") == "Ready=False WalletMissing: Create it."
    assert "no condition Ready yet" in condition({"kind": "GPULease"}, "Ready")


# -- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_signal_interrupts_and_later_ones_leave_the_clean_up_alone(number: int, code: int) -> None:
    before = signal.getsignal(number)
    cleaned = False
    with interruptible():
        with pytest.raises(Interrupted) as caught:
            signal.raise_signal(number)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        cleaned = True
    assert cleaned
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before


# -- sources -------------------------------------------------------------------------------------------------------


def event(at: str, user: str, verb: str, resource: str, **more: object) -> str:
    ref = {"resource": resource, "namespace": "ns", "name": "n", **more}
    return json.dumps(
        {"verb": verb, "user": {"username": user}, "objectRef": ref, "requestReceivedTimestamp": f"2026-01-01T{at}Z"}
    )


def test_writes_are_counted_by_user_and_time_and_questions_are_none(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    lines = [
        event("00:00:01.000000", "op", "patch", "gpuleases", subresource="status"),
        event("00:00:02.000000", "op", "get", "pods"),
        event("00:00:03.000000", "op", "create", "selfsubjectaccessreviews", apiGroup="authorization.k8s.io"),
        event("00:00:04.000000", "other", "create", "pods"),
        event("00:00:05.500000", "op", "delete", "namespaces"),
    ]
    log.write_text("\n".join(lines) + '\n{"verb": "crea')
    found = writes(log, user="op")
    assert [str(one) for one in found] == ["patch gpuleases/status ns/n", "delete namespaces ns/n"]
    assert [one.verb for one in writes(log, since_s=found[0].at_s + 0.1, until_s=found[1].at_s - 0.1)] == ["create"]


def test_a_metric_is_summed_over_the_asked_labels() -> None:
    text = '# TYPE a counter\na{x="1",y="2"} 3\na{x="1",y="3"} 4\na{x="2"} 5\nab{x="1"} 9\nb 1e3\n'
    assert metric_sum(text, "a", x="1") == 7
    assert metric_sum(text, "b") == 1000
    assert metric_sum(text, "a", x="7") is None


class _Cluster:
    """As much of a cluster as the stack's constructor looks at."""

    name, node_name, dcgm_url = "none", "n1", ""
    kubeconfig = Path("/nonexistent")
    audit_log = agent_token_file = None

    def __init__(self, folder: Path) -> None:
        self.state_dir = self.log_dir = folder
        self.agents: dict[str, str] = {}
        self.nvml_env: dict[str, str] = {}

    def identity(self, name: str) -> Path:
        return self.kubeconfig

    def kubectl(self, *args: str, input_text: str | None = None, timeout_s: float = 30.0) -> str:
        raise RigError("no cluster")

    def start_process(self, name, argv, env=None):  # type: ignore[no-untyped-def]
        raise RigError("no processes")

    def holders(self):  # type: ignore[no-untyped-def]
        return {}


def test_examples_are_used_as_they_are_but_for_the_stacks_own_addresses(tmp_path: Path) -> None:
    for name in ("provider.yaml", "lease.yaml"):
        assert Stack(_Cluster(tmp_path)).example(name) == yaml.safe_load((EXAMPLES / name).read_text())
    stack = Stack(_Cluster(tmp_path), ports=Ports(rpc=1, grpc=2, gateway=3), chain_id="other")
    provider = stack.example("provider.yaml", lambda body: body["spec"].update(paused=True))
    assert provider["spec"]["chain"] == {
        "chainID": "other",
        "endpoints": [{"rpc": "http://127.0.0.1:1", "grpc": "127.0.0.1:2"}],
    }
    assert (provider["spec"]["hostURI"], provider["spec"]["paused"]) == ("https://127.0.0.1:3", True)


def test_figures_from_the_chain_and_the_audit_log(tmp_path: Path) -> None:
    cluster = _Cluster(tmp_path)
    log = tmp_path / "audit.log"
    lines = [
        event("00:00:10.200000", "gpulease-operator", "create", "namespaces"),
        event("00:00:10.700000", "system:replicaset", "create", "pods"),
        event("00:00:12.000000", "gpulease-gateway", "patch", "secrets"),
        event("00:00:40.000000", "gpulease-operator", "patch", "hostedleases"),
    ]
    log.write_text("\n".join(lines))
    cluster.audit_log = log
    story = Story(Stack(cluster))
    facts = story.facts
    begun = writes(log)[0].at_s - 0.2
    facts.order, facts.bid = OnChain({}, "open", 5, {}), OnChain({}, "open", 7, {})
    facts.lease, facts.namespace = OnChain({}, "active", 9, {}), "ns"
    facts.running_at_s, facts.quiet_from_s, facts.deleted_at_s = begun + 5, begun + 10, begun + 50
    facts.operator_rss_mb = 131.0
    story.stack.chain._times[9] = begun
    found = {one.name: (one.value, one.good) for one in figures(story, up_s=12.3)}
    assert found == {
        "order seen → bid included": ("2 block(s) later", False),
        "lease's block → pod object": ("0.70 s", True),
        "API writes, lease → Running": ("1 by the operator, 1 by the gateway", True),
        "API writes, lease running": ("1 in 40 s with a withdrawal (1 × patch hostedleases)", None),
        "operator memory, one lease": ("131 MB RSS", False),
        "control plane + node up": ("12.3 s", True),
    }
