"""Prompts on the processor's matrix unit, beside exact arithmetic and beside the other kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.factored import (
    GROUP,
    MIDDLES,
    TABLES,
    factored,
    in_halves,
    in_powers,
    of_a_table,
    of_six_bits,
)
from support.native import model, needs_matrix_unit, session

from rbee_export.dialect.functions import block_product
from rbee_export.dialect.ort import OPSET

Array = NDArray[Any]

# A product of two numbers that were rounded to bfloat16 is off by 1/128 of its size at most: by
# 1/256 for a rounded activation, and as much for a weight that is cut off and made up for. Sums of
# products are off by less than the sum of their sizes would be.
WORST = 2.0**-7
# Over many products errors go both ways: beside the outputs' own size (root mean squares).
TYPICAL = 4e-3


class Product:
    """A product with weights in blocks, its exact outcome, and sessions that compute it."""

    def __init__(
        self,
        rng: np.random.Generator,
        n: int,
        k: int,
        bits: int,
        block: int,
        *,
        bias: bool,
        offsets: bool,
        short_scales: bool = False,
        given: tuple[Array, Array] | None = None,
        integers: Array | None = None,
    ) -> None:
        blocks = -(-k // block)
        scales = rng.uniform(-0.02, 0.02, (n, blocks)).astype(np.float32)
        if short_scales:
            scales = scales.astype(np.float16).astype(np.float32)
        if integers is None:
            integers = rng.integers(0, 256, (n, blocks, block * bits // 8), np.uint8)
        constants: dict[str, Array | None] = {"integers": integers, "scales": scales}
        added = np.zeros((n, blocks), np.float32)
        if offsets:
            added = rng.uniform(-0.02, 0.02, (n, blocks)).astype(np.float32)
        if given is not None:
            scales, added = given[0], given[1] if offsets else added
            constants["scales"] = scales
        if offsets:
            constants["offsets"] = added
        elif bias:
            constants |= {"zero_points": None, "order": None}
        self.bias = rng.standard_normal(n, np.float32) if bias else np.zeros(n, np.float32)
        if bias:
            constants["bias"] = self.bias
        whole = integers
        if bits == 4:
            whole = np.stack([integers & 15, integers >> 4], -1).reshape(n, blocks, block)
        numbers = whole.astype(np.float64) - 2 ** (bits - 1)
        weights = numbers * scales[..., None] + added[..., None]
        self.weights = weights.reshape(n, -1)[:, :k]
        parts = np.abs(numbers * scales[..., None]) + np.abs(added[..., None])
        self.weight_parts = parts.reshape(n, -1)[:, :k]
        attributes = {"N": n, "K": k, "bits": bits, "block_size": block}
        x = {"x": np.zeros((1, 1, k), np.float32)}
        if offsets:
            function = block_product(OPSET, {"accuracy_level": 4})
            self.model = model("BlockProduct", x, constants, attributes, function=function)
        else:
            level = {"accuracy_level": 4}
            self.model = model("MatMulNBits", x, constants, attributes | level)

    def exact(self, x: Array) -> Array:
        return x.astype(np.float64) @ self.weights.T + self.bias

    def sizes(self, x: Array) -> Array:
        """Return the sums of the products' sizes."""
        return np.abs(x).astype(np.float64) @ np.abs(self.weights).T

    def parts(self, x: Array) -> Array:
        """Return the same, a weight counted for its scaled integer and for its offset."""
        return np.abs(x).astype(np.float64) @ self.weight_parts.T

    def run(self, x: Array, variant: str = "amx") -> Array:
        opened = session(self.model, native=True, variant=variant)
        found: Array = opened.run(None, {"x": x})[0]
        return found


