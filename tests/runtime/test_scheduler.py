"""Turns over slots: first come, first served, nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.two_tokenizers import byte_level

from rbee_runtime.errors import QueueFull
from rbee_runtime.request import GREEDY, Request
from rbee_runtime.scheduler import Scheduler
from rbee_runtime.sequence import Phase, Sequence
from rbee_runtime.step import Step

TOKEN = 100


def sequence(prompt: int = 3, max_tokens: int = 5, name: str = "a") -> Sequence:
    ids = list(range(3, 3 + prompt))
    return Sequence(Request(name, ids, max_tokens, GREEDY), ids, byte_level(), frozenset({0}))


def perform(work: tuple[Sequence, Step] | None) -> Sequence:
    """Do what the engine does with a step."""
    assert work is not None
    chosen, step = work
    if chosen.advance(len(step.tokens)):
        chosen.accept(TOKEN)
    return chosen


def test_a_prompt_runs_in_chunks_and_then_a_token_at_a_time() -> None:
    scheduler = Scheduler(1, 0, chunk=4)
    one = sequence(prompt=10, max_tokens=3)
    scheduler.add(one)
    steps = []
    while one.phase is not Phase.FINISHED:
        work = scheduler.next()
        assert work is not None
        steps.append(work[1])
        perform(work)
    assert steps == [
        Step(0, 0, [3, 4, 5, 6], 13),
        Step(0, 4, [7, 8, 9, 10], 13),
        Step(0, 8, [11, 12], 13),
        Step(0, 10, [TOKEN], 13),
        Step(0, 11, [TOKEN], 13),
    ]


def test_those_with_a_slot_take_turns_and_the_others_wait() -> None:
    scheduler = Scheduler(2, 8, chunk=256)
    first, second, third = (sequence(name=name) for name in "abc")
    for one in (first, second, third):
        scheduler.add(one)
    assert scheduler.live == [first, second, third]
    assert [perform(scheduler.next()) for _ in range(4)] == [first, second, first, second]
    assert (scheduler.slots_available, scheduler.queued) == (0, 1)
    slot = first.slot
    scheduler.remove(first)
    assert [perform(scheduler.next()) for _ in range(2)] == [second, third]
    assert third.slot == slot
    assert (scheduler.slots_available, scheduler.queued) == (0, 0)


@pytest.mark.parametrize(("slots", "max_queue"), [(1, 0), (1, 2), (3, 1)])
def test_as_many_are_let_in_as_have_a_place(slots: int, max_queue: int) -> None:
    scheduler = Scheduler(slots, max_queue, chunk=8)
    for _ in range(slots + max_queue):
        scheduler.add(sequence())
    with pytest.raises(QueueFull, match=f"all {slots} slots are taken"):
        scheduler.add(sequence())
    scheduler.next()
    with pytest.raises(QueueFull, match=f"{max_queue} requests wait already"):
        scheduler.add(sequence())
    scheduler.remove(scheduler.live[-1])
    scheduler.add(sequence())


def test_what_is_not_in_it_can_be_removed() -> None:
    scheduler = Scheduler(1, 1, chunk=8)
    scheduler.remove(sequence())
    one = sequence()
    scheduler.add(one)
    scheduler.next()
    scheduler.remove(one)
    scheduler.remove(one)
    assert scheduler.slots_available == 1
    assert scheduler.next() is None


class Schedules(RuleBasedStateMachine):
    """Any order of arrivals, steps and departures."""

    @initialize(slots=st.integers(1, 4), max_queue=st.integers(0, 4), chunk=st.integers(1, 5))
    def begin(self, slots: int, max_queue: int, chunk: int) -> None:
        self.scheduler = Scheduler(slots, max_queue, chunk)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.waits: dict[int, int] = {}
        self.cached: dict[int, list[int]] = {}

    @rule(prompt=st.integers(1, 12), max_tokens=st.integers(1, 4))
    def arrive(self, prompt: int, max_tokens: int) -> None:
        one = sequence(prompt, max_tokens)
        free = self.scheduler.slots - len(self.running)
        if len(self.waiting) < free + self.scheduler.max_queue:
            self.scheduler.add(one)
            self.waiting.append(one)
        else:
            with pytest.raises(QueueFull):
                self.scheduler.add(one)

    @rule()
    def step(self) -> None:
        work = self.scheduler.next()
        free = self.scheduler.slots - len(self.running)
        for one in self.waiting[:free]:
            self.running.append(one)
            self.waits[id(one)] = 0
            self.cached[id(one)] = []
        del self.waiting[:free]
        if not self.running:
            assert work is None
            return
        assert work is not None
        chosen, step = work
        assert chosen in self.running
        assert step.slot == chosen.slot
        # Whoever holds a slot is not passed by more often than there are others.
        self.waits = {key: turns + 1 for key, turns in self.waits.items()}
        self.waits[id(chosen)] = 0
        assert max(self.waits.values()) <= self.scheduler.slots
        # The slot holds what it has been given, without gaps.
        cached = self.cached[id(chosen)]
        assert step.past == len(cached)
        assert 1 <= len(step.tokens) <= self.scheduler.chunk
        cached.extend(step.tokens)
        perform(work)
        known = chosen.prompt + chosen.tokens
        assert cached == known[: len(cached)]
        if chosen.phase is Phase.FINISHED:
            self.leave(chosen)

    @precondition(lambda self: self.waiting or self.running)
    @rule(data=st.data())
    def depart(self, data: st.DataObject) -> None:
        self.leave(data.draw(st.sampled_from([*self.running, *self.waiting])))

    def leave(self, one: Sequence) -> None:
        self.scheduler.remove(one)
        assert one.slot is None
        if one in self.waiting:
            self.waiting.remove(one)
        else:
            self.running.remove(one)
            del self.waits[id(one)], self.cached[id(one)]

    @invariant()
    def nobody_shares_and_nothing_leaks(self) -> None:
        slots = [one.slot for one in self.running]
        assert len(set(slots)) == len(slots)
        assert set(slots) <= set(range(self.scheduler.slots))
        assert self.scheduler.slots_available == self.scheduler.slots - len(slots)
        assert self.scheduler.queued == len(self.waiting)
        assert set(map(id, self.scheduler.live)) == set(map(id, self.running + self.waiting))

    def teardown(self) -> None:
        for one in [*self.running, *self.waiting]:
            self.scheduler.remove(one)
        assert self.scheduler.slots_available == self.scheduler.slots


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
