"""Finding the bad messages of a batch that failed, without paying for the search.

A simulation costs no fee and fails where the real thing would, so the shortest failing prefix is found by bisecting:
its last entry is the culprit, also when it fails only because of one before it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import structlog

from gpulease.chain.outbox import MAX_FAILURES, Entry, halved, isolated
from gpulease.chain.rpc import Simulated
from gpulease.chain.verdicts import message_index
from gpulease.errors import ChainError, ChainUnreachable

log = structlog.get_logger(__name__)
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


async def examined(batch: Sequence[Entry], simulate: Simulate) -> list[Entry]:
    """A failed batch's entries, with what they may travel with from now on. ``ChainUnreachable``: ask again later."""
    try:
        bad = await worst_entries(batch, simulate)
    except ChainUnreachable:
        raise
    except ChainError as error:
        log.warning("a failed batch cannot be simulated, it is halved", error=str(error))
        return halved(batch)
    if bad or message_index(batch[0].log) is not None:
        # Where the log named one, that one is out already and there may be no other.
        return isolated(batch, bad)
    # It would succeed now. Should it go on failing, each message gets its own verdict.
    again = [replace(e, suspect="", failures=e.failures + 1) for e in batch]
    return [replace(e, most_with=1) if e.failures >= MAX_FAILURES - 1 else e for e in again]


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
