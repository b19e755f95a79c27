"""The causal attention of packed texts: the native kernel, and the function it takes the place of,
beside a softmax in float64.
"""

from __future__ import annotations

from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.native import assert_near, both, model, natively, needs_kernels, needs_matrix_unit
from support.native import session as opened
from support.packed_heads import POSITIONS
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
    feeds = case.packed(np.random.default_rng(seed), lengths)
    wanted = case.attended(*feeds.values())
    for found in both(case.operator(feeds), feeds):
        assert_near(found, [wanted], tolerance=3e-5)


@pytest.mark.parametrize("lengths", [[5] * 40, [5, 390, 1], [400, 400, 400], [1]])
@pytest.mark.parametrize("norms", ["none", "head"])
def test_the_function_where_there_are_no_kernels(norms: str, lengths: list[int]) -> None:
    case = Case(norms=norms, window=100)
    feeds = case.packed(np.random.default_rng(1), lengths)
    found = opened(case.operator(feeds), native=False).run(None, feeds)
    assert_near(found, [case.attended(*feeds.values())], tolerance=3e-5)


@needs_matrix_unit
@settings(max_examples=30, deadline=None)
@given(case=CASES, lengths=LENGTHS, seed=SEEDS)
def test_the_matrix_unit_rounds_and_no_more(case: Case, lengths: list[int], seed: int) -> None:
    feeds = case.packed(np.random.default_rng(seed), lengths)
    found = opened(case.operator(feeds), native=True).run(None, feeds)
    wanted = case.attended(*feeds.values(), ml_dtypes.bfloat16)
    # Short texts stay off it; of the others weights are rounded too.
    for start, end in pairwise(feeds["cu_seqlens"].tolist()):
        if end - start < 24:
            own = np.asarray([0, end - start], np.int32)
            wanted[:, start:end] = case.attended(feeds["qkv"][:, start:end], own)
    assert_near(found, [wanted], tolerance=1e-2)


@needs_kernels
def test_a_text_comes_out_the_same_in_any_company() -> None:
    case = Case(norms="head")
    feeds = case.packed(np.random.default_rng(3), [30, 5, 200])
    (together,) = natively(case.operator(feeds), feeds)
    for start, end in pairwise(feeds["cu_seqlens"]):
        own = {
            "qkv": feeds["qkv"][:, start:end],
            "cu_seqlens": np.asarray([0, end - start], np.int32),
        }
        (alone,) = natively(case.operator(own), own)
        np.testing.assert_array_equal(together[:, start:end], alone)


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
    case = Case()
    feeds = case.packed(np.random.default_rng(0), lengths)
    attributes = {**case.attributes, **changed}
    # Without the function, for ONNX Runtime has no other choice.
    made = model("PackedCausalAttention", feeds, case.constants, attributes, domain="rbee")
    with pytest.raises(Exception, match=said):
        opened(made, native=True).run(None, feeds)
