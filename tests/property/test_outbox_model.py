"""Intents, blocks, faults, restarts and clock jumps in any order: each intent once, on the word of the chain."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
import structlog
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from gpulease.chain import codec
from gpulease.chain.broadcaster import Broadcaster
from gpulease.chain.events import TxOutcome
from gpulease.chain.fees import fee_for
from gpulease.chain.outbox import MAX_ATTEMPTS, Intent, Priority, State
from gpulease.chain.reader import BlockReader
from gpulease.chain.rpc import NodeStatus
from gpulease.chain.tx import Fee, Ordering, build, pack
from gpulease.devnet import ante, auth, bank
from gpulease.errors import ChainUnreachable
from gpulease.ids import LeaseId
from gpulease.runtime.outbox import JournalOutbox
from gpulease.store.journal import Journal
from gpulease.units import NS_PER_S, UAKT, Dec
from tests.crash.workload import send
from tests.fakes.lease_chain import CHAIN_ID, PROVIDER, SINK, LeaseChain
from tests.fakes.stepchain import StepChain, StepClock

from cosmos.bank.v1beta1 import tx_pb2 as bank_tx

pytestmark = pytest.mark.property
T = TypeVar("T")
SEED = int(os.environ.get("GPULEASE_SEED", "20261124"))
LEAST_STEPS = 20_000
KEPT_BLOCKS, OUTAGE_BLOCKS = 40, 60
EXAMPLES_AT_ONCE, STEPS_EACH = 50, 80
GAS_PRICE = Dec.of("0.025")
FAULTS = st.lists(st.sampled_from(["before", "after", "stale", "ok"]), min_size=1, max_size=20)
COUNTED: Counter[str] = Counter()


class FaultyChain(StepChain):
    """Silence before the call or after its effect, and a second node that is some blocks behind."""

    def __init__(self, chain: LeaseChain) -> None:
        super().__init__(chain.chain, hook=self.on_enter, after=self.on_leave)
        self.faults: deque[str] = deque()
        self._now = "ok"

    def on_enter(self, _: str) -> None:
        self._now = self.faults.popleft() if self.faults else "ok"
        COUNTED["faults"] += self._now != "ok"
        if self._now == "before":
            raise ChainUnreachable("the node is silent")

    def on_leave(self, _: str) -> None:
        if self._now == "after":
            raise ChainUnreachable("the answer was lost")

    @property
    def _behind(self) -> int:
        return max(self.chain.height - 3, 1)

    async def status(self) -> NodeStatus:
        answer = await super().status()
        if self._now != "stale":
            return answer
        return NodeStatus(answer.chain_id, self._behind, 1, answer.time_ns, False)

    async def find_tx(
        self, hash_: str, *, at_least_height: int = 0, after_height: int | None = None
    ) -> tuple[int, TxOutcome] | None:
        found = await super().find_tx(hash_, after_height=after_height)
        if self._now == "stale" and (found is None or found[0] > self._behind):
            if at_least_height > self._behind:
                raise ChainUnreachable("the node has not reached that height")
            return None
        return found


class OutboxMachine(RuleBasedStateMachine):
    template: bytes = b""
    leases: tuple[LeaseId, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = LeaseChain()
        self.world.chain.restore(self.template)
        self.start = self.world.chain.height
        self.sent_before = bank.balance(self.world.chain.context(), SINK, UAKT)
        self.node = FaultyChain(self.world)
        self.journal = Journal(":memory:")
        self.clock = StepClock(self.world.chain.time_ns)
        self.wanted: dict[str, tuple[Intent, bool]] = {}
        self.ordered = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def load(self) -> int | None:
        body = self.journal.get("cursor", CHAIN_ID)
        return None if body is None else int(body["height"])

    def save(self, height: int) -> None:
        self.journal.put("cursor", CHAIN_ID, {"height": height}, is_open=False)

    async def nothing(self, _: int) -> None:
        return None

    @initialize(ordered=st.booleans(), prunes=st.booleans())
    def begin(self, ordered: bool, prunes: bool) -> None:
        self.ordered = ordered
        self.world.chain.keep_blocks = KEPT_BLOCKS if prunes else 100_000
        self.world.made.clear()
        self.restart()

    @rule()
    def restart(self) -> None:
        """All that is in memory is lost."""
        COUNTED["steps"] += 1
        self.node.floor_height = 0
        self.sender = Broadcaster(
            client=self.node,  # type: ignore[arg-type]
            outbox=JournalOutbox(self.journal),
            signer=PROVIDER,
            clock=self.clock,
            chain_time_ns=lambda: self.reader.tip.time_ns,
            gas_price_uakt=GAS_PRICE,
            lifetime_s=10.0,
            fee_budget_uakt_per_day=10**12,
            ordered=self.ordered,
        )
        self.reader = BlockReader(
            self.node,  # type: ignore[arg-type]
            clock=self.clock,
            load_cursor=self.load,
            save_cursor=self.save,
            on_block=self.sender.on_block,
            on_resync=self.nothing,
        )
        self.run(self.sender.recover())

    def submit(self, key: str, kind: str, message: Any, priority: Priority, *, good: bool) -> None:
        COUNTED["steps"] += 1
        intent = Intent(key, kind, (pack(message),), PROVIDER.address, priority)
        self.wanted[key] = (intent, good)
        assert self.sender.submit(intent).intent == intent

    @rule(count=st.integers(1, 3), priority=st.sampled_from(Priority))
    def pay(self, count: int, priority: Priority) -> None:
        for _ in range(count):
            number = len(self.wanted) + 1
            self.submit(f"pay/{number}", "pay", send(1000 + number), priority, good=True)

    @rule()
    def pay_too_much(self) -> None:
        number = len(self.wanted) + 1
        self.submit(f"pay/{number}", "pay", send(10**15 + number), Priority.MARKET, good=False)

    @rule(lease=st.integers(0, 1))
    def withdraw(self, lease: int) -> None:
        number = len(self.wanted) + 1
        message = codec.withdraw_lease(self.leases[lease])
        self.submit(f"withdraw/{number}", "withdraw", message, Priority.MONEY, good=True)

    @rule(which=st.integers(0, 50))
    def ask_again(self, which: int) -> None:
        COUNTED["steps"] += 1
        if self.wanted:
            intent, _ = self.wanted[sorted(self.wanted)[which % len(self.wanted)]]
            assert self.sender.submit(intent).intent == intent

    @rule()
    def step(self) -> None:
        COUNTED["steps"] += 1
        self.run(self.sender.step())

    @rule()
    def read(self) -> None:
        COUNTED["steps"] += 1
        self.run(self.reader.step())

    @rule(count=st.integers(1, 3), seconds=st.sampled_from([0.5, 1.0, 6.0, 30.0]))
    def block(self, count: int, seconds: float) -> None:
        COUNTED["steps"] += 1
        for _ in range(count):
            self.world.block(seconds=seconds)

    @rule(seconds=st.sampled_from([0.5, 6.0]))
    def outage(self, seconds: float) -> None:
        """Longer than what is read block by block before the present is looked at, and than what some nodes keep."""
        COUNTED["steps"] += 1
        COUNTED["outages"] += 1
        for _ in range(OUTAGE_BLOCKS):
            self.world.block(seconds=seconds)

    @rule(faults=FAULTS)
    def fail(self, faults: list[str]) -> None:
        COUNTED["steps"] += 1
        self.node.faults = deque(faults)

    @rule(hours=st.sampled_from([-1, 1]))
    def jump(self, hours: int) -> None:
        COUNTED["steps"] += 1
        COUNTED["jumps"] += 1
        self.clock.ns += hours * 3600 * NS_PER_S

    @rule()
    def forget_the_mempool(self) -> None:
        """The node was restarted."""
        COUNTED["steps"] += 1
        self.world.chain.mempool.clear()

    @rule()
    def another_signer(self) -> None:
        """Somebody else uses the account's next sequence."""
        COUNTED["steps"] += 1
        account = auth.get(self.world.chain.context(), PROVIDER.address)
        assert account is not None
        raw = build(
            [pack(send(1))],
            signer=PROVIDER,
            chain_id=CHAIN_ID,
            account_number=account.number,
            fee=Fee((fee_for(200_000, GAS_PRICE),), 200_000),
            ordering=Ordering(sequence=account.sequence),
        )
        if self.world.chain.add_to_mempool(raw).code == 0:
            self.world.block()
            self.sent_before += 1

    def teardown(self) -> None:
        """Everything works again: within bounded time all is settled, and the chain says each thing happened once."""
        try:
            self.node.faults.clear()
            for _ in range(400):
                self.world.block(seconds=2.0)
                self.run(self.reader.step())
                self.run(self.sender.step())
                entries = [self.sender.outcome(key) for key in self.wanted]
                if all(e is not None and e.state.final for e in entries):
                    break
            self.judge()
        finally:
            self.loop.close()
            self.journal.close()

    def judge(self) -> None:
        chain = self.world.chain
        done: Counter[bytes] = Counter()
        fees = 0
        for block in self.world.made:
            for raw, result in block.txs:
                tx = ante.decode(raw)
                foreign = not tx.body.unordered and not tx.body.HasField("timeout_timestamp")
                # What the ante handler turned away in a block has no events, and cost nothing.
                fees += 0 if foreign or not result.events else sum(coin.amount for coin in tx.fee)
                if result.code == 0:
                    done.update(pack(message)[1] for message in tx.messages)
        want: Counter[bytes] = Counter()
        unknown: set[bytes] = set()
        for key, (intent, good) in self.wanted.items():
            entry = self.sender.outcome(key)
            assert entry is not None
            assert entry.state.final, (entry, self.sender.problem, self.reader.tip.problem)
            value = intent.messages[0][1]
            if entry.state is State.EXPIRED:
                assert "cannot be known" in entry.log or entry.attempts == MAX_ATTEMPTS
                unknown.add(value)
            elif good:
                assert entry.succeeded, entry.problem
            want[value] += entry.succeeded
            assert good or not entry.succeeded
            COUNTED[entry.state.value] += 1
        for value, count in want.items():
            assert count <= done[value] <= count + (value in unknown), "lost or doubled"
        paid = sum(amount_of(value) * done[value] for value in want)
        assert bank.balance(chain.context(), SINK, UAKT) == self.sent_before + paid
        assert JournalOutbox(self.journal).outbox_txs(PROVIDER.address) == []
        assert self.sender.fees_paid_uakt == fees or (unknown and self.sender.fees_paid_uakt < fees)


def amount_of(value: bytes) -> int:
    """Of a payment; other messages pay nobody."""
    message = bank_tx.MsgSend.FromString(value)
    return int(message.amount[0].amount) if message.to_address == SINK else 0


@pytest.fixture
def hushed() -> Iterator[None]:
    """Logging every settled transaction would take longer than settling it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def prepare() -> None:
    world = LeaseChain()
    world.register()
    OutboxMachine.leases = tuple(lease for dseq in (101, 102) for lease in world.lease(dseq, "3", deposit=10**9))
    OutboxMachine.template = world.chain.snapshot()


@pytest.mark.usefixtures("hushed")
def test_every_interleaving_ends_with_each_intent_on_chain_once() -> None:
    prepare()
    COUNTED.clear()
    rounds = 0
    while COUNTED["steps"] < LEAST_STEPS and rounds < 100:
        machine = seed(SEED + rounds)(OutboxMachine)
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES_AT_ONCE,
                stateful_step_count=STEPS_EACH,
                deadline=None,
                database=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
        rounds += 1
    print(f"outbox model: seed {SEED}, {dict(sorted(COUNTED.items()))}")
    assert COUNTED["steps"] >= LEAST_STEPS
    assert COUNTED["faults"] > 0
