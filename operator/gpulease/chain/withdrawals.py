"""What the chain holds of one lease, through one node's RPC alone: the lease, and its withdraw transactions.

Made for somebody who has nothing but an RPC address: no gRPC, no store. Withdrawals are found by the node's index of
transactions; a node without one is read block by block.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import DecodeError

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.chain import codec
from gpulease.chain.rpc import RpcEndpoint, time_ns_of
from gpulease.chain.tx import tx_hash
from gpulease.errors import ChainError, ChainPruned, ChainUnreachable
from gpulease.ids import LeaseId
from gpulease.market.model import Lease
from gpulease.meter.verify import Withdrawal
from gpulease.pb.akash.market.v1beta5 import leasemsg_pb2
from gpulease.pb.akash.market.v1beta5 import query_pb2 as market_query
from gpulease.units import NS_PER_S

from cosmos.authz.v1beta1 import tx_pb2 as authz_tx
from cosmos.tx.v1beta1 import tx_pb2

PAGE = 100
MAX_PAGES = 500
MAX_WALK_BLOCKS = 50_000
_WALKERS = 8
_NS_PER_MS = NS_PER_S // 1000
_WITHDRAW = "/akash.market.v1beta5.MsgWithdrawLease"
_EXEC = "/cosmos.authz.v1beta1.MsgExec"
_MOST_NESTED = 4
_NO_LEASE = ("not found", "notfound", "unknown lease")


async def lease_by_rpc(rpc: RpcEndpoint, id_: LeaseId) -> Lease | None:
    """None is the node's positive "no such lease"."""
    request = market_query.QueryLeaseRequest(id=codec.pb_lease_id(id_)).SerializeToString()
    answer = await rpc.call("abci_query", path="/akash.market.v1beta5.Query/Lease", data=request.hex(), prove=False)
    try:
        response = answer["response"]
        code, log = int(response.get("code") or 0), str(response.get("log") or "")
        if code:
            if any(words in log.lower() for words in _NO_LEASE):
                return None
            raise ChainError(f"{rpc.url} cannot say what it knows of lease {id_}: {log} (code {code})")
        found = market_query.QueryLeaseResponse.FromString(base64.b64decode(response["value"] or ""))
        return codec.lease(found)
    except (DecodeError, KeyError, TypeError, ValueError) as error:
        raise ChainUnreachable(f"{rpc.url} sent a lease that cannot be read: {error}") from error


async def time_ms_at(rpc: RpcEndpoint, height: int) -> int | None:
    """A block's time; None where the node no longer keeps it."""
    try:
        answer = await rpc.call("header", height=str(height))
        return time_ns_of(answer["header"]["time"]) // _NS_PER_MS
    except ChainError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise ChainUnreachable(f"{rpc.url} sent a header that cannot be read: {error}") from error


async def withdrawals(rpc: RpcEndpoint, lease: LeaseId, *, first: int, last: int) -> list[Withdrawal]:
    """Successful withdrawals in blocks ``first`` to ``last``, oldest first.

    ``ChainError`` when that is more than a node can be asked for; ``ChainUnreachable`` for silence.
    """
    span = f"tx.height>={first} AND tx.height<={last}"
    queries = (
        f"message.action='{_WITHDRAW}' AND message.sender='{lease.provider}' AND {span}",
        # By authz another account signs: such a withdrawal is known by where its money goes.
        f"message.action='{_EXEC}' AND transfer.recipient='{lease.provider}' AND {span}",
    )
    try:
        found = [one for query in queries for one in await _search(rpc, query, lease)]
    except ChainError as error:
        if "indexing is disabled" not in str(error):
            raise
        found = await _walk(rpc, lease, first, last)
    return sorted({one.tx: one for one in found}.values(), key=lambda one: (one.height, one.tx))


async def _search(rpc: RpcEndpoint, query: str, lease: LeaseId) -> list[Withdrawal]:
    found: list[Withdrawal] = []
    for page in range(1, MAX_PAGES + 1):
        answer = await rpc.call(
            "tx_search", query=query, prove=False, page=str(page), per_page=str(PAGE), order_by="asc"
        )
        try:
            for entry in answer["txs"]:
                if int(entry["tx_result"].get("code") or 0) == 0:
                    found += _withdrawal(base64.b64decode(entry["tx"]), int(entry["height"]), lease)
            if page * PAGE >= int(answer["total_count"]):
                return found
        except (KeyError, TypeError, ValueError) as error:
            raise ChainUnreachable(f"{rpc.url} sent transactions that cannot be read: {error}") from error
    raise ChainError(f"the provider has more than {MAX_PAGES * PAGE} withdrawals in the lease's time")


async def _walk(rpc: RpcEndpoint, lease: LeaseId, first: int, last: int) -> list[Withdrawal]:
    if last - first >= MAX_WALK_BLOCKS:
        raise ChainError(
            f"{rpc.url} keeps no index of transactions, and the lease's {last - first + 1} blocks are more than are "
            f"read one by one ({MAX_WALK_BLOCKS}); name a node with an index"
        )
    found: list[Withdrawal] = []
    heights = iter(range(first, last + 1))

    async def walker() -> None:
        for height in heights:
            found.extend(await _in_block(rpc, height, lease))

    tasks = [asyncio.create_task(walker()) for _ in range(_WALKERS)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return found


async def _in_block(rpc: RpcEndpoint, height: int, lease: LeaseId) -> list[Withdrawal]:
    try:
        block = await rpc.call("block", height=str(height))
        raw_txs = [base64.b64decode(text) for text in block["block"]["data"]["txs"] or ()]
        found = [(index, one) for index, raw in enumerate(raw_txs) for one in _withdrawal(raw, height, lease)]
        if not found:
            return []
        results = await rpc.call("block_results", height=str(height))
        return [one for index, one in found if int(results["txs_results"][index].get("code") or 0) == 0]
    except ChainPruned:
        return []
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ChainUnreachable(f"{rpc.url} sent block {height} in a form that cannot be read: {error}") from error


def _withdrawal(raw: bytes, height: int, lease: LeaseId) -> list[Withdrawal]:
    """None or one. Bytes that are no transaction are none of ours."""
    try:
        body = tx_pb2.TxBody.FromString(tx_pb2.TxRaw.FromString(raw).body_bytes)
        leases = {codec.lease_id(one.id) for one in _withdraw_messages(body.messages, _MOST_NESTED)}
    except DecodeError:
        return []
    return [Withdrawal(height, tx_hash(raw), body.memo, len(leases))] if lease in leases else []


def _withdraw_messages(messages: Iterable[Any], deep: int) -> list[Any]:
    found: list[Any] = []
    for packed in messages:
        if packed.type_url == _WITHDRAW:
            found.append(leasemsg_pb2.MsgWithdrawLease.FromString(packed.value))
        elif packed.type_url == _EXEC and deep:
            found += _withdraw_messages(authz_tx.MsgExec.FromString(packed.value).msgs, deep - 1)
    return found
