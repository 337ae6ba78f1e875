"""Finding the bad messages of a batch that failed, without paying for the search.

A simulation costs no fee and fails where the real thing would, so the shortest failing prefix is found by bisecting:
its last entry is the culprit, also when it fails only because of one before it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from gpulease.chain.outbox import Entry
from gpulease.chain.rpc import Simulated
from gpulease.chain.verdicts import message_index

MOST_BAD = 32
"""So many bad ones are looked for at once; whoever is left over fails the next batch."""
Simulate = Callable[[Sequence[Entry]], Awaitable[Simulated]]


def first_entry(entries: Sequence[Entry], message: int) -> int:
    """Which entry holds the batch's message number ``message``; the last one when there are not so many."""
    passed = 0
    for index, entry in enumerate(entries):
        passed += len(entry.intent.messages)
        if message < passed:
            return index
    return len(entries) - 1


async def worst_entries(entries: Sequence[Entry], simulate: Simulate) -> list[int]:
    """Indices of entries without which the rest would succeed now; empty when all of them would."""
    bad: list[int] = []
    while len(bad) < MOST_BAD:
        left = [i for i in range(len(entries)) if i not in bad]
        if not left:
            break
        found = await _first_bad([entries[i] for i in left], simulate)
        if found is None:
            break
        bad.append(left[found])
    return bad


async def _first_bad(entries: Sequence[Entry], simulate: Simulate) -> int | None:
    whole = await simulate(entries)
    if whole.problem is None:
        return None
    named = message_index(whole.problem)
    if named is not None:
        return first_entry(entries, named)
    good, failing = 0, len(entries)
    while failing - good > 1:
        middle = (good + failing) // 2
        if (await simulate(entries[:middle])).problem is None:
            good = middle
        else:
            failing = middle
    return failing - 1
