"""Packs of texts: what runs with what, and who waits for whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rbee_runtime.embedding.packer import Pack, Packer, Text
from rbee_runtime.errors import QueueFull

BUDGET = 20


def texts(name: str, lengths: Sequence[int]) -> list[Text]:
    return [Text(name, i, np.zeros(length, np.int32)) for i, length in enumerate(lengths)]


def shape(pack: Pack | None) -> list[tuple[str, int]]:
    assert pack is not None
    return [(text.request_id, text.index) for text in pack.texts]


def packer(*requests: tuple[str, Sequence[int]], most: int = 100) -> Packer:
    made = Packer(most)
    for name, lengths in requests:
        made.add(name, texts(name, lengths))
    return made


def test_short_texts_of_many_requests_run_together() -> None:
    packs = packer(("a", [3]), ("b", [4, 5]), ("c", [6]))
    assert shape(packs.next(BUDGET)) == [("a", 0), ("c", 0), ("b", 0), ("b", 1)]
    assert packs.next(BUDGET) is None


def test_a_text_beyond_the_budget_runs_alone() -> None:
    packs = packer(("a", [2, 50, 3, 4]))
    assert [shape(packs.next(BUDGET)) for _ in range(3)] == [
        [("a", 0)],
        [("a", 1)],
        [("a", 2), ("a", 3)],
    ]


def test_a_long_request_does_not_hold_up_a_short_one() -> None:
    packs = packer(("bulk", [10] * 2048))
    packs.next(BUDGET)
    packs.add("one", texts("one", [7]))
    assert shape(packs.next(BUDGET)) == [("one", 0), ("bulk", 2)]


def test_short_requests_without_end_do_not_hold_up_a_long_one() -> None:
    packs = packer(("long", [10] * 10))
    done = run = 0
    while done < 10:
        for number in range(2):
            name = f"{run}-{number}"
            packs.add(name, texts(name, [10]))
        pack = packs.next(BUDGET)
        assert pack is not None
        run += pack.tokens
        done += sum(text.request_id == "long" for text in pack.texts)
        for text in pack.texts:
            if text.request_id != "long":
                packs.remove(text.request_id)
    assert run == 200  # as much for others as for itself


def test_the_line_has_an_end() -> None:
    packs = packer(("a", [3]), ("b", [3]), most=2)
    packs.next(BUDGET)
    with pytest.raises(QueueFull, match=r"as may \(2\)"):
        packs.add("c", texts("c", [3]))
    packs.remove("a")  # which has run, and not been removed before
    packs.add("c", texts("c", [3]))
    assert len(packs) == 2


class AnyOrder(RuleBasedStateMachine):
    """Requests come, run and leave in any order."""

    @initialize()
    def begin(self) -> None:
        self.packer = Packer(1000)
        self.rest: dict[str, list[int]] = {}
        self.size: dict[str, int] = {}
        self.came: dict[str, int] = {}
        self.run = 0

    @rule(lengths=st.lists(st.integers(1, BUDGET + 5), min_size=1, max_size=12))
    def arrives(self, lengths: list[int]) -> None:
        name = f"{len(self.came)}"
        self.packer.add(name, texts(name, lengths))
        self.rest[name], self.size[name] = lengths, sum(lengths)
        self.came[name] = self.run

    @precondition(lambda self: self.rest)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.rest)))
        self.packer.remove(name)
        del self.rest[name]

    @rule()
    def runs(self) -> None:
        pack = self.packer.next(BUDGET)
        if pack is None:
            assert not any(self.rest.values())
            return
        names = list(dict.fromkeys(text.request_id for text in pack.texts))
        self._nobody_is_passed_who_may_not_be(names[0])
        ran = [len(text.ids) for text in pack.texts]
        assert pack.tokens == sum(ran)
        assert pack.tokens <= BUDGET or len(ran) == 1
        at = 0
        for name in names:
            mine = [text for text in pack.texts if text.request_id == name]
            # Those of a request stand together, and are the first of what is left of it.
            assert list(pack.texts[at : at + len(mine)]) == mine
            at += len(mine)
            assert [len(text.ids) for text in mine] == self.rest[name][: len(mine)]
            del self.rest[name][: len(mine)]
        # Whoever waits on has no room for its next.
        for left in filter(None, self.rest.values()):
            assert left[0] + pack.tokens > BUDGET
        self.run += pack.tokens

    def _nobody_is_passed_who_may_not_be(self, first: str) -> None:
        for name, left in self.rest.items():
            if left and name != first:
                assert self.came[first] < self.came[name] + self.size[name]

    @invariant()
    def counts(self) -> None:
        assert len(self.packer) == len(self.rest)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
