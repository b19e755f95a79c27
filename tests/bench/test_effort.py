"""Instructions of Python are counted, and come out the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbee_bench.effort import BATCHES, count_effort
from rbee_runtime.sequence import Sequence


def test_the_same_work_costs_the_same_and_more_work_more(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = count_effort(tiny_artifact)
    again = count_effort(tiny_artifact)
    assert tuple(first) == BATCHES
    for batch, effort in first.items():
        assert effort > 100
        assert again[batch] == pytest.approx(effort, rel=0.01)
    # What several sequences do in one step costs each of them less.
    assert first[8] < first[1]
    accept = Sequence.accept

    def slower(self: Sequence, token: int) -> str:
        for _ in range(50):
            pass
        return accept(self, token)

    monkeypatch.setattr(Sequence, "accept", slower)
    slowed = count_effort(tiny_artifact)
    for batch, effort in first.items():
        assert slowed[batch] > 1.05 * effort
