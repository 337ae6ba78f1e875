"""Feeds a recording of the real chain to the state machine and compares everything that can be seen.

Same genesis, same bytes, same heights and times in; codes, events, logs, REST answers, balances and refusals out.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from gpulease.devnet import addresses, genesis, routes
from gpulease.devnet.chain import Devnet, TxResult, tx_hash
from gpulease.devnet.context import Event
from gpulease.devnet.exemptions import is_exempt, is_exempt_end_event, paid_its_fee, same_refusal
from gpulease.errors import GpuleaseError

SHOWN_PER_KIND = 10
FILES = ("genesis.json", "accounts.json", "blocks.jsonl.gz", "state.jsonl.gz", "rejects.json")
KINDS = ("code", "data", "events", "log", "end events", "answer", "balance", "refusal")


@dataclass
class Tally:
    """How one kind of answer compared."""

    compared: int = 0
    equal: int = 0
    differences: list[str] = field(default_factory=list)

    def note(self, same: bool, words: str) -> None:
        self.compared += 1
        if same:
            self.equal += 1
        elif len(self.differences) < SHOWN_PER_KIND:
            self.differences.append(words)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") as stream:
        for line in stream:
            yield json.loads(line)


def _log(text: str) -> str:
    """The message part: Go's wrapping (stack traces) starts on a new line."""
    return text.split("\n")[0].strip()


class BadRecording(GpuleaseError):
    """A folder that holds no recording, or one that cannot be read."""


