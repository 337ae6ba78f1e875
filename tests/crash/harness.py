"""Kill -9 before and after every effect, one at a time and in pairs; run as ``python -m tests.crash.harness``.

This process holds the chain. For each run it forks one life of the operator after another; a life works through the
intents against the chain over a socket and its own store on disk, and kills itself at the point it was told. The chain
does not notice. When a life comes to its end, the chain is asked what happened.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import pickle
import random
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from gpulease.chain.broadcaster import Broadcaster
from gpulease.chain.reader import BlockReader
from gpulease.errors import GpuleaseError
from gpulease.runtime.outbox import JournalOutbox
from gpulease.store.journal import Journal
from gpulease.units import Dec
from tests.crash.workload import World, intents, problems, world
from tests.fakes.lease_chain import CHAIN_ID, PROVIDER
from tests.fakes.stepchain import StepChain, StepClock

BEFORE, AFTER = 0, 1
Point = tuple[int, int]
"""The how-manieth effect of a life, and on which side of it."""
MOST_STEPS = 150
MOST_LIVES = 4


class Fuse:
    """Counts effects and ends the process at one of them."""

    def __init__(self, point: Point | None) -> None:
        self._point = point
        self.effects: list[str] = []

    def before(self, name: str) -> None:
        self.effects.append(name)
        if self._point == (len(self.effects), BEFORE):
            os.kill(os.getpid(), signal.SIGKILL)

    def after(self, name: str) -> None:
        if self._point == (len(self.effects), AFTER):
            os.kill(os.getpid(), signal.SIGKILL)


class MortalJournal(Journal):
    """The real store; its commits are effects."""

    def __init__(self, path: Path, fuse: Fuse) -> None:
        self._fuse = fuse
        super().__init__(path)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        if self._db.in_transaction:
            yield
            return
        with super().transaction():
            yield
            self._fuse.before("commit")
        self._fuse.after("commit")


class Wire:
    """Pickled frames over a socket: method and arguments one way, the answer or its error the other."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, body: Any) -> None:
        raw = pickle.dumps(body)
        self._sock.sendall(struct.pack("!I", len(raw)) + raw)

    def receive(self) -> Any:
        """None when the other side is gone."""
        head = self._exactly(4)
        raw = self._exactly(struct.unpack("!I", head)[0]) if head else None
        return pickle.loads(raw) if raw else None

    def _exactly(self, count: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < count:
            part = self._sock.recv(count - len(parts))
            if not part:
                return None
            parts += part
        return bytes(parts)


class Remote:
    """The chain client of a life: each call is an effect, carried out by the process that holds the chain."""

    def __init__(self, wire: Wire, fuse: Fuse) -> None:
        self._wire, self._fuse = wire, fuse
        self.floor_height = 0
        self.chain_id = CHAIN_ID
        self.earliest_height = 1

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **named: Any) -> Any:
            self._fuse.before(name)
            self._wire.send((name, args, named))
            answer = self._wire.receive()
            self._fuse.after(name)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


async def live(wire: Wire, store: Path, point: Point | None, work: World) -> None:
    """One life, from start to the moment when nothing is left to do."""
    fuse = Fuse(point)
    journal = MortalJournal(store, fuse)
    client, clock = Remote(wire, fuse), StepClock()
    broadcaster = Broadcaster(
        client=client,  # type: ignore[arg-type]
        outbox=JournalOutbox(journal),
        signer=PROVIDER,
        clock=clock,
        chain_time_ns=lambda: reader.tip.time_ns,
        gas_price_uakt=Dec.of("0.025"),
        lifetime_s=8.0,
    )

    def load() -> int | None:
        body = journal.get("cursor", CHAIN_ID)
        return None if body is None else int(body["height"])

    async def nothing(_: int) -> None:
        return None

    reader = BlockReader(
        client,  # type: ignore[arg-type]
        clock=clock,
        load_cursor=load,
        save_cursor=lambda height: journal.put("cursor", CHAIN_ID, {"height": height}, is_open=False),
        on_block=broadcaster.on_block,
        on_resync=nothing,
    )
    await reader.step()
    await broadcaster.recover()
    wanted = intents(work)
    for intent in wanted:
        broadcaster.submit(intent)
    for _ in range(MOST_STEPS):
        await broadcaster.step()
        await reader.step()
        entries = [broadcaster.outcome(intent.key) for intent in wanted]
        if all(entry is not None and entry.state.final for entry in entries):
            wire.send(("over", (fuse.effects, entries, JournalOutbox(journal).outbox_purse(PROVIDER.address)), {}))
            return


