"""Taking turns, so that a slow minute of the machine falls on everybody."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import TypeVar

from rbee_bench.subject import Progress

T = TypeVar("T")


def interleave(
    subjects: Mapping[str, Callable[[], T]],
    rounds: int,
    turn: Callable[[str], None],
) -> dict[str, tuple[T, ...]]:
    """Measure every subject once a round: A B C, A B C, and so on. A warm-up round is dropped.

    Args:
        subjects: What to measure, by name.
        rounds: Rounds that count.
        turn: Called with a subject's name after each of its ``rounds + 1`` turns.

    Returns:
        By name, one measurement a round, in order.
    """
    taken: dict[str, list[T]] = {name: [] for name in subjects}
    for _ in range(rounds + 1):
        for name, measure in subjects.items():
            taken[name].append(measure())
            turn(name)
    return {name: tuple(values[1:]) for name, values in taken.items()}


def counted(progress: Progress, turns: int) -> Callable[[str], None]:
    """Return what tells of each turn that is done, of so many, by its name."""
    done = count(1)
    return lambda name: progress(name, next(done), turns)
