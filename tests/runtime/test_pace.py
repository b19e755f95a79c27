"""Chunks of prompts that fit between the steps of others."""

from __future__ import annotations

import pytest

from rbee_runtime.pace import Pace


def settle(pace: Pace, step: float, seconds_per_token: float, fixed: float = 0.0) -> int:
    for _ in range(20):
        pace.decoded(step)
        pace.prefilled(pace.chunk, fixed + pace.chunk * seconds_per_token)
    return pace.chunk


@pytest.mark.parametrize("step", [0.002, 0.02, 0.05])
def test_a_chunk_takes_as_long_as_two_steps(step: float) -> None:
    assert settle(Pace(256), step, 0.001) == pytest.approx(2 * step / 0.001, abs=6)


def test_where_tokens_cost_next_to_nothing_chunks_grow_to_the_most() -> None:
    assert settle(Pace(512), 0.01, 1e-6, fixed=0.012) == 512


def test_it_follows_what_prompts_come_to_cost() -> None:
    pace = Pace(256)
    assert settle(pace, 0.02, 0.001) == pytest.approx(40, abs=2)
    assert settle(pace, 0.02, 0.002) == pytest.approx(20, abs=2)


@pytest.mark.parametrize(("most", "least"), [(256, 8), (4, 4)])
def test_however_slow_some_tokens_run(most: int, least: int) -> None:
    assert settle(Pace(most), 0.001, 1.0) == least


def test_one_odd_step_changes_little() -> None:
    pace = Pace(256)
    settled = settle(pace, 0.02, 0.001)
    pace.prefilled(settled, 5.0)
    assert pace.chunk == settled // 2
    assert settle(pace, 0.02, 0.001) == pytest.approx(settled, abs=2)


def test_before_anything_has_decoded_nothing_is_concluded() -> None:
    pace = Pace(256)
    first = pace.chunk
    pace.prefilled(first, 100.0)
    assert pace.chunk == first