@needs_matrix_unit
@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 90),
    blocks=st.integers(1, 7),
    short_by=st.integers(0, 15),
    rows=st.integers(2, 100),
    sequences=st.integers(1, 2),
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([16, 32, 64, 128]),
    bias=st.booleans(),
    offsets=st.booleans(),
    short_scales=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_products(
    *,
    n: int,
    blocks: int,
    short_by: int,
    rows: int,
    sequences: int,
    bits: int,
    block: int,
    bias: bool,
    offsets: bool,
    short_scales: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    k = blocks * block - (0 if offsets else 2 * (short_by // 2))
    of = Product(rng, n, k, bits, block, bias=bias, offsets=offsets, short_scales=short_scales)
    x = rng.standard_normal((sequences, rows, k), np.float32)
    errors = np.abs(of.run(x) - of.exact(x))
    assert np.all(errors <= WORST * of.sizes(x) + 1e-5)


@needs_matrix_unit
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 90),
    groups=st.sampled_from([1, 2, 3, 18]),  # the last does not fit a core's cache
    rows=st.integers(2, 100),
    of_type=st.sampled_from(MIDDLES),
    block=st.sampled_from([16, 32]),
    products=st.booleans(),
    offsets=st.booleans(),
    kind=st.sampled_from(["any", "six", *TABLES]),
    seed=st.integers(0, 2**32 - 1),
)
def test_scales_and_minima(
    *,
    n: int,
    groups: int,
    rows: int,
    of_type: tuple[int, int],
    block: int,
    products: bool,
    offsets: bool,
    kind: str,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    bits, middle = of_type
    integers = None
    k = groups * GROUP
    if kind in TABLES:
        bits, block, offsets = 8, 32, False
        integers = of_a_table(rng, kind, n, k // block, block)
    elif kind == "six" and bits == 8:
        integers = of_six_bits(rng, n, k // block, block)
    given = (factored if products else in_halves)(rng, n, k, block, middle)
    if kind == "MXFP4" and integers is not None and not products:
        given = in_powers(rng, integers), given[1]
    of = Product(
        rng, n, k, bits, block, bias=False, offsets=offsets, given=given, integers=integers
    )
    x = rng.standard_normal((1, rows, k), np.float32)
    errors = np.abs(of.run(x) - of.exact(x))
    # What an offset takes away from a scale's weights may be far larger than what is left.
    assert np.all(errors <= WORST * of.parts(x) + 1e-5)


@needs_matrix_unit
@pytest.mark.parametrize("rows", [40, 300, 1100])
@pytest.mark.parametrize("offsets", [False, True])
def test_a_matrix_that_does_not_fit_a_core_s_cache(rows: int, offsets: bool) -> None:
    rng = np.random.default_rng(7)
    of = Product(rng, 40, 4608, 4, 32, bias=True, offsets=offsets, short_scales=True)
    x = rng.standard_normal((1, rows, 4608), np.float32)
    exact = of.exact(x)
    on_unit, elsewhere = (np.square(of.run(x, name) - exact).mean() for name in ("", "avx512"))
    assert on_unit <= TYPICAL**2 * np.square(exact).mean()
    # Activations in eight bits err more.
    assert on_unit < elsewhere


@needs_matrix_unit
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 32, 128])
def test_a_token_is_the_same_in_any_long_chunk(bits: int, block: int) -> None:
    rng = np.random.default_rng(11)
    of = Product(rng, 90, 272, bits, block, bias=True, offsets=False, short_scales=True)
    x = rng.standard_normal((1, 700, 272), np.float32)
    together = of.run(x)
    for first, last in ((0, 2), (3, 19), (4, 21), (5, 37), (5, 38), (100, 200)):
        np.testing.assert_array_equal(of.run(x[:, first:last]), together[:, first:last])


@needs_matrix_unit
def test_decoding_many_sequences_keeps_off_the_unit() -> None:
    rng = np.random.default_rng(13)
    of = Product(rng, 48, 256, 4, 32, bias=False, offsets=False, short_scales=True)
    x = rng.standard_normal((40, 1, 256), np.float32)
    together = of.run(x)
    np.testing.assert_array_equal(of.run(x, "avx512"), together)
    np.testing.assert_array_equal(of.run(x[:1]), together[:1])


@needs_matrix_unit
def test_numbers_out_of_all_proportion() -> None:
    rng = np.random.default_rng(17)
    of = Product(rng, 32, 64, 8, 32, bias=False, offsets=False, short_scales=False)
    x = np.zeros((1, 32, 64), np.float32)
    x[0, 1], x[0, 2] = 1e30, 1e-30
    found = of.run(x)[0]
    sizes = of.sizes(x[0])
    assert np.all(np.abs(found - of.exact(x[0])) <= WORST * sizes)
    assert not found[0].any()
