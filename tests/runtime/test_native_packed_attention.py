"""The native attention of packed texts, beside a softmax in float64."""

from __future__ import annotations

from itertools import pairwise

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.native import assert_near, model, natively, needs_kernels, needs_matrix_unit, session
from support.packed_texts import attended, packed

pytestmark = needs_kernels

LENGTHS = st.lists(st.one_of(st.integers(1, 40), st.integers(1, 400)), min_size=1, max_size=6)


def operator(qkv: NDArray[np.float32], ends: NDArray[np.int32], heads: int) -> ir.Model:
    inputs = {"qkv": qkv, "cu_seqlens": ends}
    return model("PackedAttention", inputs, {}, {"num_heads": heads}, domain="rbee")


@settings(max_examples=60, deadline=None)
@given(
    lengths=LENGTHS,
    heads=st.sampled_from([1, 2, 12]),
    size=st.sampled_from([8, 16, 32, 64, 80]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_token_sees_its_text_and_no_other(
    lengths: list[int], heads: int, size: int, seed: int
) -> None:
    feeds = packed(np.random.default_rng(seed), lengths, heads, size)
    found = natively(operator(*feeds.values(), heads), feeds)
    assert_near(found, [attended(*feeds.values(), heads)], tolerance=2e-5)


@needs_matrix_unit
@settings(max_examples=30, deadline=None)
@given(
    lengths=LENGTHS,
    heads=st.sampled_from([1, 12]),
    size=st.sampled_from([16, 32, 64, 80]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_matrix_unit_rounds_and_no_more(
    lengths: list[int], heads: int, size: int, seed: int
) -> None:
    feeds = packed(np.random.default_rng(seed), lengths, heads, size)
    found = session(operator(*feeds.values(), heads), native=True).run(None, feeds)
    wanted = attended(*feeds.values(), heads, ml_dtypes.bfloat16)
    # Short texts stay off it; of the others weights are rounded too.
    for start, end in pairwise(feeds["cu_seqlens"].tolist()):
        length = end - start
        if length < 24:
            wanted[:, start:end] = attended(
                feeds["qkv"][:, start:end], np.asarray([0, length], np.int32), heads
            )
    assert_near(found, [wanted], tolerance=4e-3)


def test_a_text_comes_out_the_same_in_any_company() -> None:
    rng = np.random.default_rng(3)
    feeds = packed(rng, [30, 5, 200], 2, 32)
    (together,) = natively(operator(*feeds.values(), 2), feeds)
    for start, end in pairwise(feeds["cu_seqlens"]):
        own = {
            "qkv": feeds["qkv"][:, start:end],
            "cu_seqlens": np.asarray([0, end - start], np.int32),
        }
        (alone,) = natively(operator(*own.values(), 2), own)
        np.testing.assert_array_equal(together[:, start:end], alone)


def test_no_tokens_are_no_work() -> None:
    feeds = packed(np.random.default_rng(0), [1], 2, 8)
    feeds = {"qkv": feeds["qkv"][:, :0], "cu_seqlens": np.zeros(1, np.int32)}
    (found,) = natively(operator(*feeds.values(), 2), feeds)
    assert found.shape == (1, 0, 16)


@pytest.mark.parametrize("ends", [[], [0], [0, 4], [1, 5], [0, 6], [0, 3, 2, 5]])
def test_texts_that_are_not_those_of_the_tokens_are_refused(ends: list[int]) -> None:
    feeds = packed(np.random.default_rng(0), [5], 2, 8)
    feeds["cu_seqlens"] = np.asarray(ends, np.int32)
    opened = session(operator(*feeds.values(), 2), native=True)
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.Fail, match="cu_seqlens does not cut"):
        opened.run(None, feeds)


@pytest.mark.parametrize("heads", [0, 5])
def test_heads_that_do_not_divide_the_width_are_refused(heads: int) -> None:
    feeds = packed(np.random.default_rng(0), [5], 2, 8)
    with pytest.raises(Exception, match=r"num_heads is 0|not those of one row and all heads"):
        session(operator(*feeds.values(), heads), native=True).run(None, feeds)
