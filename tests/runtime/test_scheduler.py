"""Steps over slots: who runs when, where, and after what copies."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.two_tokenizers import byte_level

from rbee_runtime.errors import QueueFull
from rbee_runtime.prefix import PrefixIndex
from rbee_runtime.request import GREEDY, Request
from rbee_runtime.scheduler import Scheduler, Work
from rbee_runtime.sequence import Phase, Sequence
from rbee_runtime.step import PREFILL_CHUNK, Row, Step
from rbee_runtime.transfer import BLOCK, Load, LoadState, Move, Store, StoreState, Swap, Transfer

TOKEN = 100


def sequence(
    prompt: int | list[int] = 3, max_tokens: int = 5, name: str = "a", *, first: int = 3
) -> Sequence:
    ids = list(range(first, first + prompt)) if isinstance(prompt, int) else prompt
    request = Request(name, ids, max_tokens, GREEDY)
    return Sequence(request, ids, len(ids) + max_tokens, byte_level(), frozenset({0}))


def schedule(
    slots: int = 1,
    max_queue: int = 8,
    chunk: int = 4,
    blocks: int = 0,
    snapshots: int | None = None,
) -> Scheduler:
    return Scheduler(slots, max_queue, chunk, PrefixIndex(blocks, snapshots))


def perform(work: Work | None) -> Work:
    """Do what the loop does with a piece of work, but for the copies."""
    assert work is not None
    for one, row in zip(work.sequences, work.step.rows, strict=True):
        if one.advance(len(row.tokens)):
            one.accept(TOKEN)
    return work


def run(scheduler: Scheduler, one: Sequence) -> list[Work]:
    """Run until a sequence is finished."""
    done = []
    while one.phase is not Phase.FINISHED:
        done.append(perform(scheduler.next()))
    return done


def test_a_prompt_runs_in_chunks_and_then_a_token_at_a_time() -> None:
    scheduler = schedule()
    one = sequence(prompt=PREFILL_CHUNK + 2, max_tokens=3)
    scheduler.add(one)
    steps = [work.step for work in run(scheduler, one)]
    length = PREFILL_CHUNK + 5
    assert steps == [
        Step.of(0, 0, one.prompt[:PREFILL_CHUNK], length),
        Step.of(0, PREFILL_CHUNK, one.prompt[PREFILL_CHUNK:], length),
        Step.of(0, PREFILL_CHUNK + 2, [TOKEN], length),
        Step.of(0, PREFILL_CHUNK + 3, [TOKEN], length),
    ]


def test_those_that_decode_run_together() -> None:
    scheduler = schedule(slots=3, chunk=16)
    several = [sequence(prompt=n, name=f"{n}") for n in (5, 6, 7)]
    for one in several:
        scheduler.add(one)
    works = [perform(scheduler.next()) for _ in range(6)]
    # A step of those that decode comes between two prompts.
    assert [len(work.sequences[0].prompt) for work in works[0::2]] == [5, 6, 7]
    assert [work.sequences for work in works[1::2]] == [tuple(several[:n]) for n in (1, 2, 3)]
    assert [row.past for row in works[-1].step.rows] == [7, 7, 7]
    assert works[-1].step.slot == 0


def test_a_long_prompt_enters_between_the_steps_of_others() -> None:
    scheduler = schedule(slots=2, chunk=4)
    running, entering = sequence(max_tokens=40, name="a"), sequence(prompt=40, name="b")
    scheduler.add(running)
    perform(scheduler.next())
    scheduler.add(entering)
    works = [perform(scheduler.next()) for _ in range(20)]
    assert [work.sequences == (entering,) for work in works] == [False, True] * 10
    assert all(len(work.step.rows[0].tokens) <= 4 for work in works)
    assert entering.phase is Phase.DECODE


def test_prompts_that_will_have_a_slot_are_waited_for() -> None:
    scheduler = schedule(slots=3)
    for name in "abcd":
        scheduler.add(sequence(prompt=2, name=name))
    assert scheduler.prompts == 3
    perform(scheduler.next())
    assert scheduler.prompts == 3  # its own has only just ended
    perform(scheduler.next())
    assert (scheduler.decoding, scheduler.prompts) == (1, 2)


def test_the_shortest_prompt_goes_first_and_none_waits_for_ever() -> None:
    scheduler = schedule(slots=2, max_queue=100)
    long = sequence(prompt=1000, name="long")
    scheduler.add(long)
    short = [sequence(prompt=100, max_tokens=1, name=f"{n}") for n in range(60)]
    for one in short:
        scheduler.add(one)
    finished = 0
    while long.phase is not Phase.DECODE:
        work = perform(scheduler.next())
        for one in work.sequences:
            if one.phase is Phase.FINISHED:
                scheduler.remove(one)
                finished += 1
    # As much of others as it is long itself comes before its last chunk, and not much more.
    assert 8 <= finished <= 12


@pytest.mark.parametrize(("slots", "max_queue"), [(1, 0), (1, 2), (3, 1)])
def test_as_many_are_let_in_as_have_a_place(slots: int, max_queue: int) -> None:
    scheduler = schedule(slots, max_queue)
    for _ in range(slots + max_queue):
        scheduler.add(sequence())
    with pytest.raises(QueueFull, match=rf"no slot is free \(there are {slots}\)"):
        scheduler.add(sequence())
    scheduler.next()
    with pytest.raises(QueueFull, match=rf"wait as may \({max_queue}\)"):
        scheduler.add(sequence())
    scheduler.remove(scheduler.live[-1])
    scheduler.add(sequence())


def test_what_is_not_in_it_can_be_removed() -> None:
    scheduler = schedule(1, 1)
    scheduler.remove(sequence())
    one = sequence()
    scheduler.add(one)
    scheduler.next()
    scheduler.remove(one)
    scheduler.remove(one)
    assert scheduler.slots_available == 1
    assert scheduler.next() is None


def test_the_last_row_fills_the_place_of_one_that_leaves() -> None:
    scheduler = schedule(slots=3)
    several = [sequence(name=name) for name in "abc"]
    for one in several:
        scheduler.add(one)
    while not all(one.phase is Phase.DECODE for one in several):
        perform(scheduler.next())
    perform(scheduler.next())
    scheduler.remove(several[0])
    work = scheduler.next()
    assert work is not None
    assert work.transfers == (Move(2, 0, several[2].cached),)
    assert work.sequences == (several[2], several[1])
    assert scheduler.slots_available == 1


def test_a_prompt_that_begins_like_an_earlier_one_starts_later() -> None:
    scheduler = schedule(slots=2, blocks=8)
    first = sequence(prompt=3 * BLOCK + 5, max_tokens=2, name="first")
    scheduler.add(first)
    perform(scheduler.next())
    assert scheduler.keep(first) == [Store(0, n * BLOCK, n) for n in range(3)]
    assert scheduler.keep(first) == []
    second = sequence(first.prompt[: 2 * BLOCK] + [7] * 9, name="second")
    scheduler.add(second)
    run(scheduler, first)
    scheduler.remove(first)
    work = scheduler.next()
    while work is None or work.sequences != (second,):
        work = scheduler.next()
    slot = second.slot
    loads = [transfer for transfer in work.transfers if isinstance(transfer, Load)]
    assert loads == [Load(0, slot or 0, 0), Load(1, slot or 0, BLOCK)]
    assert work.step.rows[0] == Row(2 * BLOCK, [7, 7, 7, 7, 7, 7, 7, 7, 7], second.length)
    assert second.reused == 2 * BLOCK


def test_a_prompt_known_whole_still_runs_its_end() -> None:
    scheduler = schedule(slots=1, blocks=8)
    for expected in (0, BLOCK):
        one = sequence(prompt=2 * BLOCK, max_tokens=1, name="same")
        scheduler.add(one)
        perform(scheduler.next())
        scheduler.keep(one)
        scheduler.remove(one)
        assert one.reused == expected


def test_the_two_sets_of_frequencies_share_nothing() -> None:
    scheduler = Scheduler(1, 8, 4, PrefixIndex(8), long_from=100)
    for max_tokens, reused in ((5, 0), (5, BLOCK), (90, 0), (90, BLOCK)):
        one = sequence(prompt=BLOCK + 1, max_tokens=max_tokens, name="same")
        scheduler.add(one)
        perform(scheduler.next())
        scheduler.keep(one)
        scheduler.remove(one)
        assert one.reused == reused


def test_states_are_kept_of_a_prompt_s_end_and_of_what_two_begin_with() -> None:
    """A prompt stops there for them; each run of the same system prompt reuses more."""
    scheduler = schedule(chunk=512, blocks=99, snapshots=9)
    system = list(range(200, 200 + 5 * BLOCK))
    found = []
    for user in (10, 11, 12, 13):
        one = sequence([*system, *[user] * 50], max_tokens=40, name=f"{user}")
        scheduler.add(one)
        widths, stored = [], []
        while one.phase is not Phase.FINISHED:
            work = perform(scheduler.next())
            widths.append(len(work.step.rows[0].tokens))
            stores = scheduler.keep(one)
            stored += [one.cached for store in stores if isinstance(store, StoreState)]
            loads = [load for load in work.transfers if isinstance(load, LoadState)]
            assert [load.position for load in loads] == ([one.reused] if one.reused else [])[
                : len(loads)
            ]
        scheduler.remove(one)
        found.append((one.reused, widths[: widths.index(1)], stored))
    whole, end = 5 * BLOCK, 6 * BLOCK
    assert found == [
        (0, [end, 18], [end]),
        (0, [whole, BLOCK, 18], [whole, end]),
        (whole, [BLOCK, 18], [end]),
        (whole, [BLOCK, 18], [end]),
    ]
    again = sequence([*system, *[13] * 60], name="again")
    scheduler.add(again)
    perform(scheduler.next())
    assert again.reused == end


@pytest.mark.parametrize(("prompt", "snapshots"), [(4 * BLOCK - 1, 9), (4 * BLOCK + 1, 0)])
def test_no_prompt_stops_for_little_or_where_there_is_no_room(prompt: int, snapshots: int) -> None:
    scheduler = schedule(chunk=512, blocks=99, snapshots=snapshots)
    one = sequence(prompt)
    scheduler.add(one)
    perform(scheduler.next())
    assert one.cached == prompt
    assert {type(store) for store in scheduler.keep(one)} == {Store}


class Schedules(RuleBasedStateMachine):
    """Any order of arrivals, steps and departures, over a cache made of lists of tokens."""

    @initialize(
        slots=st.integers(1, 5),
        max_queue=st.integers(0, 4),
        chunk=st.integers(1, 2 * BLOCK),
        blocks=st.integers(0, 12),
        snapshots=st.none() | st.integers(0, 3),
    )
    def begin(
        self, slots: int, max_queue: int, chunk: int, blocks: int, snapshots: int | None
    ) -> None:
        self.scheduler = schedule(slots, max_queue, chunk, blocks, snapshots)
        self.goes_back = snapshots is None
        self.states: list[list[int]] = [[] for _ in range(snapshots or 0)]
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.held: list[list[int]] = [[] for _ in range(slots)]
        self.kept: list[list[int]] = [[] for _ in range(blocks)]
        self.arrivals = 0
        self.since_decode = 0

    @rule(
        beginnings=st.integers(0, 3),
        shared=st.integers(0, 5 * BLOCK),
        own=st.integers(1, 2 * BLOCK),
        max_tokens=st.integers(1, 40),
    )
    def arrive(self, beginnings: int, shared: int, own: int, max_tokens: int) -> None:
        self.arrivals += 1
        prompt = [10 + beginnings] * shared + [20 + self.arrivals % 50] * own
        one = sequence(prompt, max_tokens, name=f"{self.arrivals}")
        free = self.scheduler.slots - len(self.running)
        if len(self.waiting) < free + self.scheduler.max_queue:
            self.scheduler.add(one)
            self.waiting.append(one)
        else:
            with pytest.raises(QueueFull):
                self.scheduler.add(one)

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.step_once()

    def step_once(self) -> None:
        decoding = [one for one in self.running if one.phase is Phase.DECODE]
        work = self.scheduler.next()
        free = self.scheduler.slots - len(self.running)
        self.running += self.waiting[:free]  # first come, first served
        del self.waiting[:free]
        if not self.running:
            assert work is None
            return
        assert work is not None
        for transfer in work.transfers:
            self.copy(transfer)
        rows = work.step.rows
        if work.sequences[0].phase is Phase.DECODE:
            assert set(work.sequences) == set(decoding)  # all of them
            assert work.step.slot == 0
            assert all(len(row.tokens) == 1 for row in rows)
            self.since_decode = 0
        else:
            assert len(rows) == 1
            limit = self.scheduler.chunk if decoding else PREFILL_CHUNK
            assert 1 <= len(rows[0].tokens) <= limit
            self.since_decode += 1 if decoding else 0
            assert self.since_decode <= 1  # nobody's stream stalls longer than a chunk
        for number, (one, row) in enumerate(zip(work.sequences, rows, strict=True)):
            assert one in self.running
            slot = work.step.slot + number
            assert one.slot == slot
            held = self.held[slot]
            # The slot holds just what the sequence has run.
            assert held[: row.past] == one.ids(0, row.past)
            assert self.goes_back or row.past in (0, len(held))
            held[row.past :] = row.tokens
            assert held == one.ids(0, row.end)
        ended = []
        for one, row in zip(work.sequences, rows, strict=True):
            wants = one.advance(len(row.tokens))
            for store in self.scheduler.keep(one):
                self.copy(store)
            if wants:
                one.accept(TOKEN + len(one.tokens) % 3)
                ended += [one] if one.phase is Phase.FINISHED else []
        for one in ended:
            self.leave(one)

    def copy(self, transfer: Transfer) -> None:
        match transfer:
            case Move(source, target, positions):
                assert len(self.held[source]) >= positions
                self.held[target] = self.held[source][:positions]
            case Swap(one, other, positions):
                assert max(len(self.held[one]), len(self.held[other])) >= positions
                self.held[one], self.held[other] = self.held[other], self.held[one]
            case Store(slot, position, block):
                self.kept[block] = self.held[slot][position : position + BLOCK]
                assert len(self.kept[block]) == BLOCK
            case Load(block, slot, position):
                self.held[slot][position:] = self.kept[block]
            case StoreState(slot, snapshot):
                self.states[snapshot] = list(self.held[slot])
            case LoadState(snapshot, slot, position):
                assert self.held[slot] == self.states[snapshot]
                assert len(self.held[slot]) == position

    @precondition(lambda self: self.waiting or self.running)
    @rule(data=st.data())
    def depart(self, data: st.DataObject) -> None:
        self.leave(data.draw(st.sampled_from([*self.running, *self.waiting])))

    def leave(self, one: Sequence) -> None:
        self.scheduler.remove(one)
        assert one.slot is None
        (self.waiting if one in self.waiting else self.running).remove(one)

    @invariant()
    def nobody_shares_and_nothing_leaks(self) -> None:
        slots = [one.slot for one in self.running]
        assert len(set(slots)) == len(slots)
        assert set(slots) <= set(range(self.scheduler.slots))
        assert self.scheduler.slots_available == self.scheduler.slots - len(slots)
        assert self.scheduler.queued == len(self.waiting)
        assert set(map(id, self.scheduler.live)) == set(map(id, self.running + self.waiting))

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        turns = 0
        while self.running or self.waiting:  # everybody gets to the end
            self.step_once()
            turns += 1
            assert turns < 20_000
        assert self.scheduler.slots_available == self.scheduler.slots


TestSchedules: Any = Schedules.TestCase
TestSchedules.settings = settings(stateful_step_count=25, deadline=None)
