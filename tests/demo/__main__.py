"""``python -m tests.demo [up|down]``: what ``make demo`` and ``make demo-down`` run.

Exit status: 0 all of the story was seen; 1 a step failed; 2 it could not begin; 3 seen, without the parts that the
user's own cluster lacks; 130 and 143 interrupted. The machine is left as it was in every case.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console

from tests.demo import books, report
from tests.demo.figures import figures
from tests.demo.machine import machine_steps
from tests.demo.model import Reporter, Step, StepFailed, run_steps
from tests.demo.own import Lack, OwnCluster, state_dir
from tests.demo.signals import Interrupted, interruptible, shield
from tests.demo.story import Story
from tests.demo.table import LiveTable, PlainLines, span
from tests.rig.cluster import Rig
from tests.rig.config import default_state_dir
from tests.rig.errors import RigError
from tests.rig.stack import Json, OnRig, Ports, Stack, StackCluster

_PORT_WORDS = "DEMO_PORTS=rpc=26657,grpc=9090,rest=1317,gateway=8443,… make demo"


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the story plays: the cluster, the steps before it, what was left out, how to clean up, where logs end."""

    cluster: StackCluster
    before: Callable[[Callable[[], Reporter]], list[Step]]
    lacks: Sequence[Lack]
    clean: Callable[[], None]
    logs_after: Path
    up_s: Callable[[], float | None]
    change_lease: Callable[[Json], None] | None = None


def on_machine() -> Stage:
    if os.geteuid() != 0:
        raise RigError(
            "make demo starts a Kubernetes on this machine and needs root for it: run it as root, or set "
            "KUBECONFIG to use a cluster of yours"
        )
    rig = Rig()
    rig.clear()
    logs = rig.state_dir.with_name(rig.state_dir.name + "-last-logs")
    return Stage(OnRig(rig), lambda reporter: machine_steps(rig, reporter), (), rig.down, logs, lambda: rig.warm_s)


def on_own(out: TextIO) -> Stage:
    cluster = OwnCluster(os.environ)
    cluster.clean()  # what an aborted run left
    lacks = cluster.prepare()
    if lacks:
        print(f"{cluster.name} lacks:", file=out)
    for lack in lacks:
        skips = f" (left out: {', '.join(lack.skips)})" if lack.skips else ""
        print(f"  - {lack.words}{skips}", file=out, flush=True)
    if any(lack.fatal for lack in lacks):
        cluster.clean()
        raise RigError("the story cannot be told on this cluster before the above is there")

    def change(body: Json) -> None:
        (service,) = body["spec"]["services"]
        service["image"] = cluster.image or service["image"]
        service["resources"]["gpu"]["models"] = [{"model": cluster.gpu_model}]

    return Stage(cluster, lambda _: [], lacks, cluster.clean, cluster.log_dir, lambda: None, change)


def ports() -> Ports:
    """The defaults, or what ``DEMO_PORTS`` says; a sentence where one is taken."""
    wanted: dict[str, int] = {}
    for part in filter(None, os.environ.get("DEMO_PORTS", "").split(",")):
        name, _, number = part.partition("=")
        if name not in Ports.__slots__ or not number.isdecimal():
            raise RigError(f"DEMO_PORTS: {part!r} is not one of {', '.join(Ports.__slots__)} with =NUMBER")
        wanted[name] = int(number)
    found = Ports(**wanted)
    taken = ", ".join(f"{port} ({name})" for name, port in found.taken().items())
    if taken:
        raise RigError(
            f"on 127.0.0.1 somebody listens already on port {taken}: end that program, or choose others, "
            f"for example {_PORT_WORDS}"
        )
    return found


def tell(stage: Stage, stack: Stack, console: Console, began_s: float) -> int:
    reporter: LiveTable | PlainLines
    story = Story(stack, change_lease=stage.change_lease, waiting=lambda words: reporter.waiting(words))
    steps = [*stage.before(lambda: reporter), *story.setup(), *story.lease(), *story.close()]
    left_out = [title for lack in stage.lacks for title in lack.skips]
    steps = [step for step in steps if step.title not in left_out]

    def height() -> int | None:
        with suppress(RigError):
            return stack.chain.height() if "devnet" in stack.processes else None
        return None

    reporter = LiveTable(console, steps, height=height) if console.is_terminal else PlainLines(sys.stdout)
    try:
        with reporter:
            run_steps(steps, reporter, height=height, now_s=time.time)
    except StepFailed as failed:
        log = _log_of(stack, failed.step.part)
        report.failure(console, failed, log=log, logs=stage.logs_after)
        _money_and_figures(stage, story, console, whole=False)
        return 1
    _money_and_figures(stage, story, console, whole=True)
    console.print(f"\nThe whole story in {span(time.time() - began_s)}. Logs: {stage.logs_after}")
    if left_out:
        console.print(f"Not shown, since the cluster lacks it: {', '.join(left_out)}")
        return 3
    return 0


def _log_of(stack: Stack, part: str) -> Path | None:
    own = stack.log(part)
    return own if own.exists() else stack.cluster.log_dir / f"{part}.log"


def _money_and_figures(stage: Stage, story: Story, console: Console, *, whole: bool) -> None:
    if whole:
        report.money(console, books.rows(story.stack, story.facts.before, since=story.facts.since))
    with suppress(RigError, OSError):
        found = figures(story, up_s=stage.up_s() or None)
        if found:
            report.numbers(console, found)


def up() -> int:
    began_s = time.time()
    out = sys.stdout
    console = Console(file=out, highlight=False, width=None if out.isatty() else 120)
    stage: Stage | None = None
    stack: Stack | None = None
    try:
        with interruptible():
            try:
                down(quiet=True)
                stage = on_own(out) if os.environ.get("KUBECONFIG") else on_machine()
                stack = Stack(stage.cluster, ports=ports())
                return tell(stage, stack, console, began_s)
            except Interrupted as signal:
                console.print(f"\n{signal}: stopping")
                return signal.exit_code
            finally:
                shield()
                if stage is not None and stack is not None:
                    clean(stage, stack, console)
    except RigError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2


def clean(stage: Stage, stack: Stack, console: Console) -> None:
    began_s = time.time()
    console.print("cleaning up …")
    stack.down()
    stage.clean()
    console.print(f"cleaned up in {span(time.time() - began_s)}; nothing of the demo is left running")


def down(*, quiet: bool = False) -> int:
    """What an aborted run left: on this machine, and in the cluster that it used."""
    cleaned = state_dir().joinpath("kubeconfig").exists()
    if cleaned:
        OwnCluster({}).clean()
    if quiet:
        return 0
    if default_state_dir().exists():
        try:
            Rig().clear()
        except RigError as error:  # somebody uses it now
            if not cleaned:
                raise
            print(f"demo: left alone: {error}")
    shutil.rmtree(state_dir(), ignore_errors=True)
    print("demo: nothing of it is left")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("command", choices=["up", "down"], nargs="?", default="up")
    try:
        return up() if parser.parse_args().command == "up" else down()
    except RigError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
