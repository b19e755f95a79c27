"""Attention of packed texts with biases by distance: the native kernel, and the function it takes
the place of, beside a softmax in float64.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.native import assert_near, both, model, natively, needs_kernels, needs_matrix_unit
from support.native import session as opened
from support.packed_texts import attended, packed

from rbee_export.dialect.ort import OPSET
from rbee_export.dialect.packed_relative_attention import packed_relative_attention

LONGEST = 300
LENGTHS = st.lists(st.one_of(st.integers(1, 40), st.integers(1, LONGEST)), min_size=1, max_size=6)
Arrays = dict[str, NDArray[Any]]


def biases(heads: int) -> NDArray[np.float32]:
    draw = np.random.default_rng(heads)
    return draw.standard_normal((heads, 2 * LONGEST - 1), np.float32) * 2


def operator(
    feeds: Arrays, heads: int, *, told: NDArray[Any] | None = None, bare: bool = False
) -> ir.Model:
    function = None if bare else packed_relative_attention(OPSET, ir.DataType.FLOAT)
    constants = {"bias": biases(heads) if told is None else told}
    return model(
        "PackedRelativeAttention",
        feeds,
        constants,
        {"num_heads": heads},
        function=function,
        domain="rbee",
    )


@needs_kernels
@settings(max_examples=50, deadline=None)
@given(
    lengths=LENGTHS,
    heads=st.sampled_from([1, 2, 12]),
    size=st.sampled_from([8, 16, 64, 80]),
    seed=st.integers(0, 2**32 - 1),
)
def test_scores_tell_how_far_apart_tokens_are(
    lengths: list[int], heads: int, size: int, seed: int
) -> None:
    feeds = packed(np.random.default_rng(seed), lengths, heads, size)
    wanted = attended(*feeds.values(), heads, biases=biases(heads))
    for found in both(operator(feeds, heads), feeds):
        assert_near(found, [wanted], tolerance=2e-5)


@pytest.mark.parametrize("lengths", [[5] * 40, [5, 290, 1], [300, 300, 300], [1]])
def test_the_function_where_there_are_no_kernels(lengths: list[int]) -> None:
    feeds = packed(np.random.default_rng(1), lengths, 4, 16)
    found = opened(operator(feeds, 4), native=False).run(None, feeds)
    assert_near(found, [attended(*feeds.values(), 4, biases=biases(4))], tolerance=2e-5)


@needs_matrix_unit
@settings(max_examples=30, deadline=None)
@given(
    lengths=LENGTHS,
    heads=st.sampled_from([1, 12]),
    size=st.sampled_from([16, 64, 80]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_matrix_unit_rounds_and_no_more(
    lengths: list[int], heads: int, size: int, seed: int
) -> None:
    feeds = packed(np.random.default_rng(seed), lengths, heads, size)
    found = opened(operator(feeds, heads), native=True).run(None, feeds)
    wanted = attended(*feeds.values(), heads, ml_dtypes.bfloat16, biases=biases(heads))
    # Short texts stay off it; of the others weights are rounded too.
    for start, end in pairwise(feeds["cu_seqlens"].tolist()):
        if end - start < 24:
            own = np.asarray([0, end - start], np.int32)
            wanted[:, start:end] = attended(
                feeds["qkv"][:, start:end], own, heads, biases=biases(heads)
            )
    assert_near(found, [wanted], tolerance=6e-3)


@needs_kernels
def test_a_text_comes_out_the_same_in_any_company() -> None:
    feeds = packed(np.random.default_rng(3), [30, 5, 200], 2, 32)
    (together,) = natively(operator(feeds, 2), feeds)
    for start, end in pairwise(feeds["cu_seqlens"]):
        own = {
            "qkv": feeds["qkv"][:, start:end],
            "cu_seqlens": np.asarray([0, end - start], np.int32),
        }
        (alone,) = natively(operator(own, 2), own)
        np.testing.assert_array_equal(together[:, start:end], alone)


@needs_kernels
def test_no_tokens_are_no_work() -> None:
    feeds = {"qkv": np.zeros((1, 0, 48), np.float32), "cu_seqlens": np.zeros(1, np.int32)}
    (found,) = natively(operator(feeds, 2), feeds)
    assert found.shape == (1, 0, 16)


@needs_kernels
@pytest.mark.parametrize(
    ("told", "lengths", "said"),
    [
        ((2, 599), [301], "a distance has no bias"),
        ((3, 599), [5], "the bias is not one of every head"),
        ((2, 598), [5], "the bias is not one of every head"),
        ((1198,), [5], "the bias is not one of every head"),
    ],
)
def test_what_is_refused(told: tuple[int, ...], lengths: list[int], said: str) -> None:
    feeds = packed(np.random.default_rng(0), lengths, 2, 8)
    # Without the function, for ONNX Runtime has no other choice.
    made = operator(feeds, 2, told=np.zeros(told, np.float32), bare=True)
    with pytest.raises(Exception, match=said):
        opened(made, native=True).run(None, feeds)
