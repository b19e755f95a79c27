"""A short form of ``rbee-bench hostile`` and of ``rbee-bench load``, on a small model."""

from __future__ import annotations

from pathlib import Path

from rbee_bench.hostile import ATTACKS, measure_hostile
from rbee_bench.load import measure_load
from rbee_runtime import Artifact


def test_hostile_requests(tiny_artifact: Path) -> None:
    found = measure_hostile(Artifact.open(tiny_artifact), 600, lambda *_: None)
    assert found.requests >= 600 >= len(ATTACKS)
    assert found.held, found
    assert found.good >= 2
    assert found.statuses[400] > 100


def test_many_streams(tiny_artifact: Path) -> None:
    found = measure_load(Artifact.open(tiny_artifact), 40, 4, 2.0, lambda *_: None)
    assert found.lost == 0, found.faults
    assert found.ended >= 40
    assert found.tokens > 0
    assert found.health
