"""Refusals, fees, gas and batches by tables."""

from __future__ import annotations

import pytest

from gpulease.chain import codec
from gpulease.chain.batches import EXEC, WITHDRAW, Limits, accounts_of, batches, kinds_of
from gpulease.chain.examine import first_entry
from gpulease.chain.fees import DEFAULT_GAS, GAS_BY_TYPE, Purse, fee_for, gas_limit
from gpulease.chain.keys import Key
from gpulease.chain.outbox import Entry, Intent, Priority, SignedTx, State, due, is_dead
from gpulease.chain.tx import Fee, Ordering, build, pack
from gpulease.chain.verdicts import Verdict, classify, message_index, payer_problem, sequences
from gpulease.ids import LeaseId
from gpulease.units import NS_PER_S, Dec

from cosmos.authz.v1beta1 import tx_pb2 as authz_tx
from cosmos.tx.v1beta1 import tx_pb2

pytestmark = pytest.mark.unit
KEY = Key(b"\x11" * 32)
OWNER = Key(b"\x22" * 32).address
SEND = "/cosmos.bank.v1beta1.MsgSend"
BID = "/akash.market.v1beta5.MsgCreateBid"
HOUR_NS = 3600 * NS_PER_S
IN_MESSAGE = "failed to execute message; message index: 3: "


@pytest.mark.parametrize(
    ("codespace", "code", "log", "verdict"),
    [
        ("", 0, "", Verdict.ACCEPTED),
        ("sdk", 4, "signature verification failed", Verdict.SIGNATURE),
        ("sdk", 5, "spendable balance is smaller", Verdict.PAYER),
        ("sdk", 5, IN_MESSAGE + "insufficient funds", Verdict.FINAL),
        ("sdk", 9, "account does not exist", Verdict.PAYER),
        ("sdk", 11, "out of gas", Verdict.GAS),
        ("sdk", 11, IN_MESSAGE + "out of gas", Verdict.GAS),
        ("sdk", 12, "memo too large", Verdict.FINAL),
        ("sdk", 13, "insufficient fees", Verdict.PAYER),
        ("sdk", 18, "already used timeout", Verdict.LATER),
        ("sdk", 18, IN_MESSAGE + "invalid request", Verdict.FINAL),
        ("sdk", 19, "tx already in mempool", Verdict.WAITING),
        ("sdk", 20, "mempool is full", Verdict.LATER),
        ("sdk", 21, "tx too large", Verdict.TOO_LARGE),
        ("sdk", 30, "tx timeout height", Verdict.LATER),
        ("sdk", 32, "account sequence mismatch", Verdict.SEQUENCE),
        ("sdk", 37, "not supported", Verdict.UNORDERED_OFF),
        ("sdk", 38, "fee-grant not found", Verdict.PAYER),
        ("sdk", 42, "tx timeout", Verdict.LATER),
        ("sdk", 99, "of a later version", Verdict.FINAL),
        ("feegrant", 2, "fee limit exceeded", Verdict.PAYER),
        ("feegrant", 3, "fee allowance expired", Verdict.PAYER),
        ("market", 13, "order not open", Verdict.FINAL),
        ("market", 19, "zero price", Verdict.FINAL),
        ("escrow", 7, IN_MESSAGE + "payment closed", Verdict.FINAL),
        ("undefined", 1, "deposit invalid", Verdict.FINAL),
        ("undefined", 111222, "recovered: couldn't find payment", Verdict.PANIC),
    ],
)
def test_what_a_code_means(codespace: str, code: int, log: str, verdict: Verdict) -> None:
    assert classify(codespace, code, log) is verdict


def test_what_logs_say() -> None:
    assert message_index(IN_MESSAGE) == 3
    assert message_index("recovered: couldn't find payment") is None
    assert sequences("account sequence mismatch, expected 7, got 3: incorrect") == (7, 3)
    assert sequences("something else") is None
    for codespace, code in (("sdk", 5), ("sdk", 9), ("sdk", 13), ("sdk", 38), ("feegrant", 2)):
        assert payer_problem(codespace, code, "words").startswith("no fee can be paid: ")


# --- fees ----------------------------------------------------------------------------------------------------------


