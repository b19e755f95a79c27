"""Attention of packed texts to what is near, before and after: the native kernel, and the function
it takes the place of, beside a softmax in float64.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.native import needs_kernels, needs_matrix_unit
from support.packed_heads import (
    POSITIONS,
    PackedHeads,
    must_be_near,
    must_be_near_without_kernels,
    must_not_mind_company,
    must_refuse,
    must_round_and_no_more,
)

CASES = st.builds(
    lambda kv_heads, sharing, size, reach, norms: PackedHeads(
        kv_heads * sharing, kv_heads, size, size, norms=norms, reach=reach
    ),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 3, 4]),
    st.sampled_from([16, 32, 64, 128]),
    st.sampled_from([1, 7, 63, 64, 150, POSITIONS]),
    st.sampled_from(["none", "head", "whole"]),
)
LENGTHS = st.lists(st.one_of(st.integers(1, 40), st.integers(1, POSITIONS)), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**32 - 1)


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(case=CASES, lengths=LENGTHS, seed=SEEDS)
def test_a_token_sees_what_is_near(case: PackedHeads, lengths: list[int], seed: int) -> None:
    must_be_near(case, lengths, seed)


@pytest.mark.parametrize("lengths", [[5] * 40, [5, 390, 1], [400, 400, 400], [1]])
@pytest.mark.parametrize("norms", ["none", "head"])
def test_the_function_where_there_are_no_kernels(norms: str, lengths: list[int]) -> None:
    must_be_near_without_kernels(PackedHeads(norms=norms, reach=50), lengths)


@needs_matrix_unit
@settings(max_examples=30, deadline=None)
@given(case=CASES, lengths=LENGTHS, seed=SEEDS)
def test_the_matrix_unit_rounds_and_no_more(
    case: PackedHeads, lengths: list[int], seed: int
) -> None:
    must_round_and_no_more(case, lengths, seed)


@needs_kernels
@pytest.mark.parametrize("reach", [3, 64, POSITIONS])
def test_a_text_comes_out_the_same_in_any_company(reach: int) -> None:
    must_not_mind_company(PackedHeads(norms="head", reach=reach))


@needs_kernels
@pytest.mark.parametrize(
    ("changed", "lengths", "said"),
    [
        ({}, [POSITIONS + 1], "a position has no angle in cos"),
        ({"reach": 0}, [5], "reach is not above 0"),
        ({"num_heads": 3}, [5], "num_heads is no multiple of kv_num_heads"),
        ({"num_heads": 6, "kv_num_heads": 3}, [5], "not those of one row and all heads"),
    ],
)
def test_what_is_refused(changed: dict[str, int], lengths: list[int], said: str) -> None:
    must_refuse(PackedHeads(reach=5), changed, lengths, said)
