"""Rounding to four bits by what a matrix's inputs make of the error."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rbee_export.blocks import BLOCK, quantize
from rbee_export.rounding import GROUP, InputMoments

Floats = NDArray[np.float32]


def moments_of(inputs: Floats) -> InputMoments:
    moments = InputMoments.of(inputs)
    assert moments is not None
    return moments


def correlated(tokens: int, columns: int, directions: int, seed: int = 0) -> Floats:
    """Return inputs that are mixtures of a few directions, with columns of unlike size."""
    random = np.random.default_rng(seed)
    mixture = random.standard_normal((directions, columns)) * random.exponential(size=columns)
    return (random.standard_normal((tokens, directions)) @ mixture).astype(np.float32)


@st.composite
def inputs(draw: st.DrawFn, columns: int) -> Floats:
    """Inputs of full rank and of less, constant ones, none at all, small and large."""
    tokens = draw(st.integers(1, 80))
    kind = draw(st.sampled_from(["mixed", "constant", "zero", "one column", "sparse"]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    match kind:
        case "mixed":
            values = correlated(tokens, columns, draw(st.integers(1, 2 * columns)))
        case "constant":
            values = np.full((tokens, columns), 1.5, np.float32)
        case "zero":
            values = np.zeros((tokens, columns), np.float32)
        case "one column":
            values = np.zeros((tokens, columns), np.float32)
            values[:, random.integers(columns)] = 1
        case _:
            values = random.standard_normal((tokens, columns)).astype(np.float32)
            values *= random.random(columns) < 0.2
    return values * np.float32(10.0 ** draw(st.integers(-12, 12)))


@st.composite
def weights(draw: st.DrawFn, columns: int) -> Floats:
    """Weights with blocks of zeros, of ones alike, and of unlike sizes."""
    rows = draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    blocks = random.standard_normal((rows, columns // BLOCK, BLOCK))
    kinds = random.integers(0, 4, blocks.shape[:2])
    blocks[kinds == 0] = 0
    blocks[kinds == 1] = 0.25
    blocks *= 10.0 ** random.integers(-3, 3, blocks.shape[:2])[..., None]
    return blocks.reshape(rows, columns).astype(np.float32)


@given(data=st.data(), columns=st.integers(1, 6).map(lambda blocks: blocks * BLOCK))
@settings(max_examples=150, deadline=None)
def test_products_are_never_further_off_than_after_plain_rounding(
    data: st.DataObject, columns: int
) -> None:
    moments, matrix = moments_of(data.draw(inputs(columns))), data.draw(weights(columns))
    rounded = moments.round(matrix)
    assert rounded.shape == matrix.shape
    assert rounded.description == "4-bit, blocks of 32, calibrated"
    assert np.isfinite(rounded.dequantize()).all()
    ours = moments.error(matrix - rounded.dequantize())
    plain = moments.error(matrix - quantize(matrix, 4).dequantize())
    assert ours.shape == (len(matrix), -(-columns // GROUP))
    # Both may be nothing but the last bits of a scale.
    assert (ours <= plain * (1 + 1e-3) + moments.error(matrix) * 1e-12).all()


def test_no_weights_stay_none() -> None:
    matrix = np.zeros((3, 160), np.float32)
    matrix[1, 130] = 3.0
    rounded = moments_of(correlated(50, 160, 160)).round(matrix).dequantize()
    assert not rounded[[0, 2]].any()
    assert not rounded[1, :128].any()
    np.testing.assert_allclose(rounded[1, 130], 3.0, rtol=1e-6)


@pytest.mark.parametrize("columns", [64, 192, 224])
def test_the_error_is_that_of_the_products(columns: int) -> None:
    """Up to the damping, and to what groups have to do with each other."""
    x = correlated(512, columns, columns, seed=3)
    moments = moments_of(x)
    difference = np.random.default_rng(4).standard_normal((6, columns)).astype(np.float32)
    for group, start in enumerate(range(0, columns, GROUP)):
        own = slice(start, start + GROUP)
        power = np.square(x[:, own]).sum() / difference[:, own].shape[1]
        products = np.square(x[:, own] @ difference[:, own].T).sum(0)
        damping = 0.1 * np.square(difference[:, own]).sum(1)
        expected = products / power + damping
        np.testing.assert_allclose(moments.error(difference)[:, group], expected, rtol=1e-3)


@pytest.mark.parametrize("directions", [4, 32, 1024])
def test_products_of_such_inputs_come_out_closer(directions: int) -> None:
    x = correlated(1024, 192, directions)
    matrix = np.random.default_rng(1).standard_normal((96, 192)).astype(np.float32)
    exact = x @ matrix.T

    def off(held: Floats) -> float:
        return float(np.square(x @ held.T - exact).mean())

    ours = off(moments_of(x).round(matrix).dequantize())
    plain = off(quantize(matrix, 4).dequantize())
    # Inputs of fewer directions leave more room.
    assert ours < plain * {4: 0.1, 32: 0.4, 1024: 0.9}[directions]


def test_what_four_bits_can_hold_is_held() -> None:
    q = np.resize(np.arange(-8, 8), (5, 96)).astype(np.float32)
    matrix = q * np.float32(0.25)
    rounded = moments_of(correlated(200, 96, 90)).round(matrix)
    np.testing.assert_allclose(rounded.dequantize(), matrix, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_moments_beyond_all_bounds_are_none(value: float) -> None:
    x = np.ones((4, 96), np.float32)
    x[2, 70] = value
    assert InputMoments.of(x) is None


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e18, 1e30])
def test_weights_of_any_size_are_rounded(size: float) -> None:
    x = correlated(200, 64, 64)
    matrix = np.random.default_rng(2).standard_normal((8, 64)).astype(np.float32)
    rounded = moments_of(x).round(matrix * np.float32(size)).dequantize()
    assert np.abs(rounded / np.float32(size) - matrix).max() < 1


def test_large_matrices_leave_little_behind() -> None:
    matrix = np.random.default_rng(0).standard_normal((1 << 15, 256), np.float32)
    moments = moments_of(correlated(300, 256, 256))
    result = np.empty_like(matrix)
    tracemalloc.start()
    try:
        rounded = moments.round(matrix, result)
        assert tracemalloc.get_traced_memory()[1] < rounded.nbytes + (56 << 20)
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(result, rounded.dequantize())
    # In parts, and each the same as alone.
    for rows in (slice(0, 8), slice(8186, 8196), slice(32760, 32768)):
        alone = moments.round(matrix[rows])
        same = (alone.packed == rounded.packed[rows]).mean()
        assert same > 0.98  # sums of another order may tip a weight that lies half-way


def test_columns_must_be_whole_blocks() -> None:
    with pytest.raises(ValueError, match="input dimension 33 is not a multiple of 32"):
        moments_of(np.ones((2, 33), np.float32)).round(np.zeros((1, 33), np.float32))