def run(folder: Path) -> dict[str, Tally]:
    """Replay one recording; tallies by kind. ``BadRecording`` where there is none to read."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise BadRecording(f"{folder} holds no recording: {', '.join(missing)} missing")
    try:
        return _replayed(folder)
    except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise BadRecording(f"{folder}: a recording that cannot be read: {type(error).__name__}: {error}") from error


def _replayed(folder: Path) -> dict[str, Tally]:
    chain = Devnet.from_genesis(json.loads((folder / "genesis.json").read_text()))
    people = {name: entry["address"] for name, entry in json.loads((folder / "accounts.json").read_text()).items()}
    states = {entry["height"]: entry for entry in _lines(folder / "state.jsonl.gz")}
    rejects: dict[int, list[dict[str, Any]]] = {}
    for entry in json.loads((folder / "rejects.json").read_text()):
        rejects.setdefault(entry["seen_height"], []).append(entry)
    tallies = {kind: Tally() for kind in KINDS}
    for block in _lines(folder / "blocks.jsonl.gz"):
        height = block["height"]
        if height != chain.height + 1:
            raise BadRecording(f"{folder}: the recording jumps from height {chain.height} to {height}")
        exempt = [tx for tx in block["txs"] if is_exempt(tx)]
        result = chain.apply_block(
            [base64.b64decode(tx["tx"]) for tx in block["txs"]],
            time_ns=genesis.time_ns(block["time"]),
            out_of_gas=_hashes(exempt),
            unpaid=_hashes([tx for tx in exempt if not paid_its_fee(tx)]),
        )
        for tx, (_, ours) in zip(block["txs"], result.txs, strict=True):
            _compare_tx(tallies, height, tx, ours)
        if "end_events" in block:
            _compare_end(tallies["end events"], height, block["end_events"], result.end_events)
        if height in states:
            _compare_state(tallies, chain, states[height], people)
        for reject in rejects.get(height, ()):
            _compare_reject(tallies["refusal"], chain, reject)
    return tallies


def _hashes(txs: list[dict[str, Any]]) -> frozenset[bytes]:
    return frozenset(tx_hash(base64.b64decode(tx["tx"])) for tx in txs)


def _said(ours: TxResult) -> str:
    return f"{ours.codespace}/{ours.code} {ours.log!r}"


def _compare_tx(tallies: dict[str, Tally], height: int, tx: dict[str, Any], ours: TxResult) -> None:
    where = f"height {height} ({tx['label']})"
    if is_exempt(tx):
        return
    same = (tx["code"], tx["codespace"]) == (ours.code, ours.codespace)
    words = f"{where}: {tx['codespace']}/{tx['code']} {_log(tx['log'])!r}, ours {_said(ours)}"
    tallies["code"].note(same, words)
    if tx["code"] != 0:
        tallies["log"].note(_log(tx["log"]) == _log(ours.log), f"{where}: {_log(tx['log'])!r}, ours {ours.log!r}")
        return
    data = base64.b64decode(tx["data"] or "")
    tallies["data"].note(data == ours.data, f"{where}: {data!r}, ours {ours.data!r}")
    theirs = [_flat(e) for e in tx["events"]]
    mine = [(e.type, e.attributes) for e in ours.events]
    tallies["events"].note(theirs == mine, f"{where}: {_first_difference(theirs, mine)}")


def _flat(event: dict[str, Any]) -> tuple[str, tuple[tuple[str, str], ...]]:
    return event["type"], tuple((a["key"], a["value"]) for a in event["attributes"])


def _compare_end(tally: Tally, height: int, recorded: list[dict[str, Any]], ours: tuple[Event, ...]) -> None:
    theirs = [_flat(e) for e in recorded if not is_exempt_end_event(e)]
    mine = [(e.type, e.attributes) for e in ours]
    tally.note(theirs == mine, f"height {height}: {_first_difference(theirs, mine)}")


def _first_difference(theirs: list[Any], mine: list[Any]) -> str:
    for index in range(max(len(theirs), len(mine))):
        left = theirs[index] if index < len(theirs) else None
        right = mine[index] if index < len(mine) else None
        if left != right:
            return f"event {index}: {left}, ours {right}"
    return "no difference"


def _compare_state(tallies: dict[str, Tally], chain: Devnet, state: dict[str, Any], people: dict[str, str]) -> None:
    for path, answer in state["answers"].items():
        parts = urlsplit(path)
        status, body = routes.answer(chain, parts.path, parse_qsl(parts.query, keep_blank_values=True))
        same = status == answer["status"] and body == answer["body"]
        shown = "" if same else f"height {state['height']} {path}: {_json_difference(answer['body'], body)}"
        tallies["answer"].note(same, shown)
    for name, coins in state["balances"].items():
        address = addresses.module(name.removeprefix("module:")) if name.startswith("module:") else people[name]
        ours = {c.denom: str(c.amount) for c in chain_balances(chain, address)}
        wanted = {d: a for d, a in coins.items() if a != "0"}
        tallies["balance"].note(ours == wanted, f"height {state['height']} {name}: {wanted}, ours {ours}")


def chain_balances(chain: Devnet, address: str) -> list[Any]:
    from gpulease.devnet import bank

    return bank.balances(chain.context(), address)


def _json_difference(theirs: Any, ours: Any, at: str = "") -> str:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            if theirs.get(key, "absent") != ours.get(key, "absent"):
                return _json_difference(theirs.get(key, "absent"), ours.get(key, "absent"), f"{at}.{key}")
    if isinstance(theirs, list) and isinstance(ours, list):
        for index, (left, right) in enumerate(zip(theirs, ours, strict=False)):
            if left != right:
                return _json_difference(left, right, f"{at}[{index}]")
        return f"{at}: {len(theirs)} items, ours {len(ours)}"
    return f"{at}: {theirs!r}, ours {ours!r}"


def _compare_reject(tally: Tally, chain: Devnet, reject: dict[str, Any]) -> None:
    check = reject["check"]
    ours = chain.add_to_mempool(base64.b64decode(reject["tx"]))
    chain.forget_waiting()
    same = same_refusal(check, ours)
    tally.note(
        same,
        f"height {reject['seen_height']} ({reject['label']}): {check}, ours {_said(ours)}",
    )


def report(tallies: dict[str, Tally]) -> tuple[str, bool]:
    """The table as text, and whether everything was equal."""
    lines = [f"{'kind':<12}{'compared':>10}{'equal':>10}"]
    for kind, tally in tallies.items():
        lines.append(f"{kind:<12}{tally.compared:>10}{tally.equal:>10}")
    for kind, tally in tallies.items():
        lines += [f"  {kind}: {words}" for words in tally.differences]
    wrong, compared = counts([tallies])
    lines.append(verdict(wrong, compared))
    return "\n".join(lines), wrong == 0


def counts(replays: Iterable[dict[str, Tally]]) -> tuple[int, int]:
    """(different, compared) over several replays."""
    tallies = [tally for found in replays for tally in found.values()]
    compared = sum(t.compared for t in tallies)
    return compared - sum(t.equal for t in tallies), compared


def verdict(wrong: int, compared: int) -> str:
    return f"mismatches {wrong} of {compared}"
