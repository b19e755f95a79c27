"""Everything that ``rbee-bench faults`` lets go wrong, on a small model."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from rbee_bench.faults import CASES, Case, FaultRow, Model, run_case

AT_ONCE = 6
PATIENT = ("hive hangs", "clock jumps", "engine hangs")
"""Faults that take seconds to be noticed: these begin first, and the others run meanwhile."""

Rows = dict[Case, Future[FaultRow]]


@pytest.fixture(scope="module")
def rows(tiny_artifact: Path, tiny_llama: Path) -> Iterator[Rows]:
    """Several at once: they spend their time waiting for each other's patience to end."""
    model = Model(tiny_artifact, tiny_llama)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        order = sorted(CASES, key=lambda case: case.fault not in PATIENT)
        yield {case: pool.submit(run_case, case, model) for case in order}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.fault}, {case.stage}")
def test_the_worker_does_what_it_must(rows: Rows, case: Case) -> None:
    row = rows[case].result()
    assert row.held, row.did