def test_a_day_is_the_last_24_hours_of_chain_time() -> None:
    purse = Purse("us")
    for hour in range(30):
        purse = purse.reserved(10, at_ns=hour * HOUR_NS)
    assert purse.spent_uakt(chain_time_ns=29 * HOUR_NS) == 240
    assert purse.spent_uakt(chain_time_ns=40 * HOUR_NS) == 130
    assert len(purse.by_hour) == 24
    back = purse.refunded(10, at_ns=29 * HOUR_NS)
    assert back.spent_uakt(chain_time_ns=29 * HOUR_NS) == 230
    assert (purse.paid_uakt, back.paid(7).paid(3).paid_uakt) == (0, 10)
    assert purse.refunded(10, at_ns=0).spent_uakt(chain_time_ns=29 * HOUR_NS) == 240, "that hour is long over"


def test_gas_is_learned_per_message_of_one_kind() -> None:
    purse = Purse("us").learned([WITHDRAW] * 10, 2_000_001)
    assert purse.gas == {WITHDRAW: 200_001}
    assert purse.learned([WITHDRAW], 100_000) == purse, "the most that was seen counts"
    assert purse.learned([WITHDRAW, SEND], 10**9) == purse, "mixed ones teach nothing"
    assert purse.knows("/new.Kind") is False
    assert purse.learned(["/new.Kind"], 5).knows("/new.Kind") is True