def serve(wire: Wire, client: StepChain, work: World) -> Any:
    """Answer one life until it ends; what it said last, or None when it died."""
    while (request := wire.receive()) is not None:
        name, args, named = request
        if name == "over":
            return args
        if name == "status":
            # Time passes while the operator polls: a block with whatever waits.
            work.chain.block()
        try:
            getattr(client, name)(*args, **named).send(None)
        except StopIteration as done:
            answer = done.value
        except GpuleaseError as error:
            answer = error
        try:
            wire.send(answer)
        except OSError:
            return None
    return None


def one_run(work: World, genesis: bytes, points: list[Point], template: Path) -> dict[str, Any]:
    """Lives that end at the given points, then one that does not; what the chain says of them all."""
    work.chain.chain.restore(genesis)
    start = work.chain.chain.height
    client = StepChain(work.chain.chain)
    with tempfile.TemporaryDirectory(dir=template.parent) as folder:
        store = Path(folder) / "store.db"
        shutil.copy(template, store)
        died, over = 0, None
        for point in [*points, *[None] * MOST_LIVES]:
            ours, theirs = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                ours.close()
                asyncio.run(live(Wire(theirs), store, point, work))
                os._exit(0)
            theirs.close()
            over = serve(Wire(ours), client, work)
            ours.close()
            _, status = os.waitpid(pid, 0)
            died += os.WIFSIGNALED(status)
            if over is not None:
                break
        if over is None:
            return {"problems": ["no life came to its end"], "died": died, "effects": []}
        effects, entries, purse = over
        return {"problems": problems(work, start, entries, purse), "died": died, "effects": effects}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", type=int, default=0, help="of the points, this one of so many equal parts")
    parser.add_argument("--parts", type=int, default=1)
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    began = time.monotonic()
    work = world()
    genesis = work.chain.chain.snapshot()
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        template = Path(folder) / "empty.db"
        Journal(template).close()
        calm = one_run(work, genesis, [], template)
        effects: list[str] = calm["effects"]
        points = [(i + 1, side) for i in range(len(effects)) for side in (BEFORE, AFTER)]
        failures = [("calm", p) for p in calm["problems"]]
        singles = 0
        for point in points[args.part :: args.parts]:
            result = one_run(work, genesis, [point], template)
            singles += result["died"] == 1
            failures += [(str(point), problem) for problem in result["problems"]]
        draw = random.Random(args.seed * args.parts + args.part)
        pairs = tries = 0
        while pairs < args.pairs and tries < 3 * args.pairs:
            # A second life has less to do than the first: a pair counts when it came to both deaths.
            plan = [draw.choice(points), draw.choice(points[: len(points) * 3 // 4])]
            result = one_run(work, genesis, plan, template)
            tries += 1
            pairs += result["died"] == 2
            failures += [(str(plan), problem) for problem in result["problems"]]
    report = {
        "points": len(points),
        "kinds": dict(Counter(effects)),
        "singles": singles,
        "pairs": pairs,
        "runs": 1 + len(points[args.part :: args.parts]) + tries,
        "seed": args.seed,
        "seconds": round(time.monotonic() - began, 1),
        "failures": failures[:20],
        "failed": len(failures),
    }
    print(json.dumps(report))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
