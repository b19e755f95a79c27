"""How many guesses are worth it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee_runtime.drafting import Draft
from rbee_runtime.speculation import Speculation
from rbee_runtime.step import Row, Step

MOST = 16


def extended(speculation: Speculation, *chances: Sequence[float]) -> Step:
    """Return a step of rows whose guesses have these chances."""
    step = Step(0, [Row(10 + n, [n], 99) for n in range(len(chances))])
    sequences: list[Any] = [
        SimpleNamespace(draft=lambda most, of=of: Draft([7] * len(of), of)) for of in chances
    ]
    return speculation.extend(step, sequences)


def learned(seconds: dict[int, float], rounds: int = 60) -> Speculation:
    """Return one that has seen how long steps of so many tokens take, and of one."""
    speculation = Speculation(MOST)
    for _ in range(rounds):
        for tokens, took in seconds.items():
            speculation.took(1, 1.0)
            speculation.took(tokens, took)
    speculation.took(1, 1.0)
    return speculation


def guesses(step: Step) -> list[int]:
    return [row.guesses for row in step.rows]


def test_without_guesses_the_step_stays_as_it_was() -> None:
    step = Step(0, [Row(10, [1], 99)])
    nothing: Any = SimpleNamespace(draft=lambda most: None)
    assert Speculation(MOST).extend(step, [nothing]) is step


def test_what_is_certain_runs_along() -> None:
    """The guesses stand behind the token of their row; what follows them stays."""
    step = extended(Speculation(MOST), [1.0] * 5)
    assert step == Step(0, [Row(10, [0, 7, 7, 7, 7, 7], 99, 5)], 5)
    assert step.tokens == 6


def test_what_hardly_comes_true_does_not() -> None:
    assert guesses(extended(Speculation(MOST), [0.05, 0.01])) == [0]


def test_the_dearer_a_token_the_fewer_guesses() -> None:
    chances = [0.8**n for n in range(1, MOST + 1)]
    by_cost = []
    for share in (0.02, 0.1, 0.3, 0.6):
        cheap = learned({n: 1.0 + share * (n - 1) for n in (2, 4, 8, 16)})
        by_cost.append(guesses(extended(cheap, chances))[0])
    assert by_cost == sorted(by_cost, reverse=True)
    assert by_cost[0] >= 8
    assert by_cost[-1] <= 1


def test_what_became_dear_from_some_number_on() -> None:
    """As where a kernel takes eight rows at a time."""
    speculation = learned({2: 1.01, 4: 1.03, 8: 1.1, 16: 4.0})
    assert guesses(extended(speculation, [0.97**n for n in range(1, MOST + 1)])) == [7]


def test_the_likeliest_guesses_of_all_rows_go_first() -> None:
    speculation = learned({4: 1.9})
    assert guesses(extended(speculation, [0.1], [1.0, 1.0], [0.9, 0.2])) == [0, 2, 1]


@pytest.mark.parametrize("others", [1, 3, 15])
def test_one_that_knows_what_comes_takes_little_from_the_others(others: int) -> None:
    """What it gains is more than what they lose, all of them together."""
    share = 0.15
    speculation = learned({n: 1.0 + share * (n - 1) for n in (2, 4, 8, 16)})
    step = extended(speculation, [1.0] * MOST, *[[]] * others)
    before, after = (1.0 + share * (tokens - 1) for tokens in (1 + others, step.tokens))
    faster, slower = (1 + step.guesses) * before / after, before / after
    assert faster * slower**others >= 1.0
    assert slower > 0.5
    assert (step.guesses > 0) == (others < 15)


def test_what_was_once_too_dear_is_tried_again() -> None:
    speculation = learned({2: 2.0, 4: 4.0})
    assert guesses(extended(speculation, [0.7])) == [0]
    for _ in range(300):
        extended(speculation, [0.7])
    assert guesses(extended(speculation, [0.7])) == [1]


def test_a_slower_machine_changes_nothing() -> None:
    """Only steps next to each other are compared."""
    speculation = Speculation(MOST)
    for number in range(200):
        pace = 1.0 + number / 50
        speculation.took(1, pace)
        speculation.took(3, 1.2 * pace)
    assert guesses(extended(speculation, [0.4, 0.3])) == [2]


@given(
    chances=st.lists(st.lists(st.floats(0.0, 1.0), max_size=20), min_size=1, max_size=5),
    steps=st.lists(st.tuples(st.integers(1, 40), st.floats(1e-4, 10.0)), max_size=30),
)
def test_never_more_than_there_may_be(
    chances: list[list[float]], steps: list[tuple[int, float]]
) -> None:
    speculation = Speculation(MOST)
    for tokens, seconds in steps:
        speculation.took(tokens, seconds)
    falling = [sorted(row, reverse=True) for row in chances]
    step = extended(speculation, *falling)
    assert step.guesses == sum(guesses(step)) <= MOST
    assert all(row.guesses <= len(of) for row, of in zip(step.rows, falling, strict=True))
    placed = list(step.apart())
    assert len(placed) == step.tokens == len(chances) + step.guesses
    assert [slot for slot, _ in placed[: len(chances)]] == list(range(len(chances)))
    assert len({(slot, row.past) for slot, row in placed}) == len(placed)
