"""The causal attention of packed texts: the native kernel, and the function it takes the place of,
beside a softmax in float64.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.native import natively, needs_kernels, needs_matrix_unit
from support.packed_heads import (
    POSITIONS,
    must_be_near,
    must_be_near_without_kernels,
    must_not_mind_company,
    must_refuse,
    must_round_and_no_more,
)
from support.packed_heads import PackedHeads as Case

CASES = st.builds(
    lambda kv_heads, sharing, size, part, window, cap, scale, norms: Case(
        kv_heads * sharing, kv_heads, size, max(16, int(size * part)), window, cap, scale, norms
    ),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([16, 32, 64, 128]),
    st.sampled_from([1.0, 0.5]),
    st.sampled_from([-1, 1, 7, 150]),
    st.sampled_from([0.0, 20.0]),
    st.sampled_from([0.1, 0.25]),
    st.sampled_from(["none", "head", "whole"]),
)
LENGTHS = st.lists(st.one_of(st.integers(1, 40), st.integers(1, POSITIONS)), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**32 - 1)


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(case=CASES, lengths=LENGTHS, seed=SEEDS)
def test_a_token_sees_its_text_up_to_itself(case: Case, lengths: list[int], seed: int) -> None:
    must_be_near(case, lengths, seed)


@pytest.mark.parametrize("lengths", [[5] * 40, [5, 390, 1], [400, 400, 400], [1]])
@pytest.mark.parametrize("norms", ["none", "head"])
def test_the_function_where_there_are_no_kernels(norms: str, lengths: list[int]) -> None:
    must_be_near_without_kernels(Case(norms=norms, window=100), lengths)


@needs_matrix_unit
@settings(max_examples=30, deadline=None)
@given(case=CASES, lengths=LENGTHS, seed=SEEDS)
def test_the_matrix_unit_rounds_and_no_more(case: Case, lengths: list[int], seed: int) -> None:
    must_round_and_no_more(case, lengths, seed)


@needs_kernels
def test_a_text_comes_out_the_same_in_any_company() -> None:
    must_not_mind_company(Case(norms="head"))


@needs_kernels
def test_no_tokens_are_no_work() -> None:
    case = Case()
    feeds = {"qkv": np.zeros((1, 0, 256), np.float32), "cu_seqlens": np.zeros(1, np.int32)}
    (found,) = natively(case.operator(feeds), feeds)
    assert found.shape == (1, 0, 128)


@needs_kernels
@pytest.mark.parametrize(
    ("changed", "lengths", "said"),
    [
        ({}, [POSITIONS + 1], "a position has no angle in cos"),
        ({"num_heads": 3}, [5], "num_heads is no multiple of kv_num_heads"),
        ({"kv_num_heads": 0}, [5], "num_heads is no multiple of kv_num_heads"),
        ({"num_heads": 6, "kv_num_heads": 3}, [5], "not those of one row and all heads"),
        ({"num_heads": 8, "kv_num_heads": 4}, [5], "cos and sin are not those of a part of a head"),
    ],
)
def test_what_is_refused(changed: dict[str, int], lengths: list[int], said: str) -> None:
    must_refuse(Case(), changed, lengths, said)
