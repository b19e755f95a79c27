"""Taking turns, so that a slow minute of the machine falls on everybody."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

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
