"""What the ante handler refuses, in its words, and what it keeps when a message fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message

from gpulease.devnet import addresses
from gpulease.devnet.chain import TxResult
from gpulease.units import NS_PER_S, UACT, UAKT, Coin
from tests.fakes.ledger import Ledger, Person, coin, create_deployment

from cosmos.bank.v1beta1 import tx_pb2 as bank_tx
from cosmos.tx.v1beta1 import tx_pb2

pytestmark = pytest.mark.unit


@pytest.fixture
def alice() -> Person:
    return Person(1)


@pytest.fixture
def bob() -> Person:
    return Person(2)


@pytest.fixture
def ledger(alice: Person, bob: Person) -> Ledger:
    return Ledger([alice, bob])


def pay(sender: Person, to: Person, amount: int = 5, denom: str = UAKT) -> Message:
    return bank_tx.MsgSend(from_address=sender.address, to_address=to.address, amount=[coin(denom, amount)])


def said(result: TxResult) -> str:
    return f"{result.codespace}/{result.code} {result.log}"


def altered(raw: bytes, change: Callable[[Any], None]) -> bytes:
    tx = tx_pb2.TxRaw.FromString(raw)
    change(tx)
    return tx.SerializeToString()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"memo": "é" * 129}, "sdk/12 maximum number of characters is 256 but received 258 characters: memo too large"),
        ({"gas": 0}, "sdk/41 must provide positive gas: invalid gas limit"),
        ({"fee": [Coin(UAKT, 1249)]}, "sdk/13 insufficient fees; got: 1249uakt required: 1250uakt: insufficient fee"),
        ({"fee": []}, "sdk/13 insufficient fees; got:  required: 1250uakt: insufficient fee"),
        ({"sequences": [1]}, "sdk/32 account sequence mismatch, expected 0, got 1: incorrect account sequence"),
        (
            {"chain_id": "another"},
            "sdk/4 signature verification failed; please verify account number (0) and chain-id (ledger): "
            "(unable to verify single signer signature): unauthorized",
        ),
        ({"timeout_height": 1}, "sdk/30 block height: 3, timeout height: 1: tx timeout height"),
        ({"unordered": True}, "sdk/18 unordered transaction must have timeout_timestamp set: invalid request"),
    ],
)
def test_a_transaction_is_refused(ledger: Ledger, alice: Person, bob: Person, how: dict[str, Any], words: str) -> None:
    ledger.chain.advance(3)
    assert said(ledger.check(alice, pay(alice, bob), **{"gas": 500_000, **how})) == words


def test_the_least_fee_and_the_longest_memo_pass(ledger: Ledger, alice: Person, bob: Person) -> None:
    result = ledger.check(alice, pay(alice, bob), memo="m" * 256, fee=[Coin(UAKT, 1250)], timeout_height=1)
    assert result.code == 0, result.log


def test_the_nodes_least_fee_is_no_rule_of_blocks(ledger: Ledger, alice: Person, bob: Person) -> None:
    assert ledger.run(alice, pay(alice, bob), fee=[]).code == 0


def test_a_deadline_that_has_passed(ledger: Ledger, alice: Person, bob: Person) -> None:
    late = ledger.chain.time_ns - 1
    assert ledger.check(alice, pay(alice, bob), timeout_ns=late + 1).code == 0
    result = ledger.check(alice, pay(alice, bob), timeout_ns=late)
    assert (result.code, result.log[:12]) == (42, "block time: ")
    assert result.log.endswith(": tx timeout")


class TestUnordered:
    def test_each_timeout_is_usable_once_and_leaves_the_sequence(
        self, ledger: Ledger, alice: Person, bob: Person
    ) -> None:
        deadline = ledger.chain.time_ns + 60 * NS_PER_S
        first = ledger.signed(alice, pay(alice, bob), unordered=True, timeout_ns=deadline)
        again = ledger.signed(alice, pay(alice, bob, 6), unordered=True, timeout_ns=deadline)
        other = ledger.signed(alice, pay(alice, bob, 7), unordered=True, timeout_ns=deadline + 1)
        results = ledger.block(first, again, other)
        assert [r.code for r in results] == [0, 18, 0]
        nonce = f"sender {alice.address} has already used timeout {deadline}"
        assert results[1].log == f"failed to add unordered nonce: {nonce}: invalid request"
        assert ledger.run(alice, pay(alice, bob)).code == 0  # sequence 0 is still the next one

    def test_neither_a_sequence_nor_a_far_deadline(self, ledger: Ledger, alice: Person, bob: Person) -> None:
        now = ledger.chain.time_ns
        far = ledger.check(alice, pay(alice, bob), unordered=True, timeout_ns=now + 600 * NS_PER_S + 1)
        assert said(far) == "sdk/18 unordered tx ttl exceeds 10m0s: invalid request"
        assert ledger.check(alice, pay(alice, bob), unordered=True, timeout_ns=now + 600 * NS_PER_S).code == 0
        numbered = ledger.check(alice, pay(alice, bob), unordered=True, timeout_ns=now + NS_PER_S, sequences=[1])
        assert said(numbered) == "sdk/18 sequence is not allowed for unordered transactions: invalid request"

    def test_a_nonce_is_free_again_once_its_time_is_over(self, ledger: Ledger, alice: Person, bob: Person) -> None:
        deadline = ledger.chain.time_ns + NS_PER_S
        raw = ledger.signed(alice, pay(alice, bob), unordered=True, timeout_ns=deadline)
        assert ledger.block(raw)[0].code == 0
        (late,) = ledger.block(raw, seconds=5)
        assert late.code == 42  # gone from the nonces, but too late by itself


def test_a_failed_message_costs_its_fee_and_its_sequence(ledger: Ledger, alice: Person, bob: Person) -> None:
    before = ledger.balance(alice, UAKT)
    result = ledger.run(alice, pay(alice, bob, 10**13))
    assert (result.codespace, result.code) == ("sdk", 5)
    assert ledger.balance(alice, UAKT) == before - 12_500
    assert ledger.run(alice, pay(alice, bob)).code == 0
    assert [e.type for e in result.events][:2] == ["coin_spent", "coin_received"]


def test_all_messages_of_a_transaction_or_none(ledger: Ledger, alice: Person, bob: Person) -> None:
    before = ledger.balance(bob, UAKT)
    result = ledger.run(alice, pay(alice, bob, 5), pay(alice, bob, 10**13))
    assert result.log.startswith("failed to execute message; message index: 1: ")
    assert ledger.balance(bob, UAKT) == before


def test_two_signers_and_a_payer(ledger: Ledger, alice: Person, bob: Person) -> None:
    carol = Person(3)
    ledger.ok(alice, pay(alice, carol, 100_000))
    had = ledger.balance(carol, UAKT)
    ledger.ok([alice, bob, carol], pay(alice, bob), pay(bob, alice), payer=carol.address)
    assert ledger.balance(carol, UAKT) == had - 12_500
    short = ledger.check([alice], pay(alice, bob), payer=carol.address)
    assert said(short) == "sdk/4 wrong number of signers; expected 2, got 1: unauthorized"


def test_who_receives_coins_becomes_an_account(ledger: Ledger, alice: Person) -> None:
    carol = Person(3)
    nobody = ledger.check(carol, pay(carol, alice))
    assert said(nobody) == f"sdk/9 fee payer address: {carol.address} does not exist: unknown address"
    ledger.ok(alice, pay(alice, carol, 50_000))
    ledger.ok(carol, pay(carol, alice, 10))
    assert ledger.balance(carol, UAKT) == 50_000 - 12_500 - 10


def test_coins_of_a_module_and_of_the_vault_are_not_paid_out(ledger: Ledger, alice: Person, bob: Person) -> None:
    escrow = addresses.module("escrow")
    message = bank_tx.MsgSend(from_address=alice.address, to_address=escrow, amount=[coin(UAKT, 1)])
    refused = ledger.run(alice, message)
    assert refused.log.endswith(f"{escrow} is not allowed to receive funds: unauthorized")
    assert ledger.run(alice, pay(alice, bob, 1, UACT)).code != 0


class TestForm:
    def test_no_signature(self, ledger: Ledger, alice: Person, bob: Person) -> None:
        raw = altered(ledger.signed(alice, pay(alice, bob)), lambda tx: tx.ClearField("signatures"))
        assert said(ledger.chain.check_tx(raw)) == "sdk/15 no signatures supplied"

    def test_a_key_that_is_not_the_signers(self, ledger: Ledger, alice: Person, bob: Person) -> None:
        raw = ledger.signed(bob, pay(alice, bob))
        words = f"pubKey does not match signer address {alice.address} with signer index: 0: invalid pubkey"
        assert said(ledger.chain.check_tx(raw)) == f"sdk/8 {words}"

    def test_no_message(self, ledger: Ledger, alice: Person) -> None:
        words = "sdk/18 must contain at least one message: invalid request"
        assert said(ledger.check(alice)) == words

    @pytest.mark.parametrize(
        ("raw", "words"),
        [
            (b"garbage", "expected 2 wire type, got 7"),
            (b"\x12\x00\x0a\x00", "txRaw must follow ADR-027, found tagNum(1) after tagNum(2)"),
            (
                b"\x0a\x80\x00",
                "length prefix varint for tagNum(1) is not as short as possible, read 2, only need 1",
            ),
            (b"\x0a\x05ab", "invalid length; unexpected EOF"),
        ],
    )
    def test_bytes_that_are_no_transaction(self, ledger: Ledger, raw: bytes, words: str) -> None:
        assert said(ledger.chain.check_tx(raw)) == f"sdk/2 {words}: tx parse error: tx parse error"

    def test_an_unknown_message(self, ledger: Ledger, alice: Person, bob: Person) -> None:
        def unknown(tx: Any) -> None:
            body = tx_pb2.TxBody.FromString(tx.body_bytes)
            body.messages[0].type_url = "/akash.take.v1.MsgNothing"
            tx.body_bytes = body.SerializeToString()

        result = ledger.chain.check_tx(altered(ledger.signed(alice, pay(alice, bob)), unknown))
        words = "unable to resolve type URL /akash.take.v1.MsgNothing: tx parse error: tx parse error"
        assert said(result) == f"sdk/2 {words}"

    def test_an_amount_that_is_no_number(self, ledger: Ledger, alice: Person, bob: Person) -> None:
        bad = bank_tx.MsgSend(from_address=alice.address, to_address=bob.address)
        bad.amount.add(denom=UAKT, amount="5.5")
        result = ledger.check(alice, bad)
        assert (result.code, '"5.5"' in result.log) == (2, True)

    def test_too_many_signatures(self) -> None:
        people = [Person(n) for n in range(1, 9)]
        ledger = Ledger(people)
        messages = [pay(p, people[0], 1) for p in people]
        result = ledger.check(people, *messages)
        assert said(result) == "sdk/14 signatures: 8, limit: 7: maximum number of signatures exceeded"


class TestMempool:
    def test_waiting_transactions_count_as_if_they_had_run(self, ledger: Ledger, alice: Person, bob: Person) -> None:
        chain = ledger.chain
        second = ledger.signed(alice, pay(alice, bob, 2), sequences=[1])
        assert chain.add_to_mempool(second).code == 32
        assert chain.add_to_mempool(ledger.signed(alice, pay(alice, bob, 1))).code == 0
        assert chain.add_to_mempool(second).code == 0
        assert chain.add_to_mempool(second).code == 19
        chain.advance()
        block = chain.block(chain.height)
        assert block is not None
        assert [result.code for _, result in block.txs] == [0, 0]
        assert chain.add_to_mempool(second).code == 19

    def test_what_no_longer_passes_leaves_with_the_next_block(self, ledger: Ledger, alice: Person, bob: Person) -> None:
        chain = ledger.chain
        assert chain.add_to_mempool(ledger.signed(alice, pay(alice, bob), timeout_height=1)).code == 0
        chain.apply_block([], time_ns=chain.time_ns + 1)
        assert len(chain.mempool) == 1
        chain.apply_block([], time_ns=chain.time_ns + 1)
        assert not chain.mempool

    def test_a_deployment_waits_only_for_its_fee(self, ledger: Ledger, alice: Person) -> None:
        """CheckTx runs no message: one that will fail is taken all the same."""
        assert ledger.chain.add_to_mempool(ledger.signed(alice, create_deployment(alice, amount=10**15))).code == 0
        ledger.chain.advance()
        block = ledger.chain.block(ledger.chain.height)
        assert block is not None
        assert block.txs[0][1].code != 0
