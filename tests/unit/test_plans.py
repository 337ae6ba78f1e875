"""Every recorded observation gives the recorded plan, by the very tool that support uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from gpulease.errors import BadInput
from gpulease.lease.states import ObservedLease
from gpulease.runtime import plan_cli
from gpulease.runtime.plan_cli import as_yaml, document_of, load, plan_of
from gpulease.runtime.plan_codec import decode
from gpulease.tenancy.states import ObservedTenant

pytestmark = pytest.mark.unit
PLANS = Path(__file__).parent.parent / "data" / "plans"
OBSERVED = sorted(path for path in PLANS.glob("*.yaml") if not path.name.endswith(".plan.yaml"))
RUNNER = CliRunner()
DESTROYING = {"DeleteNamespace", "CloseDeployment", "CloseBid", "Release", "ForgetHosted"}


@pytest.mark.parametrize("path", OBSERVED, ids=lambda path: path.stem)
def test_the_plan_is_the_recorded_one(path: Path) -> None:
    plan = plan_of(load(path.read_text()))
    assert as_yaml(plan) == path.with_suffix(".plan.yaml").read_text()


def test_every_plan_has_its_observation() -> None:
    assert {path.with_suffix(".plan.yaml") for path in OBSERVED} == set(PLANS.glob("*.plan.yaml"))
    kinds = [path.name.split("-")[0] for path in OBSERVED]
    assert (kinds.count("tenant") > 40, kinds.count("hosted") > 40) == (True, True)


def test_what_is_unknown_in_the_recorded_states_destroys_nothing() -> None:
    checked = 0
    for path in OBSERVED:
        if "unknown" in path.stem or "unreachable" in path.stem or "once" in path.stem or "silent" in path.stem:
            plan = yaml.safe_load(path.with_suffix(".plan.yaml").read_text())
            assert not {action["action"] for action in plan["actions"]} & DESTROYING, path.stem
            checked += 1
    assert checked > 15


def test_the_command_prints_the_plan() -> None:
    path = PLANS / "tenant-best-bid.yaml"
    done = RUNNER.invoke(plan_cli.app, ["-f", str(path)])
    assert (done.exit_code, done.stdout) == (0, path.with_suffix(".plan.yaml").read_text())
    piped = RUNNER.invoke(plan_cli.app, ["-f", "-"], input=path.read_bytes())
    assert (piped.exit_code, piped.stdout) == (0, done.stdout)


@pytest.mark.parametrize(("name", "kind"), [("tenant-running", ObservedTenant), ("hosted-running", ObservedLease)])
def test_an_observation_can_be_written_down_and_planned_again(name: str, kind: type) -> None:
    raw = load((PLANS / f"{name}.yaml").read_text())
    observed = decode(kind, raw["observed"], "observed")
    again = load(document_of(observed))
    assert decode(kind, again["observed"], "observed") == observed
    assert as_yaml(plan_of(again)) == (PLANS / f"{name}.plan.yaml").read_text()


def change(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("kind: tenant", "kind: lease", "kind is 'lease'; tenant (a GPULease) or hosted (a HostedLease) is needed"),
        ("kind: tenant", "kind: tenant\npolicy: {retention_s: 1}", "policy belongs to kind hosted"),
        ("kind: tenant", "sort: tenant", "sort is not known; known are kind"),
        ("kind: tenant", "kind: [tenant", "no YAML"),
        ("kind: tenant", "kind: &k tenant\nabout: *k", "aliases (*) are not read here"),
        ("height: 1000", "height: soon", "observed.height is 'soon'; a whole number is needed"),
        ("height: 1000", "height: 1000.5", "observed.height is 1000.5; a whole number is needed"),
        ("height: 1000", "height: true", "observed.height is True; a whole number is needed"),
        ("height: 1000", "height: 99999999999999999999999", "no number the chain knows"),
        ("height: 1000", "hight: 1000", "observed.hight is not known; did you mean height?"),
        ("  height: 1000\n", "", "observed.height is missing; a whole number is needed"),
        ("bid_window_s: 30.0", "bid_window_s: .nan", "observed.wanted.bid_window_s is nan"),
        ("uid: uid-1", "uid:", "observed.uid is empty; text is needed"),
        ("akash1tenant/77\n", "akash1tenant\n", "observed.deployment_id: 'akash1tenant' is no such id; OWNER/DSEQ"),
        ("'50.000000000000000000'", "50.0", "observed.wanted.max_uact_per_block is 50.0; a decimal in quotes"),
        ("'50.000000000000000000'", "much", "observed.wanted.max_uact_per_block: 'much'"),
        ("manifest_hash: 0001", "manifest_hash: zz01", "observed.wanted.manifest_hash"),
        ("state: active", "state: asleep", "observed.deployment.value.state is 'asleep'; one of active, closed"),
        ("price: 60.0", "price: sixty", "observed.bids.value[0].price: 'sixty"),
        ("    groups: []", "    groups: {}", "observed.deployment.value.groups is {}; a list is needed"),
        ("  wallet:\n    address", "  wallet: x\n  uid_:\n    address", "observed.uid_ is not known"),
        ("  wallet:\n    address: akash1tenant", "  wallet: x", "observed.wallet is 'x'; a mapping is needed"),
        ("observed:\n", "observed: 1\nabout_:\n", "about_ is not known"),
    ],
)
def test_bad_input_gets_a_sentence_with_the_path(old: str, new: str, words: str) -> None:
    text = change((PLANS / "tenant-best-bid.yaml").read_text(), old, new)
    with pytest.raises(BadInput) as caught:
        plan_of(load(text))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "a: b: c", "\x00", "kind: tenant", "kind: hosted\nobserved: []", "- " * 5000]
)
def test_what_is_no_observation_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "observed.yaml"
    path.write_text(text)
    done = RUNNER.invoke(plan_cli.app, ["-f", str(path)])
    assert (done.exit_code, done.stderr.startswith("gpulease plan: ")) == (2, True)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = RUNNER.invoke(plan_cli.app, ["-f", str(tmp_path / "none.yaml")])
    assert (done.exit_code, "cannot be read" in done.stderr) == (2, True)
