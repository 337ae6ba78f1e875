"""From a node's records to a tenant's check: collected, committed to on a chain, handed over, verified."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from google.protobuf.message import Message
from typer.testing import CliRunner

from gpulease.agent.collector import UsageCollector
from gpulease.chain import codec, withdrawals
from gpulease.chain.keys import Key
from gpulease.chain.outbox import Intent
from gpulease.chain.rpc import RpcEndpoint
from gpulease.chain.tx import pack
from gpulease.devnet import genesis
from gpulease.devnet.chain import Devnet
from gpulease.devnet.serve import DevnetServer
from gpulease.errors import ChainError
from gpulease.ids import DeploymentId, LeaseId
from gpulease.market import model as m
from gpulease.runtime import records_cli, verify_cli
from gpulease.store.journal import Journal
from gpulease.units import NS_PER_S, UACT, UAKT, Coin, Dec, DecCoin
from gpulease.workload.names import lease_namespace
from tests.contract.test_chain_client import GPU, PROVIDER, SPEC, TENANT, Party
from tests.fakes.usage import UsageNode

from cosmos.authz.v1beta1 import authz_pb2
from cosmos.authz.v1beta1 import tx_pb2 as authz_tx

pytestmark = pytest.mark.contract
HOT = Key(b"\x33" * 32)
RUNNER = CliRunner()


def new_chain() -> Devnet:
    funds = [Coin(UACT, 10**12), Coin(UAKT, 10**12)]
    accounts = {key.address: funds for key in (PROVIDER, TENANT, HOT)}
    return Devnet.from_genesis(
        genesis.default(chain_id="contract", accounts=accounts, now_ns=time.time_ns() - NS_PER_S)
    )


@dataclass
class Market:
    """One lease on a running chain."""

    rpc: str
    seller: Party
    buyer: Party
    hot: Party
    lease: LeaseId

    async def done(self, party: Party, key: str, message: Message, memo: str = "") -> int:
        """Submit and wait; the height."""
        intent = Intent(key, "test", (pack(message),), party.broadcaster.address, memo=memo)
        party.broadcaster.submit(intent)
        return await party.done(key, message)


@asynccontextmanager
async def market() -> AsyncIterator[Market]:
    async with (
        DevnetServer(new_chain(), block_time_ms=50) as server,
        Party(server, PROVIDER, ":memory:") as seller,
        Party(server, TENANT, ":memory:") as buyer,
        Party(server, HOT, ":memory:") as hot,
    ):
        did = DeploymentId(TENANT.address, 77)
        bid = did.group(1)
        lease = LeaseId(bid.owner, bid.dseq, bid.gseq, 1, PROVIDER.address)
        record = m.ProviderRecord(
            PROVIDER.address, "https://p.example.test:8443", (m.Attribute("capabilities/gpu/" + GPU.key, "true"),)
        )
        deposit = Coin(UACT, 500_000)
        await seller.done("record", codec.provider_record(record, exists=False))
        await buyer.done("deploy", codec.create_deployment(did, (SPEC,), hash_=b"\x07" * 32, deposit=deposit))
        await seller.done("bid", codec.create_bid(lease, price=DecCoin(UACT, Dec.of("50")), deposit=deposit))
        await buyer.done("lease", codec.create_lease(lease))
        yield Market(server.endpoints.rpc, seller, buyer, hot, lease)


def exported(state: Path, lease: LeaseId, out: Path) -> Path:
    done = RUNNER.invoke(records_cli.app, ["export", "--state-dir", str(state), "--lease", str(lease), "-o", str(out)])
    assert done.exit_code == 0, done.output
    return out


async def verified(where: Market, records: Path, *more: str, code: int = 0) -> dict[str, Any]:
    arguments = ["--lease", str(where.lease), "--records", str(records), "--chain", where.rpc, "-o", "json", *more]
    done = await asyncio.to_thread(RUNNER.invoke, verify_cli.app, arguments)
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_records_from_node_to_tenant(tmp_path: Path) -> None:
    node, other = UsageNode(now_ms=time.time_ns() // 10**6), UsageNode("n2", b"\x09" * 32, time.time_ns() // 10**6)
    journal = Journal(tmp_path / "operator.db")
    collector = UsageCollector(journal)
    async with market() as where:
        namespace = lease_namespace(where.lease)
        heights = []
        for turn in range(3):
            node.hold(namespace, count=3, device=f"GPU-{turn}", last=True)
            node.hold("another-lease", count=1, device="GPU-9", last=True)
            other.hold(namespace, count=2, device="GPU-a", step_ms=500)
            await collector.collect("n1", node)
            await collector.collect("n2", other)
            batch = collector.records_since(namespace, collector.settled(namespace))
            assert (batch.first, batch.last) == (turn * 5 + 1, turn * 5 + 5)
            if turn < 2:
                withdraw = codec.withdraw_lease(where.lease)
                heights.append(await where.done(where.seller, f"withdraw/{turn}", withdraw, batch.memo))
                collector.note_withdrawn(namespace, batch.memo)
        # The store is still open: an operator would be running.
        records = exported(tmp_path, where.lease, tmp_path / "f.jsonl")
        found = await verified(where, records)
        assert [s["height"] for s in found["settlements"]] == heights
        assert (found["holds"], found["records"], found["anchoredRecords"]) == (True, 15, 10)
        assert found["gpuMilliseconds"] == 3 * (3000 + 1000)
        assert {c["name"]: c["verdict"] for c in found["checks"]} == dict.fromkeys(
            ("readable", "lease", "chain", "signatures", "overlap", "lifetime", "anchors"), "holds"
        )
        pins = ("--node-key", f"n1={node.key}", "--node-key", f"n2={other.key}")
        assert "--node-key" not in json.dumps((await verified(where, records, *pins))["doNotBelieve"])
        await verified(where, records, "--node-key", f"n1={other.key}", code=1)

        lines = records.read_text().splitlines()
        (tmp_path / "cut.jsonl").write_text("\n".join(lines[:8]))
        cut = await verified(where, tmp_path / "cut.jsonl", code=1)
        assert "ask the provider for records 8 and later" in json.dumps(cut)
        (tmp_path / "changed.jsonl").write_text("\n".join([*lines[:3], lines[3].replace("GPU-0", "GPU-8"), *lines[4:]]))
        assert not (await verified(where, tmp_path / "changed.jsonl", code=1))["holds"]

        arguments = ["--lease", str(where.lease), "--records", str(records), "--chain", where.rpc]
        text = await asyncio.to_thread(RUNNER.invoke, verify_cli.app, arguments)
        assert text.exit_code == 0
        assert "It holds." in text.stdout
        assert "You may not believe on this alone" in text.stdout
    silent = await asyncio.to_thread(RUNNER.invoke, verify_cli.app, [*arguments, "--timeout-s", "1"])
    assert silent.exit_code == 3
    assert "name another node" in silent.stderr
    journal.close()


async def test_withdrawals_signed_by_another_account_are_found(tmp_path: Path) -> None:
    node = UsageNode(now_ms=time.time_ns() // 10**6)
    journal = Journal(tmp_path / "operator.db")
    collector = UsageCollector(journal)
    async with market() as where:
        namespace = lease_namespace(where.lease)
        node.hold(namespace, count=4, last=True)
        await collector.collect("n1", node)
        grant = authz_tx.MsgGrant(granter=PROVIDER.address, grantee=HOT.address)
        allowed = authz_pb2.GenericAuthorization(msg="/akash.market.v1beta5.MsgWithdrawLease")
        grant.grant.authorization.type_url, grant.grant.authorization.value = pack(allowed)
        await where.done(where.seller, "grant", grant)
        run = authz_tx.MsgExec(grantee=HOT.address)
        packed = run.msgs.add()
        packed.type_url, packed.value = pack(codec.withdraw_lease(where.lease))
        height = await where.done(where.hot, "exec", run, collector.records_since(namespace, 0).memo)
        records = exported(tmp_path, where.lease, tmp_path / "f.jsonl")
        found = await verified(where, records)
        assert [(s["height"], s["verdict"]) for s in found["settlements"]] == [(height, "holds")]
    journal.close()


@asynccontextmanager
async def node_without_index(rpc: str, session: aiohttp.ClientSession) -> AsyncIterator[str]:
    """The same chain behind a node that keeps no index of transactions."""

    async def pass_on(request: web.Request) -> web.Response:
        body = await request.json()
        if body["method"] == "tx_search":
            error = {"code": -32603, "message": "Internal error", "data": "transaction indexing is disabled"}
            return web.json_response({"jsonrpc": "2.0", "id": body["id"], "error": error})
        async with session.post(rpc, json=body) as answer:
            return web.json_response(await answer.json())

    app = web.Application()
    app.router.add_post("/", pass_on)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_node_without_an_index_is_read_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    async with market() as where, aiohttp.ClientSession() as session:
        withdraw = codec.withdraw_lease(where.lease)
        heights = [await where.done(where.seller, f"w/{n}", withdraw, f"memo {n}") for n in range(2)]
        async with node_without_index(where.rpc, session) as url:
            rpc, last = RpcEndpoint(url, session, timeout_s=10), heights[-1]
            found = await withdrawals.withdrawals(rpc, where.lease, first=1, last=last)
            assert [(one.height, one.memo, one.leases) for one in found] == [
                (heights[0], "memo 0", 1),
                (heights[1], "memo 1", 1),
            ]
            indexed = RpcEndpoint(where.rpc, session, timeout_s=10)
            assert found == await withdrawals.withdrawals(indexed, where.lease, first=1, last=last)
            assert await withdrawals.withdrawals(rpc, where.lease, first=heights[1] + 1, last=last) == []
            monkeypatch.setattr(withdrawals, "MAX_WALK_BLOCKS", 2)
            with pytest.raises(ChainError, match="name a node with an index"):
                await withdrawals.withdrawals(rpc, where.lease, first=1, last=last)
        stranger = LeaseId(TENANT.address, 1, 1, 1, PROVIDER.address)
        assert await withdrawals.lease_by_rpc(indexed, stranger) is None
        assert await withdrawals.time_ms_at(indexed, 10**9) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("", "does not begin with the head"),
        ("not json\n", "line 1: not JSON"),
        ("[]\n", "not a JSON object"),
        ('{"format":"gpulease usage records v1"}\n', "line 1"),
        ('{"format":"gpulease usage records v1","lease":"o/1/1/1/p","keys":{"n1":["zz"]}}\n', "64 hexadecimal digits"),
        ('{"format":"gpulease usage records v1","lease":"o/2/1/1/p","keys":{}}\n', "not of o/1/1/1/p"),
        ('{"format":"gpulease usage records v1","lease":"o/1/1/1/p","keys":{}}\n{"x"\n', "line 2: not JSON"),
        ('{"format":"gpulease usage records v1","lease":"o/1/1/1/p","keys":{}}\n"' + "x" * 70_000, "line 2: longer"),
    ],
)
def test_bad_files_get_a_sentence(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "f.jsonl"
    if content is not None:
        path.write_text(content)
    arguments = ["--lease", "o/1/1/1/p", "--records", str(path), "--chain", "http://127.0.0.1:1"]
    done = RUNNER.invoke(verify_cli.app, arguments)
    assert (done.exit_code, words in done.stderr) == (2, True), done.output


@pytest.mark.parametrize(
    "wrong", [("--lease", "o/1/1"), ("--chain", "127.0.0.1:26657"), ("--node-key", "n1=zz"), ("-o", "xml")]
)
def test_bad_options_get_a_sentence(tmp_path: Path, wrong: tuple[str, str]) -> None:
    (tmp_path / "f.jsonl").write_text("")
    options = {"--lease": "o/1/1/1/p", "--records": str(tmp_path / "f.jsonl"), "--chain": "http://127.0.0.1:1"}
    options |= dict([wrong])
    done = RUNNER.invoke(verify_cli.app, [word for pair in options.items() for word in pair])
    assert done.exit_code == 2
    assert wrong[1].split("=")[0] in done.stderr


def test_an_export_needs_one_store(tmp_path: Path) -> None:
    arguments = ["export", "--state-dir", str(tmp_path), "--lease", "o/1/1/1/p", "-o", str(tmp_path / "f.jsonl")]
    done = RUNNER.invoke(records_cli.app, arguments)
    assert (done.exit_code, "no store" in done.stderr) == (2, True)
    (tmp_path / "operator.db").write_text("this is no database, but it is long enough to be looked at" * 40)
    done = RUNNER.invoke(records_cli.app, arguments)
    assert (done.exit_code, "cannot be opened" in done.stderr) == (2, True)
    (tmp_path / "operator.db").unlink()
    Journal(tmp_path / "operator.db").close()
    done = RUNNER.invoke(records_cli.app, arguments)
    assert (done.exit_code, "0 records" in done.stderr) == (0, True)
    assert json.loads((tmp_path / "f.jsonl").read_text())["keys"] == {}
