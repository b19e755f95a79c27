"""Packs take about as long as a step may, on any machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee_runtime.embedding.pace import PackPace


@pytest.mark.parametrize(
    ("rate", "weight_bytes", "expected"),
    [
        (30_000, 0, 600),
        (10_000, 0, 200),
        (1_000, 0, 128),
        (1e7, 0, 2048),
        (30_000, 1 << 30, 600),
        (1_000, 1 << 30, 256),
    ],
)
def test_packs_come_to_take_as_long_as_a_step_may(
    rate: float, weight_bytes: int, expected: int
) -> None:
    pace = PackPace(2048, weight_bytes)
    for _ in range(40):
        pace.ran(pace.tokens, pace.tokens / rate)
    assert pace.tokens == pytest.approx(expected, rel=0.02)


def test_packs_with_little_in_them_tell_nothing() -> None:
    pace = PackPace(2048)
    before = pace.tokens
    pace.ran(8, 0.001)
    assert pace.tokens == before


@given(
    most=st.integers(1, 4096),
    packs=st.lists(st.tuples(st.integers(1, 8192), st.floats(0, 1e6))),
)
def test_a_pack_always_has_room(most: int, packs: list[tuple[int, float]]) -> None:
    pace = PackPace(most)
    for tokens, seconds in packs:
        pace.ran(tokens, seconds)
        assert 1 <= pace.tokens <= most
