"""Which intents travel together: like with like, within limits, at most one settlement per account and block.

Settling one deployment account twice in a block panics, or leaves a closed lease's payment open (reference §3.4), so
messages that settle the same account never are under way at the same time. Bids go alone by default: one that is
refused must not cost the others a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.chain.fees import gas_limit
from gpulease.chain.outbox import Entry, State
from gpulease.pb.akash.deployment.v1beta4 import deploymentmsg_pb2, groupmsg_pb2
from gpulease.pb.akash.market.v1beta5 import bidmsg_pb2, leasemsg_pb2

from cosmos.authz.v1beta1 import tx_pb2 as authz_tx

EXEC = "/cosmos.authz.v1beta1.MsgExec"
WITHDRAW = "/akash.market.v1beta5.MsgWithdrawLease"
_SETTLING: dict[str, Any] = {
    WITHDRAW: leasemsg_pb2.MsgWithdrawLease,
    "/akash.market.v1beta5.MsgCloseLease": leasemsg_pb2.MsgCloseLease,
    "/akash.market.v1beta5.MsgCloseBid": bidmsg_pb2.MsgCloseBid,
    "/akash.deployment.v1beta4.MsgCloseDeployment": deploymentmsg_pb2.MsgCloseDeployment,
    "/akash.deployment.v1beta4.MsgCloseGroup": groupmsg_pb2.MsgCloseGroup,
    "/akash.deployment.v1beta4.MsgPauseGroup": groupmsg_pb2.MsgPauseGroup,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one transaction. Bytes are those of its messages; the chain takes transactions of up to 1 MiB."""

    messages: int = 100
    bytes: int = 100_000
    gas: int = 80_000_000


ALONE = Limits(messages=1)
DEFAULT_LIMITS: Mapping[str, Limits] = {
    WITHDRAW: Limits(),
    "/akash.market.v1beta5.MsgCloseBid": Limits(messages=20),
    "/akash.escrow.v1.MsgAccountDeposit": Limits(),
    "/cosmos.bank.v1beta1.MsgSend": Limits(),
}
"""By message kind; kinds that are not named go alone."""


def kinds_of(messages: Iterable[tuple[str, bytes]]) -> tuple[str, ...]:
    """Type URLs of what really runs: an authz execution counts as what it executes."""
    found: list[str] = []
    for url, value in messages:
        if url == EXEC:
            found += [inner.type_url for inner in authz_tx.MsgExec.FromString(value).msgs]
        else:
            found.append(url)
    return tuple(found)


def accounts_of(messages: Iterable[tuple[str, bytes]]) -> frozenset[str]:
    """Deployment accounts ("owner/dseq") that these messages settle."""
    found: set[str] = set()
    for url, value in messages:
        if url == EXEC:
            inner = authz_tx.MsgExec.FromString(value).msgs
            found |= accounts_of((m.type_url, m.value) for m in inner)
        elif url in _SETTLING:
            id_ = _SETTLING[url].FromString(value).id
            found.add(f"{id_.owner}/{id_.dseq}")
    return frozenset(found)


@dataclass(slots=True)
class _Growing:
    entries: list[Entry]
    limits: Limits
    kinds: list[str]
    size: int

    def takes(self, entry: Entry, kinds: tuple[str, ...], size: int, learned: Mapping[str, int]) -> bool:
        most = min(self.limits.messages, *(e.most_with or self.limits.messages for e in (*self.entries, entry)))
        return (
            len(self.kinds) + len(kinds) <= most
            and self.size + size <= self.limits.bytes
            and gas_limit([*self.kinds, *kinds], learned) <= self.limits.gas
        )


def batches(
    entries: Iterable[Entry],
    *,
    chain_time_ns: int,
    learned: Mapping[str, int],
    limits: Mapping[str, Limits] = DEFAULT_LIMITS,
) -> list[list[Entry]]:
    """Transactions to sign now, most urgent first, from a signer's open entries."""
    everything = list(entries)
    busy: set[str] = set()
    for entry in everything:
        if entry.state in (State.SIGNED, State.SENT):
            busy |= accounts_of(entry.intent.messages)
    ready = [e for e in everything if e.state is State.PLANNED and not e.suspect and e.not_before_ns <= chain_time_ns]
    ready.sort(key=lambda e: (e.intent.priority.value, e.created_ns, e.intent.key))
    found: list[_Growing] = []
    growing: dict[object, _Growing] = {}
    for entry in ready:
        accounts = accounts_of(entry.intent.messages)
        if accounts & busy:
            continue
        busy |= accounts
        kinds = kinds_of(entry.intent.messages)
        size = sum(len(value) for _, value in entry.intent.messages)
        group = (kinds[:1], len(set(kinds)) == 1, entry.intent.priority, entry.intent.memo, entry.most_with)
        current = growing.get(group)
        if current is not None and current.takes(entry, kinds, size, learned):
            current.entries.append(entry)
            current.kinds += kinds
            current.size += size
            continue
        own = limits.get(kinds[0], ALONE) if len(set(kinds)) == 1 else ALONE
        growing[group] = _Growing([entry], own, list(kinds), size)
        found.append(growing[group])
    return [batch.entries for batch in found]
