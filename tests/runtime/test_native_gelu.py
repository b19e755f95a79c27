"""GELU of a product in one operator, beside the product and GELU in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.native import (
    VARIANTS,
    assert_near,
    both,
    model,
    natively,
    needs_kernels,
    needs_matrix_unit,
    session,
)

from rbee_export.dialect.functions import gelu_product
from rbee_export.dialect.ort import OPSET

pytestmark = needs_kernels

ACCURACY = {"accuracy_level": 4}
Array = NDArray[Any]


class Products:
    """Random weights in blocks: their product, and GELU of it."""

    def __init__(
        self,
        rng: np.random.Generator,
        n: int,
        k: int,
        *,
        bits: int = 8,
        block: int = 32,
        bias: bool = True,
    ) -> None:
        blocks = -(-k // block)
        weights: dict[str, Array | None] = {
            "integers": rng.integers(0, 256, (n, blocks, block * bits // 8), np.uint8),
            "scales": rng.uniform(-0.05, 0.05, (n, blocks)).astype(np.float32),
        }
        added = {"bias": rng.standard_normal(n, np.float32)} if bias else {}
        attributes = {"N": n, "K": k, "bits": bits, "block_size": block}
        x = {"x": np.zeros((1, 1, k), np.float32)}
        function = gelu_product(OPSET, ACCURACY)
        left_out = {"zero_points": None, "order": None} if bias else {}
        self.fused = model(function.name, x, weights | added, attributes, function=function)
        self.plain = model(
            "MatMulNBits", x, {**weights, **left_out, **added}, attributes | ACCURACY
        )


def gelu(x: Array) -> Array:
    erf = np.vectorize(math.erf, otypes=[np.float64])
    wide = x.astype(np.float64)
    result: Array = wide / 2 * (1 + erf(wide / math.sqrt(2)))
    return result


shapes = {
    "pairs": st.integers(1, 4),
    "blocks": st.integers(1, 7),
    "rows": st.integers(1, 70),
    "bits": st.sampled_from([4, 8]),
    "block": st.sampled_from([16, 32, 128]),
    "bias": st.booleans(),
    "seed": st.integers(0, 2**32 - 1),
}


@settings(max_examples=30, deadline=None)
@given(**shapes)
def test_it_is_gelu_of_the_product(
    *, pairs: int, blocks: int, rows: int, block: int, seed: int, **how: Any
) -> None:
    rng = np.random.default_rng(seed)
    of = Products(rng, 32 * pairs, blocks * block, block=block, **how)
    x = {"x": rng.standard_normal((rows, 1, blocks * block), np.float32)}
    (product,) = natively(of.plain, x)
    np.testing.assert_allclose(natively(of.fused, x)[0], gelu(product), rtol=0, atol=1.2e-5)


@needs_matrix_unit
@settings(max_examples=30, deadline=None)
@given(**shapes)
def test_it_is_on_the_matrix_unit_too(
    *, pairs: int, blocks: int, rows: int, block: int, seed: int, **how: Any
) -> None:
    rng = np.random.default_rng(seed)
    of = Products(rng, 32 * pairs, blocks * block, block=block, **how)
    x = {"x": rng.standard_normal((1, rows + 1, blocks * block), np.float32)}
    product, fused = (session(m, native=True).run(None, x)[0] for m in (of.plain, of.fused))
    np.testing.assert_allclose(fused, gelu(product), rtol=0, atol=1.2e-5)


@needs_matrix_unit
def test_a_matrix_that_does_not_fit_a_core_s_cache() -> None:
    rng = np.random.default_rng(7)
    of = Products(rng, 96, 4608)
    x = {"x": rng.standard_normal((1, 300, 4608), np.float32)}
    product, fused = (session(m, native=True).run(None, x)[0] for m in (of.plain, of.fused))
    np.testing.assert_allclose(fused, gelu(product), rtol=0, atol=1.2e-5)


def test_it_is_what_its_definition_computes() -> None:
    rng = np.random.default_rng(11)
    of = Products(rng, 64, 128)
    assert_near(*both(of.fused, {"x": rng.standard_normal((33, 1, 128), np.float32)}), 2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_numbers_out_of_all_proportion(variant: str) -> None:
    """An identity for weights: what goes in is what GELU is of."""
    integers = np.full((32, 1, 32), 128, np.uint8)
    np.einsum("nbn->nb", integers.reshape(32, 1, 32))[:] = 129
    x = np.zeros((32, 1, 32), np.float32)
    values = [0.0, -0.0, 1e-30, -1e-30, 3, -3, 9, -9, 20, -20, 88, -88, 1e4, -1e4, 1e30, -1e30]
    np.einsum("rbr->rb", x)[: len(values), 0] = values
    constants = {"integers": integers, "scales": np.ones((32, 1), np.float32)}
    attributes = {"N": 32, "K": 32, "bits": 8, "block_size": 32}
    function = gelu_product(OPSET, ACCURACY)
    of = model(function.name, {"x": x}, constants, attributes, function=function)
    found = session(of, native=True, variant=variant).run(None, {"x": x})[0]
    wanted = gelu(np.asarray(values))
    np.testing.assert_allclose(
        np.einsum("rbr->rb", found)[: len(values), 0], wanted, rtol=1e-6, atol=1.2e-5
    )
