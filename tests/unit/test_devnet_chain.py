"""Step mode's virtual clock, snapshots, the faucet, pages, certificates, sends to several, and Go's way with texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gpulease.devnet import addresses, auth, errors, gotext, paging, registry, replay, routes
from gpulease.devnet.chain import Devnet
from gpulease.devnet.cli import app
from gpulease.devnet.faucet import Faucet, FaucetRefused
from gpulease.devnet.node_queries import NodeQueries
from gpulease.devnet.rpc import Rpc, merkle
from gpulease.pb.akash.market.v1beta5 import order_pb2
from gpulease.units import NS_PER_S, UACT, UAKT, Coin
from tests.fakes.ledger import Ledger, Person, coin, create_deployment, create_provider

from cosmos.bank.v1beta1 import tx_pb2 as bank_tx
from cosmos.base.query.v1beta1 import pagination_pb2

pytestmark = pytest.mark.unit
ALICE, BOB = Person(1), Person(2)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger([ALICE, BOB])


def pay(amount: int) -> Any:
    return bank_tx.MsgSend(from_address=ALICE.address, to_address=BOB.address, amount=[coin(UAKT, amount)])


def test_the_virtual_clock_moves_by_blocks_alone(ledger: Ledger) -> None:
    chain = ledger.chain
    height, began = chain.height, chain.time_ns
    chain.advance(5)
    chain.advance(2, block_time_ns=NS_PER_S // 4)
    assert (chain.height - height, chain.time_ns - began) == (7, 5 * NS_PER_S + NS_PER_S // 2)
    assert [block.time_ns for h in (1, 2) if (block := chain.block(h))] == [began + NS_PER_S, began + 2 * NS_PER_S]


def test_old_blocks_go_and_their_transactions_with_them() -> None:
    ledger = Ledger([ALICE, BOB])
    ledger.chain.keep_blocks = 10
    ledger.ok(ALICE, pay(1))
    first = ledger.chain.block(1)
    assert first is not None
    ledger.chain.advance(10)
    assert ledger.chain.earliest_height == 2
    assert ledger.chain.block(1) is None
    assert len(ledger.chain._txs) == 0


def story(ledger: Ledger) -> list[Any]:
    results = [
        ledger.run(ALICE, pay(5)),
        ledger.run(BOB, create_provider(BOB)),
        ledger.run(ALICE, create_deployment(ALICE)),
    ]
    ledger.chain.advance(3)
    return [*results, ledger.run(ALICE, pay(7), memo="last"), ledger.chain.state.dump()]


def test_a_restored_snapshot_goes_the_same_way_again(ledger: Ledger) -> None:
    ledger.ok(ALICE, pay(3))
    waiting = ledger.signed(ALICE, pay(4))
    ledger.chain.add_to_mempool(waiting)
    saved = ledger.chain.snapshot()
    ledger.chain.forget_waiting()
    once = story(ledger)
    ledger.chain.restore(saved)
    assert list(ledger.chain.mempool.values()) == [waiting]
    ledger.chain.forget_waiting()
    assert story(ledger) == once
    other = Devnet(chain_id="elsewhere", params={})
    other.restore(saved)
    other.advance()
    block = other.block(other.height)
    assert block is not None
    assert (other.chain_id, [result.code for _, result in block.txs]) == ("ledger", [0])


def test_a_snapshot_is_not_touched_by_what_follows(ledger: Ledger) -> None:
    saved = ledger.chain.snapshot()
    story(ledger)
    ledger.chain.restore(saved)
    assert ledger.chain.height == 0
    assert ledger.balance(BOB, UAKT) == 10**12


class TestFaucet:
    def test_gives_within_its_limit_per_address_and_coin(self, ledger: Ledger) -> None:
        faucet, stranger = Faucet(ledger.chain, 100), Person(9)
        faucet.give(stranger.address, [Coin(UAKT, 60), Coin(UACT, 100)])
        with pytest.raises(FaucetRefused, match="may have 40uakt more of 100uakt") as refused:
            faucet.give(stranger.address, [Coin(UAKT, 41)])
        assert refused.value.status == 429
        faucet.give(stranger.address, [Coin(UAKT, 40)])
        faucet.give(BOB.address, [Coin(UAKT, 100)])
        assert (ledger.balance(stranger, UAKT), ledger.balance(stranger, UACT)) == (100, 100)
        assert auth.get(ledger.chain.context(), stranger.address) is not None

    @pytest.mark.parametrize(
        ("address", "coins"),
        [
            ("akash1nothing", [Coin(UAKT, 1)]),
            (addresses.module("escrow"), [Coin(UAKT, 1)]),
            (BOB.address, []),
            (BOB.address, [Coin("uatom", 1)]),
            (BOB.address, [Coin(UAKT, 0)]),
            (BOB.address, [Coin(UAKT, 60), Coin(UAKT, 60)]),
        ],
    )
    def test_refuses_and_then_gives_nothing(self, ledger: Ledger, address: str, coins: list[Coin]) -> None:
        with pytest.raises(FaucetRefused):
            Faucet(ledger.chain, 100).give(address, coins)
        assert ledger.balance(BOB, UAKT) == 10**12

    def test_raises_the_supply_by_what_it_gives(self, ledger: Ledger) -> None:
        Faucet(ledger.chain).give(BOB.address, [Coin(UAKT, 7)])
        _, body = routes.answer(ledger.chain, "/cosmos/bank/v1beta1/supply/by_denom", [("denom", UAKT)])
        assert body["amount"] == {"denom": UAKT, "amount": str(2 * 10**12 + 7)}


class TestReplayCommand:
    def test_a_folder_without_a_recording(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(app, ["replay", str(tmp_path)])
        assert result.exit_code == 2
        assert "holds no recording: genesis.json, accounts.json" in result.output

    def test_a_recording_that_differs(self, tmp_path: Path) -> None:
        import gzip

        source = Path(__file__).parents[1] / "data/chain/recordings/extras"
        for name in replay.FILES:
            (tmp_path / name).write_bytes((source / name).read_bytes())
        blocks = gzip.decompress((source / "blocks.jsonl.gz").read_bytes()).splitlines()[:20]
        index, changed = next((i, json.loads(line)) for i, line in enumerate(blocks) if json.loads(line)["txs"])
        changed["txs"][0]["code"] = 99
        blocks[index] = json.dumps(changed).encode()
        (tmp_path / "blocks.jsonl.gz").write_bytes(gzip.compress(b"\n".join(blocks)))
        result = CliRunner().invoke(app, ["replay", str(tmp_path)])
        assert result.exit_code == 1
        assert f"code: height {changed['height']}" in result.output
        first, *_, last = result.output.strip().splitlines()
        assert first == tmp_path.name
        assert last.split(" of ")[0] == "mismatches 1"


class TestPages:
    def page(self, **asked: Any) -> tuple[list[int], Any]:
        return paging.page(list(range(5)), pagination_pb2.PageRequest(**asked))

    def test_plain_pages(self) -> None:
        chosen, answer = self.page(limit=2)
        assert (chosen, answer.total) == ([0, 1], 0)
        chosen, answer = self.page(key=answer.next_key, limit=2)
        assert chosen == [2, 3]
        chosen, answer = self.page(key=answer.next_key, limit=2)
        assert (chosen, answer.next_key) == ([4], b"")
        assert self.page(limit=2, count_total=True)[1].total == 5
        assert self.page()[1].total == 5
        assert self.page(limit=2, reverse=True)[0] == [4, 3]
        with pytest.raises(errors.QueryError, match="either offset or key is expected, got both"):
            self.page(key=b"1", offset=1)

    def orders(self, **asked: Any) -> tuple[list[tuple[int, int]], Any]:
        rows = [(1, 10), (2, 11), (1, 12), (3, 13), (1, 14)]
        return paging.indexed_page(
            rows,
            pagination_pb2.PageRequest(**asked.pop("pagination", {})),
            enum=order_pb2.Order.State,
            state=asked.pop("state", ""),
            state_of=lambda row: row[0],
            key_of=lambda row: paging.number_key(row[1], 8),
            path=0,
            state_mark=b"",
        )

    def test_an_index_is_walked_by_state_and_resumes_where_it_ended(self) -> None:
        seen, key = [], b""
        while True:
            chosen, answer = self.orders(pagination={"limit": 2, "key": key})
            seen += [number for _, number in chosen]
            key = answer.next_key
            if not key:
                break
        assert seen == [10, 12, 14, 11, 13]

    def test_a_key_that_nobody_has_given_out(self) -> None:
        _, answer = self.orders(pagination={"limit": 2})
        broken = bytes([answer.next_key[0] ^ 1]) + answer.next_key[1:]
        with pytest.raises(errors.QueryError, match="invalid checksum"):
            self.orders(pagination={"key": broken})

    def test_states(self) -> None:
        assert [n for _, n in self.orders(state="open")[0]] == [10, 12, 14]
        with pytest.raises(errors.QueryError, match="invalid state value"):
            self.orders(state="nonsense")
        with pytest.raises(errors.QueryError, match=r"filter\.state must be provided"):
            self.orders(pagination={"offset": 1})


class TestSends:
    def many(self, *outputs: tuple[Person, int], total: int) -> Any:
        return bank_tx.MsgMultiSend(
            inputs=[{"address": ALICE.address, "coins": [coin(UAKT, total)]}],
            outputs=[{"address": person.address, "coins": [coin(UAKT, amount)]} for person, amount in outputs],
        )

    def test_to_several_at_once(self, ledger: Ledger) -> None:
        ledger.ok(ALICE, self.many((BOB, 3), (Person(9), 4), total=7))
        assert ledger.balance(Person(9), UAKT) == 4

    def test_sums_have_to_agree(self, ledger: Ledger) -> None:
        result = ledger.run(ALICE, self.many((BOB, 3), total=4))
        assert (result.codespace, result.code) == ("bank", 4)


class TestAbciQuery:
    def ask(self, ledger: Ledger, path: str, data: bytes = b"", **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = Rpc(ledger.chain).abci_query({"path": path, "data": data.hex(), **more})["response"]
        return answer

    def test_errors_are_those_of_the_sdk(self, ledger: Ledger) -> None:
        unknown = self.ask(ledger, "/no.Such/Method")
        assert (unknown["codespace"], unknown["code"]) == ("sdk", 6)
        assert unknown["log"] == "unknown query path: unknown request"
        request = registry.message_class("cosmos.auth.v1beta1.QueryAccountRequest")(address=Person(9).address)
        missing = self.ask(ledger, "/cosmos.auth.v1beta1.Query/Account", request.SerializeToString())
        assert missing["code"] == 22
        words = f"rpc error: code = NotFound desc = account {Person(9).address} not found: key not found"
        assert missing["log"] == words

    def test_simulation_travels_by_it_too(self, ledger: Ledger) -> None:
        from cosmos.tx.v1beta1 import service_pb2

        request = service_pb2.SimulateRequest(tx_bytes=ledger.signed(ALICE, pay(5), fee=[]))
        answer = self.ask(ledger, "/cosmos.tx.v1beta1.Service/Simulate", request.SerializeToString())
        assert answer["code"] == 0
        node = NodeQueries(Rpc(ledger.chain))
        raw = node.methods["/cosmos.tx.v1beta1.Service/Simulate"](request.SerializeToString())
        assert service_pb2.SimulateResponse.FromString(raw).gas_info.gas_used > 0
        assert ledger.balance(BOB, UAKT) == 10**12


def test_a_block_is_searched_by_its_events(ledger: Ledger) -> None:
    rpc = Rpc(ledger.chain)
    for amount in (5, 6, 7):
        ledger.ok(ALICE, pay(amount))
    found = rpc.tx_search({"query": f"transfer.amount='6{UAKT}' AND tx.height>1", "order_by": "asc"})
    assert [(tx["height"], tx["index"]) for tx in found["txs"]] == [("2", 0)]
    everyone = rpc.tx_search({"query": f"message.sender='{ALICE.address}'", "order_by": "desc", "per_page": "2"})
    assert ([tx["height"] for tx in everyone["txs"]], everyone["total_count"]) == (["3", "2"], "3")
    by_hash = rpc.tx_search({"query": f"tx.hash='{found['txs'][0]['hash']}'"})
    assert by_hash["total_count"] == "1"


@pytest.mark.parametrize(
    ("seconds", "nanos", "words"),
    [
        (1_800_000_000, 0, "2027-01-15 08:00:00 +0000 UTC"),
        (1_800_000_000, 120_000_000, "2027-01-15 08:00:00.12 +0000 UTC"),
        (1_800_000_000, 1, "2027-01-15 08:00:00.000000001 +0000 UTC"),
    ],
)
def test_times_as_go_prints_them(seconds: int, nanos: int, words: str) -> None:
    assert gotext.time_text(seconds * NS_PER_S + nanos) == words


def test_a_tree_of_hashes_is_split_as_in_rfc_6962() -> None:
    a, b, c = (bytes([n]) for n in (1, 2, 3))
    assert merkle([a, b, c]) != merkle([a, b]) != merkle([a])
    assert merkle([]).hex().startswith("e3b0c442")


class TestOlderStates:
    """Queries at a height: the state after that block, for as long as it is kept."""

    def at(self, ledger: Ledger, height: int) -> tuple[int, Any]:
        path = f"/cosmos/bank/v1beta1/balances/{BOB.address}/by_denom"
        status, body = routes.answer(ledger.chain, path, [("denom", UAKT)], height=height)
        return status, int(body["balance"]["amount"]) - 10**12 if status == 200 else body["message"]

    def test_each_kept_height_has_its_own(self, ledger: Ledger) -> None:
        for amount in (1, 10, 100):
            ledger.ok(ALICE, pay(amount))
        ledger.chain.faucet(BOB.address, [Coin(UAKT, 1000)])
        before = ledger.chain.state.dump()
        assert [self.at(ledger, h) for h in (0, 3, 2, 1)] == [(200, 1111), (200, 1111), (200, 11), (200, 1)]
        assert ledger.chain.state.dump() == before
        ledger.ok(ALICE, pay(10_000))
        assert [self.at(ledger, h)[1] for h in (4, 3, 2, 1)] == [11_111, 1111, 11, 1]

    def test_neither_the_future_nor_what_is_pruned(self, ledger: Ledger) -> None:
        ledger.chain.advance(150)
        assert self.at(ledger, 50)[0] == 200
        assert self.at(ledger, 49) == (
            500,
            "codespace sdk code 38: not found: failed to load state at height 49; version does not exist "
            "(latest height: 150)",
        )
        words = "cannot query with height in the future; please provide a valid height"
        assert self.at(ledger, 151) == (500, f"codespace sdk code 26: invalid height: {words}")
        answer = Rpc(ledger.chain).abci_query({"path": "/cosmos.bank.v1beta1.Query/Params", "height": "151"})[
            "response"
        ]
        assert (answer["code"], answer["log"]) == (26, f"{words}: invalid height")
