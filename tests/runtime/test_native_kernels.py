"""The native kernels beside ONNX Runtime's own, over models of one operator."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
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
from support.family_table import FAMILIES
from support.makers import MakeArtifact, MakeFamily
from support.native import (
    VARIANTS,
    assert_near,
    both,
    model,
    natively,
    needs_kernels,
    session,
)
from support.running import open_cpu

from rbee_export.dialect.functions import block_product, gated
from rbee_export.dialect.ort import OPSET
from rbee_runtime.backend.session import open_session
from rbee_runtime.device import HostDevice


def product(
    rng: np.random.Generator,
    n: int,
    k: int,
    bits: int,
    block: int,
    *,
    bias: bool = False,
    offsets: bool = False,
    short_scales: bool = False,
) -> ir.Model:
    blocks = -(-k // block)
    scales = rng.uniform(-0.02, 0.02, (n, blocks)).astype(np.float32)
    if short_scales:
        scales = scales.astype(np.float16).astype(np.float32)
    added = rng.uniform(-0.02, 0.02, (n, blocks)).astype(np.float32) if offsets else None
    integers = rng.integers(0, 256, (n, blocks, block * bits // 8), np.uint8)
    return product_of(
        rng, bits, block, k, integers=integers, scales=scales, offsets=added, bias=bias
    )


def product_of(
    rng: np.random.Generator,
    bits: int,
    block: int,
    k: int,
    *,
    integers: NDArray[np.uint8],
    scales: NDArray[np.float32],
    offsets: NDArray[np.float32] | None,
    bias: bool = False,
) -> ir.Model:
    n = len(scales)
    constants: dict[str, NDArray[Any] | None] = {"integers": integers, "scales": scales}
    if offsets is not None:
        constants["offsets"] = offsets
    elif bias:
        constants |= {"zero_points": None, "order": None}
    if bias:
        constants["bias"] = rng.standard_normal(n, np.float32)
    attributes: dict[str, float] = {"N": n, "K": k, "bits": bits, "block_size": block}
    x = {"x": np.zeros((1, k), np.float32)}
    if offsets is not None:
        function = block_product(OPSET, {"accuracy_level": 4})
        return model("BlockProduct", x, constants, attributes, function=function)
    return model("MatMulNBits", x, constants, attributes | {"accuracy_level": 4})


def assert_held_as_with_a_block_behind(
    rng: np.random.Generator,
    bits: int,
    x: NDArray[np.float32],
    *,
    integers: NDArray[np.uint8],
    scales: NDArray[np.float32],
    offsets: NDArray[np.float32] | None,
    scale: float = 0.0,
) -> None:
    """Hold a product beside ONNX Runtime's, and bit by bit beside that with a block more.

    Activations of that block are zero, its scale is given, and for it the matrix is held otherwise.
    """
    k = x.shape[1]
    block = k // integers.shape[1]

    def padded(array: NDArray[Any], value: float = 0.0) -> NDArray[Any]:
        one_more = [(0, 0), (0, 1), (0, 0)][: array.ndim]
        return np.pad(array, one_more, constant_values=value)

    held = product_of(rng, bits, block, k, integers=integers, scales=scales, offsets=offsets)
    otherwise = product_of(
        rng,
        bits,
        block,
        k + block,
        integers=padded(integers),
        scales=padded(scales, scale),
        offsets=None if offsets is None else padded(offsets),
    )
    found, wanted = both(held, {"x": x})
    assert_near(found, wanted, tolerance=1e-5)
    longer = {"x": np.pad(x, [(0, 0), (0, block)])}
    assert np.array_equal(found[0], natively(otherwise, longer)[0])


def activations(rng: np.random.Generator, rows: int, k: int, block: int) -> NDArray[np.float32]:
    """Draw some, none of them half-way between two of the 8-bit integers that stand for a block.

    Which of the two it becomes hangs on the last bit of a division, which kernels do differently.
    """
    x = rng.standard_normal((rows, k), np.float32)
    for first in range(0, k, block):
        part = x[:, first : first + block]
        steps = part * (127 / np.abs(part).max(axis=1, keepdims=True))
        part[np.abs(np.abs(steps - np.rint(steps)) - 0.5) < 1e-4] = 0
    return x


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 70),
    blocks=st.integers(1, 7),
    short_by=st.integers(0, 15),
    rows=st.integers(0, 40),
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([16, 32, 64, 128]),
    bias=st.booleans(),
    short_scales=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_products(
    *,
    n: int,
    blocks: int,
    short_by: int,
    rows: int,
    bits: int,
    block: int,
    bias: bool,
    short_scales: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    k = blocks * block - 2 * (short_by // 2)  # whole bytes of the last block
    of = product(rng, n, k, bits, block, bias=bias, short_scales=short_scales)
    x = {"x": activations(rng, rows, k, block)}
    # What adds up to little may have been a sum of much.
    assert_near(*both(of, x), tolerance=1e-5)


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    blocks=st.integers(1, 7),
    rows=st.integers(1, 40),
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([16, 32]),
    bias=st.booleans(),
    short_scales=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_products_of_blocks_with_offsets(
    *,
    n: int,
    blocks: int,
    rows: int,
    bits: int,
    block: int,
    bias: bool,
    short_scales: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    k = blocks * block
    of = product(rng, n, k, bits, block, bias=bias, offsets=True, short_scales=short_scales)
    x = {"x": activations(rng, rows, k, block)}
    assert_near(*both(of, x), tolerance=1e-5)


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    groups=st.integers(1, 3),
    rows=st.integers(1, 40),
    of_type=st.sampled_from(MIDDLES),
    block=st.sampled_from([16, 32]),
    offsets=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_scales_that_are_products_are_what_they_come_to(
    *,
    n: int,
    groups: int,
    rows: int,
    of_type: tuple[int, int],
    block: int,
    offsets: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    bits, middle = of_type
    k = groups * GROUP
    scales, added = factored(rng, n, k, block, middle)
    integers = rng.integers(0, 256, (n, k // block, block * bits // 8), np.uint8)
    x = activations(rng, rows, k, block)
    # With a block of zeros behind them they are no whole groups, and stay floats.
    assert_held_as_with_a_block_behind(
        rng, bits, x, integers=integers, scales=scales, offsets=added if offsets else None
    )


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    blocks=st.integers(1, 20),
    rows=st.integers(1, 40),
    of_type=st.sampled_from(MIDDLES),
    block=st.sampled_from([16, 32]),
    spoilt=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_minima_of_sixteen_bits_are_what_they_come_to(
    *,
    n: int,
    blocks: int,
    rows: int,
    of_type: tuple[int, int],
    block: int,
    spoilt: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    bits, middle = of_type
    k = blocks * block
    scales, offsets = in_halves(rng, n, k, block, middle)
    if spoilt:  # one is no such sum
        at = rng.integers(n), rng.integers(blocks)
        scales[at] = 2.0**-6
        offsets[at] = np.nextafter(np.float32(2.0**-4), np.float32(1))
    integers = rng.integers(0, 256, (n, blocks, block * bits // 8), np.uint8)
    x = activations(rng, rows, k, block)
    # With a scale behind them that 16 bits do not hold they stay floats.
    assert_held_as_with_a_block_behind(
        rng, bits, x, integers=integers, scales=scales, offsets=offsets, scale=1 / 3
    )


@needs_kernels
@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 40),
    blocks=st.sampled_from([1, 3, 5, 8, 16, 32]),
    rows=st.integers(1, 40),
    kind=st.sampled_from(["six", *TABLES]),
    block=st.sampled_from([16, 32, 64]),
    held=st.sampled_from(["halves", "products", "powers"]),
    offsets=st.booleans(),
    spoilt=st.sampled_from([None, 95, 160]),
    seed=st.integers(0, 2**32 - 1),
)
def test_integers_of_fewer_bits_are_what_they_are_in_eight(
    *,
    n: int,
    blocks: int,
    rows: int,
    kind: str,
    block: int,
    held: str,
    offsets: bool,
    spoilt: int | None,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    if kind == "six":
        integers = of_six_bits(rng, n, blocks, block)
    else:
        block, offsets = 32, False
        integers = of_a_table(rng, kind, n, blocks, block)
    k = blocks * block
    whole = held == "products" and k % GROUP == 0
    scales, added = (factored if whole else in_halves)(rng, n, k, block, 16)
    if held == "powers" and not offsets:
        scales = in_powers(rng, integers)
    if spoilt is not None:  # one is not
        integers.flat[rng.integers(integers.size)] = spoilt
    x = activations(rng, rows, k, block)
    # With others behind them they stay in eight bits.
    assert_held_as_with_a_block_behind(
        rng, 8, x, integers=integers, scales=scales, offsets=added if offsets else None
    )


@needs_kernels
def test_rows_too_many_for_the_cache_of_a_core() -> None:
    rng = np.random.default_rng(7)
    of = product(rng, 32, 2048, 4, 32, bias=True)
    assert_near(*both(of, {"x": rng.standard_normal((400, 2048), np.float32)}))


@needs_kernels
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("offsets", [False, True])
def test_a_row_is_the_same_in_any_company(offsets: bool, variant: str) -> None:
    rng = np.random.default_rng(11)
    of = product(rng, 96, 608, 4, 32, offsets=offsets, short_scales=True)
    native = session(of, native=True, variant=variant)
    x = rng.standard_normal((33, 608), np.float32)
    alone = np.concatenate([native.run(None, {"x": x[i : i + 1]})[0] for i in range(len(x))])
    for rows in (2, 5, 8, 9, 16, 33):
        np.testing.assert_array_equal(native.run(None, {"x": x[:rows]})[0], alone[:rows])


@needs_kernels
def test_rows_of_zeros_and_of_values_out_of_all_proportion() -> None:
    rng = np.random.default_rng(13)
    of = product(rng, 32, 64, 4, 32)
    x = np.stack([np.zeros(64), np.full(64, 1e30), np.full(64, 1e-30)]).astype(np.float32)
    (found,), (wanted,) = both(of, {"x": x})
    for f, w in zip(found, wanted, strict=True):
        np.testing.assert_allclose(f, w, rtol=0, atol=1e-5 * float(np.abs(w).max()))


@needs_kernels
def test_scales_at_the_end_of_what_sixteen_bits_hold() -> None:
    rng = np.random.default_rng(23)
    steps = np.float32(2) ** -24
    scales = np.concatenate(
        [np.arange(1100) * steps, 65504 - np.arange(100) * 32, np.arange(80) * steps + steps / 2]
    ).astype(np.float32)
    integers = rng.integers(0, 256, (len(scales), 1, 16), np.uint8)
    x = rng.standard_normal((1, 32), np.float32)
    attributes = {"N": 1, "K": 32, "bits": 4, "block_size": 32, "accuracy_level": 4}
    for part in (slice(0, 1200), slice(0, None)):  # such scales alone, and with others
        constants = {"integers": integers[part], "scales": scales[part, None]}
        of = model("MatMulNBits", {"x": x}, constants, attributes | {"N": len(scales[part])})
        (found,), (wanted,) = both(of, {"x": x})
        np.testing.assert_array_less(
            np.abs(found - wanted)[0], 1e-6 * 8 * np.abs(x).sum() * np.maximum(scales[part], steps)
        )


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["GatedSilu", "GatedGelu", "GatedErfGelu"]),
    width=st.integers(1, 70),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=2),
    scale=st.sampled_from([0.1, 1.0, 30.0, 200.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_gates(name: Any, width: int, shape: list[int], scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = {"x": rng.standard_normal((*shape, 2 * width), np.float32) * np.float32(scale)}
    found, wanted = both(model(name, x, {}, {}, function=gated(OPSET, name)), x)
    np.testing.assert_allclose(found[0], wanted[0], rtol=3e-5, atol=1e-5 * scale)


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 100),
    rows=st.integers(1, 20),
    outputs=st.sampled_from([1, 4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_sum_and_its_norm(width: int, rows: int, outputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = {name: rng.standard_normal((1, rows, width), np.float32) for name in ("x", "skip")}
    gamma = {"gamma": rng.standard_normal(width, np.float32)}
    kind = "SkipSimplifiedLayerNormalization"
    assert_near(*both(model(kind, x, gamma, {"epsilon": 1e-5}, outputs=outputs), x))
    constants = {**gamma, "beta": rng.standard_normal(width, np.float32)}
    layer_norm = model("SkipLayerNormalization", x, constants, {"epsilon": 1e-5}, outputs=outputs)
    # Where all but cancels, what is left has the error of the numbers it is left of.
    assert_near(*both(layer_norm, x), tolerance=2e-5)


def saved(of: ir.Model, directory: Path) -> Path:
    path = directory / "model.onnx"
    ir.save(of, path)
    return path


@needs_kernels
def test_a_graph_that_asks_for_more_runs_on_onnx_runtime_s_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(17)
    integers = rng.integers(0, 256, (8, 2, 16), np.uint8)
    constants = {
        "integers": integers,
        "scales": rng.random((8, 2), np.float32),
        "zero_points": np.full((8, 1), 0x77, np.uint8),
    }
    attributes = {"N": 8, "K": 64, "bits": 4, "block_size": 32, "accuracy_level": 4}
    x = {"x": rng.standard_normal((3, 64), np.float32)}
    of = model("MatMulNBits", x, constants, attributes)
    found = open_session(saved(of, tmp_path), HostDevice(), native=True).run(None, x)
    np.testing.assert_array_equal(found[0], session(of, native=False).run(None, x)[0])
    assert "zero points are given" in caplog.text


@needs_kernels
@pytest.mark.parametrize(
    ("family", "precision"),
    [
        (name, precision)
        for precision in ("fp32", "int8", "int4")
        for name, family in FAMILIES.items()
        if precision in ("fp32", *family.precisions)
    ],
)
def test_every_family_runs_on_them(
    family: str,
    precision: str,
    make_family: MakeFamily,
    make_artifact: MakeArtifact,
    caplog: pytest.LogCaptureFixture,
) -> None:
    artifact = make_artifact(make_family(family), precision)
    with caplog.at_level(logging.INFO):
        open_cpu(artifact)
    assert "ONNX Runtime's own kernels" not in caplog.text
