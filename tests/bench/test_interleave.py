from __future__ import annotations

from functools import partial

from rbee_bench.interleave import interleave


def test_subjects_take_turns_and_the_first_round_is_dropped() -> None:
    order: list[str] = []
    turns: list[str] = []

    def measure(name: str) -> str:
        order.append(name)
        return f"{name}{order.count(name)}"

    taken = interleave({name: partial(measure, name) for name in "abc"}, 2, turns.append)

    assert order == turns == list("abc" * 3)
    assert taken == {"a": ("a2", "a3"), "b": ("b2", "b3"), "c": ("c2", "c3")}
