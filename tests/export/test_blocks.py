"""Quantising in blocks of 32."""

from __future__ import annotations

import tracemalloc
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from rbee_export.blocks import BLOCK, BlockMatrix, concatenate, pack, quantize, shortened

Bits = Literal[4, 8]
BITS = st.sampled_from([4, 8])
WEIGHT = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@st.composite
def matrices(draw: st.DrawFn) -> NDArray[np.float32]:
    """Matrices of plain weights, of weights far apart, and of blocks without any."""
    rows, blocks = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    size = rows * blocks
    values: NDArray[np.float32] = draw(
        arrays.arrays(np.float32, (size, BLOCK), elements=WEIGHT, fill=st.just(np.float32(0)))
    )
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).standard_normal((size, BLOCK))
    scale = np.float32(10) ** draw(arrays.arrays(np.int8, (size, 1), elements=st.integers(-6, 4)))
    kind = draw(arrays.arrays(np.int8, (size, 1), elements=st.integers(0, 3)))
    mixed = np.select([kind == 0, kind == 1, kind == 2], [0 * values, values, noise * scale], noise)
    return mixed.astype(np.float32).reshape(rows, blocks * BLOCK)


SHORTENING = 2.0**-11 * 1.001
"""What a scale moves by at most when it is rounded to 16 bits; and float32's own rounding."""


def in_blocks(weights: NDArray[np.float32]) -> NDArray[np.float64]:
    return weights.astype(np.float64).reshape(len(weights), -1, BLOCK)


@given(weights=matrices(), bits=BITS)
@settings(max_examples=150, deadline=None)
def test_no_element_is_further_off_than_a_step(weights: NDArray[np.float32], bits: Bits) -> None:
    blocks = in_blocks(quantize(weights, bits).dequantize())
    assert np.isfinite(blocks).all()
    largest = np.abs(in_blocks(weights)).max(-1, keepdims=True)
    # Rounding is off by half a step, and at 4 bits by a whole one where an element lies beyond the
    # short end of the range. The refit may move the largest element by sqrt(31) / 4 steps: least
    # squares trades it for all the others.
    step = largest / (2 ** (bits - 1) - (bits == 8))
    assert (np.abs(blocks - in_blocks(weights)) <= 2.5 * step + 1e-30).all()


@given(weights=matrices(), bits=BITS)
@settings(max_examples=150, deadline=None)
def test_the_refit_is_never_worse(weights: NDArray[np.float32], bits: Bits) -> None:
    matrix = quantize(weights, bits)
    exact, zero = in_blocks(weights), 2 ** (bits - 1)
    widest = np.take_along_axis(exact, np.abs(exact).argmax(-1)[..., None], -1)
    first = widest / -8 if bits == 4 else np.abs(widest) / 127
    q = matrix.elements().astype(np.float64) - zero
    fitted = ((q * matrix.scales[..., None] - exact) ** 2).sum(-1)
    unfitted = ((q * first - exact) ** 2).sum(-1)
    rounding = BLOCK * (SHORTENING * np.abs(exact).max(-1)) ** 2
    assert (fitted <= unfitted * (1 + 1e-5) + rounding).all()


@given(weights=matrices(), bits=BITS)
@settings(max_examples=60, deadline=None)
def test_scales_fit_by_least_squares(weights: NDArray[np.float32], bits: Bits) -> None:
    matrix = quantize(weights, bits)
    q = matrix.elements().astype(np.float64) - 2 ** (bits - 1)
    residual = in_blocks(weights) - q * matrix.scales[..., None]
    # What is left over has no part along the integers.
    along = np.abs((residual * q).sum(-1))
    assert (along <= SHORTENING * np.abs(in_blocks(weights) * q).sum(-1)).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_blocks_stay_zero(bits: Bits) -> None:
    weights = np.zeros((2, 96), np.float32)
    weights[1, 40] = 3.0
    matrix = quantize(weights, bits)
    assert not matrix.dequantize()[0].any()
    np.testing.assert_array_equal(matrix.dequantize()[1].nonzero()[0], [40])
    np.testing.assert_allclose(matrix.dequantize()[1, 40], 3.0, rtol=SHORTENING)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [1e-38, 1e-30, 1.0, 1e18, -1e18, -2.5])
def test_extreme_values_keep_their_size(bits: Bits, value: float) -> None:
    weights = np.full((1, 32), value, np.float32)
    np.testing.assert_allclose(quantize(weights, bits).dequantize(), weights, rtol=SHORTENING)


@pytest.mark.parametrize("bits", [4, 8])
def test_integers_times_a_scale_are_exact(bits: Bits) -> None:
    low, high = -(2 ** (bits - 1)) + (bits == 8), 2 ** (bits - 1) - 1
    q = np.resize(np.arange(low, high + 1), (8, 32)).astype(np.float32)
    q[:, 0] = low
    np.testing.assert_array_equal(quantize(q * np.float32(0.25), bits).dequantize(), q * 0.25)


def test_many_rows_are_quantised_like_one() -> None:
    weights = np.random.default_rng(0).standard_normal((8200, 32)).astype(np.float32)
    matrix = quantize(weights, 4)
    for row in (0, 8191, 8192, 8199):
        alone = quantize(weights[row : row + 1], 4)
        np.testing.assert_array_equal(matrix.packed[row], alone.packed[0])
        np.testing.assert_array_equal(matrix.scales[row], alone.scales[0])