@pytest.mark.parametrize(
    ("kinds", "learned", "failures", "gas"),
    [
        ([SEND], {}, 0, GAS_BY_TYPE[SEND]),
        ([SEND, SEND], {}, 0, 2 * GAS_BY_TYPE[SEND]),
        (["/new.Kind"], {}, 0, DEFAULT_GAS),
        (["/new.Kind"], {"/new.Kind": 100}, 0, 150),
        ([WITHDRAW] * 3, {WITHDRAW: 200_000}, 0, GAS_BY_TYPE[WITHDRAW] + 2 * 250_000),
        ([SEND], {SEND: 1_000_000}, 0, 1_500_000),
        ([SEND], {}, 2, 4 * GAS_BY_TYPE[SEND]),
        ([SEND], {}, 9, 8 * GAS_BY_TYPE[SEND]),
    ],
)
def test_gas_limits(kinds: list[str], learned: dict[str, int], failures: int, gas: int) -> None:
    assert gas_limit(kinds, learned, failures=failures) == gas
    assert fee_for(gas, Dec.of("0.025")).amount == -(-gas * 25 // 1000)


# --- batches -------------------------------------------------------------------------------------------------------


def entry(key: str, url: str, *, state: State = State.PLANNED, value: bytes = b"", **named: object) -> Entry:
    priority = named.pop("priority", Priority.LIFECYCLE)
    memo = named.pop("memo", "")
    intent = Intent(key, "k", ((url, value),), KEY.address, priority, memo)  # type: ignore[arg-type]
    return Entry(intent, state, 0, **named)  # type: ignore[arg-type]


def withdraw(key: str, dseq: int, **named: object) -> Entry:
    _, value = pack(codec.withdraw_lease(LeaseId(OWNER, dseq, 1, 1, KEY.address)))
    return entry(key, WITHDRAW, value=value, priority=Priority.MONEY, **named)


def keys(found: list[list[Entry]]) -> list[list[str]]:
    return [[e.intent.key for e in batch] for batch in found]


def test_like_goes_with_like_most_urgent_first() -> None:
    waiting = [withdraw("w1", 1), entry("s1", SEND), withdraw("w2", 2), entry("b1", BID, priority=Priority.MARKET)]
    waiting += [entry("b2", BID, priority=Priority.MARKET), entry("s2", SEND), entry("m", SEND, memo="other")]
    found = batches(waiting, chain_time_ns=0, learned={})
    assert keys(found) == [["b1"], ["b2"], ["m"], ["s1", "s2"], ["w1", "w2"]]


def test_limits_of_messages_bytes_and_gas() -> None:
    waiting = [entry(f"s{i}", SEND, value=bytes(10)) for i in range(5)]
    for limits in (Limits(messages=2), Limits(bytes=25), Limits(gas=2 * GAS_BY_TYPE[SEND])):
        found = batches(waiting, chain_time_ns=0, learned={}, limits={SEND: limits})
        assert keys(found) == [["s0", "s1"], ["s2", "s3"], ["s4"]]


def test_one_settlement_of_an_account_at_a_time() -> None:
    waiting = [withdraw("a", 1), withdraw("b", 1), withdraw("c", 2)]
    assert keys(batches(waiting, chain_time_ns=0, learned={})) == [["a", "c"]]
    under_way = withdraw("d", 2, state=State.SENT)
    assert keys(batches([*waiting, under_way], chain_time_ns=0, learned={})) == [["a"]]
    done = withdraw("d", 2, state=State.INCLUDED)
    assert keys(batches([*waiting, done], chain_time_ns=0, learned={})) == [["a", "c"]]


def test_who_has_to_wait_or_go_alone() -> None:
    waiting = [
        entry("a", SEND),
        entry("alone", SEND, most_with=1),
        entry("suspect", SEND, suspect="HASH"),
        entry("later", SEND, not_before_ns=5),
        entry("z", SEND),
    ]
    assert keys(batches(waiting, chain_time_ns=4, learned={})) == [["a", "z"], ["alone"]]


def test_an_authz_execution_counts_as_what_it_executes() -> None:
    url, value = pack(codec.withdraw_lease(LeaseId(OWNER, 7, 1, 1, KEY.address)))
    wrapped = authz_tx.MsgExec(grantee=KEY.address)
    wrapped.msgs.add(type_url=url, value=value)
    packed = (EXEC, wrapped.SerializeToString())
    assert kinds_of([packed]) == (WITHDRAW,)
    assert accounts_of([packed]) == {f"{OWNER}/7"}


def test_which_entry_holds_a_message() -> None:
    pair = Intent("b", "k", ((SEND, b""), (SEND, b"")), KEY.address)
    three = [entry("a", SEND), Entry(pair, State.PLANNED, 0), entry("c", SEND)]
    assert [first_entry(three, i) for i in range(5)] == [0, 1, 1, 2, 2]


# --- transactions --------------------------------------------------------------------------------------------------


def signed(hash_: str, *, sent_s: int = 0, timeout_s: int = 60, priority: Priority = Priority.MONEY) -> SignedTx:
    return SignedTx(hash_, b"", KEY.address, (), priority, 0, 0, 1, timeout_s * NS_PER_S, sent_ns=sent_s * NS_PER_S)


def test_what_is_handed_over_now() -> None:
    txs = [
        signed("new"),
        signed("just sent", sent_s=8),
        signed("long ago", sent_s=5),
        signed("over", timeout_s=9),
        signed("bid", priority=Priority.MARKET),
    ]
    assert [tx.hash for tx in due(txs, chain_time_ns=10 * NS_PER_S)] == ["bid", "long ago", "new"]
    assert [tx.hash for tx in txs if is_dead(tx, chain_time_ns=12 * NS_PER_S)] == ["over"]


@pytest.mark.parametrize(
    ("ordering", "unordered", "sequence"),
    [
        (Ordering(timeout_ns=5_000_000_007), True, 0),
        (Ordering(sequence=9), False, 9),
        (Ordering(timeout_ns=5_000_000_007, sequence=9, ordered=True), False, 9),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
def test_the_form_of_a_transaction(ordering: Ordering, unordered: bool, sequence: int, dry: bool) -> None:
    raw = build(
        [(SEND, b"")],
        signer=KEY,
        chain_id="c",
        account_number=1,
        fee=Fee((), 5, OWNER),
        ordering=ordering,
        dry=dry,
    )
    tx = tx_pb2.TxRaw.FromString(raw)
    body, info = tx_pb2.TxBody.FromString(tx.body_bytes), tx_pb2.AuthInfo.FromString(tx.auth_info_bytes)
    assert (body.unordered, info.signer_infos[0].sequence) == (unordered, sequence)
    assert body.HasField("timeout_timestamp") is (ordering.timeout_ns is not None)
    assert info.fee.granter == OWNER
    assert (tx.signatures[0] == bytes(64)) is dry
