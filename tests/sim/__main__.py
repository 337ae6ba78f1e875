"""``python -m tests.sim``: play seeds, print what they counted, and the line that replays a failing one."""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections import Counter

from tests.sim.story import play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds from there")
    parser.add_argument("--days", type=float, default=3.0, help="simulated days per seed")
    parser.add_argument("--block-s", type=float, default=None, help="block time; by the seed otherwise")
    parser.add_argument("--log", action="store_true", help="print the operator's log")
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first failing seed")
    args = parser.parse_args()
    # A task that is cancelled before its first step leaves the query it was given unstarted.
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
    faults: Counter[str] = Counter()
    lease_days = days = 0.0
    leases = failed = 0
    began = time.process_time()
    for seed in range(args.seed, args.seed + args.seeds):
        result, world = play(seed, args.days, block_s=args.block_s, keep_log=args.log)
        if args.log:
            print("\n".join(world.log.lines))
        faults.update(result.faults)
        lease_days, days, leases = lease_days + result.lease_days, days + result.days, leases + result.leases
        if result.broken is not None:
            failed += 1
            block = f" BLOCK_S={args.block_s:g}" if args.block_s else ""
            print(f"seed {seed}: {result.broken}\nreplay: make sim SEED={seed} DAYS={args.days:g}{block}", flush=True)
            if not args.keep_going:
                break
    spent_s = time.process_time() - began
    print(
        f"{args.seeds} seeds, {days:g} days, {leases} leases, {lease_days:.0f} lease-days in {spent_s:.1f} CPU-s "
        f"({lease_days / max(spent_s, 0.01) * 60:.0f} lease-days per CPU-minute), {failed} failed"
    )
    print("faults: " + ", ".join(f"{name} {count}" for name, count in sorted(faults.items())))
    return 1 if failed else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets follows from the hash seed: a replay needs the same one.
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"}
        )
    sys.exit(main())