@given(
    q=arrays.arrays(np.uint8, (2, 3, BLOCK), elements=st.integers(0, 15)),
)
def test_packing_is_undone_by_elements(q: NDArray[np.uint8]) -> None:
    scales = np.ones((2, 3), np.float32)
    packed = pack(q, 4)
    assert packed.shape == (2, 3, 16)
    assert packed[0, 0, 0] == q[0, 0, 0] + 16 * q[0, 0, 1]
    np.testing.assert_array_equal(BlockMatrix(4, packed, scales).elements(), q)
    np.testing.assert_array_equal(BlockMatrix(8, pack(q, 8), scales).elements(), q)


@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_matrix_stands_for_what_its_formula_says(block: int, bits: Bits) -> None:
    draw = np.random.default_rng(block + bits)
    q = draw.integers(0, 2**bits, (5000, 128 // block, block)).astype(np.uint8)
    scales, offsets = draw.standard_normal((2, *q.shape[:2]), np.float32)
    matrix = BlockMatrix(bits, pack(q, bits), scales, offsets, how="exact")
    assert matrix.shape == (5000, 128)
    assert matrix.block == block
    assert matrix.nbytes == 5000 * 128 * bits // 8 + 2 * scales.nbytes
    assert matrix.description == f"{bits}-bit, blocks of {block}, offsets, exact"
    np.testing.assert_array_equal(matrix.elements(), q)
    np.testing.assert_array_equal(matrix.elements(slice(7, 9)), q[7:9])
    expected = (q.astype(np.float64) - 2 ** (bits - 1)) * scales[..., None] + offsets[..., None]
    np.testing.assert_allclose(matrix.dequantize(), expected.reshape(5000, 128), atol=1e-4)


@pytest.mark.parametrize("offsets", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_positive_scales_stand_for_the_same(bits: Bits, offsets: bool) -> None:
    draw = np.random.default_rng(bits)
    q = draw.integers(0, 2**bits, (40, 3, BLOCK)).astype(np.uint8)
    scales, shift = draw.standard_normal((2, 40, 3), np.float32)
    scales[7, 1], scales[8, 2] = 0, -1e-9
    matrix = BlockMatrix(bits, pack(q, bits), scales, shift if offsets else None)
    positive = matrix.with_positive_scales(1e-8)
    assert (positive.scales > 0).all()
    assert positive.bits == bits
    np.testing.assert_allclose(positive.dequantize(), matrix.dequantize(), atol=1e-4)
    assert positive.with_positive_scales(1e-8) is positive


def test_large_matrices_leave_little_behind() -> None:
    weights = np.zeros((4096, 1024), np.float32)
    tracemalloc.start()
    try:
        matrix = quantize(weights, 8)
        assert tracemalloc.get_traced_memory()[1] < matrix.nbytes + (8 << 20)
        tracemalloc.reset_peak()
        matrix.dequantize()
        assert tracemalloc.get_traced_memory()[1] < matrix.nbytes + weights.nbytes + (4 << 20)
    finally:
        tracemalloc.stop()


def test_columns_must_be_whole_blocks() -> None:
    with pytest.raises(ValueError, match="input dimension 33 is not a multiple of 32"):
        quantize(np.zeros((1, 33), np.float32), 8)


def test_matrices_of_one_kind_are_stacked() -> None:
    weights = np.random.default_rng(1).standard_normal((6, 64)).astype(np.float32)
    stacked = concatenate([quantize(weights[:2], 4), quantize(weights[2:], 4)])
    assert stacked is not None
    assert stacked.shape == (6, 64)
    assert stacked.nbytes == quantize(weights, 4).nbytes
    assert stacked.how == "rounded"
    np.testing.assert_array_equal(stacked.dequantize(), quantize(weights, 4).dequantize())


def test_matrices_of_different_kinds_are_not() -> None:
    weights = np.ones((2, 32), np.float32)
    four, eight = quantize(weights, 4), quantize(weights, 8)
    shifted = BlockMatrix(4, four.packed, four.scales, np.ones_like(four.scales))
    assert concatenate([four, eight]) is None
    assert concatenate([four, shifted]) is None
    sixteen = BlockMatrix(4, four.packed.reshape(2, 2, 8), np.ones((2, 2), np.float32))
    assert concatenate([four, sixteen]) is None
    both = concatenate([shifted, shifted])
    assert both is not None
    assert both.offsets is not None
    np.testing.assert_array_equal(both.dequantize(), np.full((4, 32), 2.0))


def test_scales_are_16_bits_wide_where_those_hold_them_well() -> None:
    scales = np.float32([0.1, -0.1, 1e5, -1e5, 1e-6, 0.0, 2.0**-14, 65504.0])
    kept = [1e5, -1e5, 1e-6, 0.0]
    short = shortened(scales)
    assert short.dtype == np.float32
    np.testing.assert_array_equal(short[2:6], np.float32(kept))
    others = [0, 1, 6, 7]
    np.testing.assert_array_equal(short[others], scales[others].astype(np.float16))
