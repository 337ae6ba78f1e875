"""The backlog against a plain model of what a work queue owes its callers."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gpulease.kube.queue import Backlog, Backoff

pytestmark = [pytest.mark.property]

KEYS = st.integers(min_value=0, max_value=5)


class BacklogMachine(RuleBasedStateMachine):
    """``owed`` holds the keys that must still run, ``due`` the earliest time at which a delayed one must."""

    @initialize()
    def begin(self) -> None:
        self.now_s = 1000.0
        self.backlog: Backlog[int] = Backlog(backoff=Backoff(base_s=1, cap_s=16))
        self.owed: set[int] = set()
        self.due: dict[int, float] = {}
        self.running: set[int] = set()

    @rule(key=KEYS, urgent=st.booleans())
    def add(self, key: int, urgent: bool) -> None:
        assert self.backlog.add(key, self.now_s, urgent=urgent)
        self.owed.add(key)

    @rule(key=KEYS, delay_s=st.floats(min_value=0.1, max_value=100), urgent=st.booleans())
    def add_after(self, key: int, delay_s: float, urgent: bool) -> None:
        assert self.backlog.add_after(key, delay_s, self.now_s, urgent=urgent)
        self.due[key] = min(self.due.get(key, float("inf")), self.now_s + delay_s)

    @rule(seconds=st.floats(min_value=0, max_value=200))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def _ripen(self) -> None:
        for key in [key for key, at in self.due.items() if at <= self.now_s]:
            del self.due[key]
            self.owed.add(key)

    @rule()
    def take(self) -> None:
        self._ripen()
        key = self.backlog.take(self.now_s)
        if key is None:
            assert not self.owed - self.running, "a key that is owed and free was not handed out"
            return
        assert key not in self.running, "a key ran twice at a time"
        assert key in self.owed, "a key ran that nobody asked for"
        self.owed.discard(key)
        self.running.add(key)

    @rule(data=st.data(), fails=st.booleans())
    def done(self, data: st.DataObject, fails: bool) -> None:
        if not self.running:
            return
        key = data.draw(st.sampled_from(sorted(self.running)))
        if fails:
            before = self.backlog.failures(key)
            wait_s = self.backlog.retry(key, self.now_s)
            assert wait_s == min(16, 2.0**before)
            self.due[key] = min(self.due.get(key, float("inf")), self.now_s + wait_s)
        else:
            self.backlog.forget(key)
            assert self.backlog.failures(key) == 0
        self.backlog.done(key, self.now_s)
        self.running.discard(key)

    @invariant()
    def wakes_in_time(self) -> None:
        if not hasattr(self, "due"):
            return
        next_s = self.backlog.next_due_s()
        assert next_s == min(self.due.values(), default=None)

    @invariant()
    def counts(self) -> None:
        if not hasattr(self, "due"):
            return
        depth, in_flight, delayed, *_ = self.backlog.stats(self.now_s)
        assert in_flight == len(self.running)
        assert delayed == len(self.due)
        assert depth == len(self.owed - self.running) == len(self.backlog)

    def teardown(self) -> None:
        if not hasattr(self, "due"):
            return
        # Nothing asked for is ever lost: drain and see every owed key run.
        for key in sorted(self.running):
            self.backlog.done(key, self.now_s)
        self.running.clear()
        self.now_s += 10_000
        self._ripen()
        drained = set()
        while (key := self.backlog.take(self.now_s)) is not None:
            drained.add(key)
        assert drained == self.owed


TestBacklog = BacklogMachine.TestCase
TestBacklog.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
