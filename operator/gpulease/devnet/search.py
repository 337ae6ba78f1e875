"""The subset of CometBFT's query language that clients use: conditions joined by AND."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gpulease.devnet.chain import BlockResult, Devnet, tx_hash
from gpulease.devnet.context import Event

_CONDITION = re.compile(r"^\s*([\w.\-/]+)\s*(=|<=|>=|<|>|CONTAINS|EXISTS)\s*('(?:[^']*)'|[\w.\-:/]*)\s*$")
_EXPECTED = "wanted <= operator, >= operator, < operator, > operator, = operator, CONTAINS operator or EXISTS operator"
Condition = tuple[str, str, str]


def parse(query: str) -> list[Condition]:
    """Conditions as (key, operator, value); ``ValueError`` with CometBFT's kind of text otherwise."""
    conditions = []
    for part in re.split(r"\s+AND\s+", query):
        match = _CONDITION.match(part)
        if match is None:
            word = re.match(r"\s*[\w.\-/]+\s+", part)
            raise ValueError(f"offset {word.end() if word else 0}: got tag, {_EXPECTED}")
        key, operator, value = match.groups()
        if operator != "EXISTS" and value == "":
            raise ValueError(f"offset {len(part)}: got end of query, wanted a value")
        conditions.append((key, operator, value.strip("'")))
    return conditions


def _compare(have: str, operator: str, want: str) -> bool:
    if operator == "=":
        return have == want
    if operator == "CONTAINS":
        return want in have
    if operator == "EXISTS":
        return True
    try:
        left, right = int(have), int(want)
    except ValueError:
        return False
    return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator]


def tx_facts(block: BlockResult, index: int) -> dict[str, list[str]]:
    """What one transaction is found by: the reserved keys, and every attribute of its events."""
    raw, result = block.txs[index]
    facts = {"tm.event": ["Tx"], "tx.height": [str(block.height)], "tx.hash": [tx_hash(raw).hex().upper()]}
    return _with_events(facts, result.events)


def block_facts(block: BlockResult, kind: str) -> dict[str, list[str]]:
    return _with_events({"tm.event": [kind], "block.height": [str(block.height)]}, block.end_events)


def _with_events(facts: dict[str, list[str]], events: Sequence[Event]) -> dict[str, list[str]]:
    for event in events:
        for key, value in event.attributes:
            facts.setdefault(f"{event.type}.{key}", []).append(value)
    return facts


def holds(facts: Mapping[str, Sequence[str]], conditions: list[Condition]) -> bool:
    """Whether every condition is met by one of its key's values."""
    return all(any(_compare(have, op, want) for have in facts.get(key, ())) for key, op, want in conditions)


def matching_txs(chain: Devnet, query: str) -> list[tuple[BlockResult, int]]:
    """Transactions in kept blocks, oldest first."""
    conditions = parse(query)
    wanted = next((v for k, op, v in conditions if k == "tx.hash" and op == "="), None)
    if wanted is not None:
        place = chain.tx(bytes.fromhex(wanted)) if re.fullmatch(r"([0-9A-Fa-f]{2})+", wanted) else None
        return [place] if place is not None else []
    exact = next((int(v) for k, op, v in conditions if k == "tx.height" and op == "=" and v.isdecimal()), None)
    heights = [exact] if exact is not None else range(max(chain.earliest_height, 1), chain.height + 1)
    found = []
    for height in heights:
        block = chain.block(height)
        if block is None:
            continue
        found += [(block, index) for index in range(len(block.txs)) if holds(tx_facts(block, index), conditions)]
    return found
