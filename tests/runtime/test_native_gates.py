"""A product and the gate of its outcome in one operator, beside the two operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.makers import MakeArtifact, MakeFamily
from support.native import (
    VARIANTS,
    assert_near,
    both,
    model,
    needs_kernels,
    needs_matrix_unit,
    session,
)
from support.running import forced_logits, open_cpu, relative_error

from rbee_export.dialect.functions import Gate, block_product, gated, gated_product
from rbee_export.dialect.ort import OPSET
from rbee_runtime.backend.session import open_session
from rbee_runtime.device import HostDevice

Array = NDArray[Any]

GATES: tuple[Gate, ...] = ("GatedSilu", "GatedGelu", "GatedErfGelu")
ACCURACY = {"accuracy_level": 4}


class Mlp:
    """The first half of a gated MLP, with random weights in blocks."""

    def __init__(
        self,
        rng: np.random.Generator,
        width: int,
        k: int,
        gate: Gate = "GatedSilu",
        *,
        bits: int = 4,
        block: int = 32,
        offsets: bool = False,
        bias: bool = False,
        short_scales: bool = True,
        axes: int = 3,
    ) -> None:
        n, blocks = 2 * width, -(-k // block)
        scales = rng.uniform(-0.05, 0.05, (n, blocks)).astype(np.float32)
        if short_scales:
            scales = scales.astype(np.float16).astype(np.float32)
        integers = rng.integers(0, 256, (n, blocks, block * bits // 8), np.uint8)
        weights: dict[str, Array | None] = {"integers": integers, "scales": scales}
        if offsets:
            weights["offsets"] = rng.uniform(-0.05, 0.05, (n, blocks)).astype(np.float32)
        added = {"bias": rng.standard_normal(n, np.float32)} if bias else {}
        attributes = {"N": n, "K": k, "bits": bits, "block_size": block}
        x = {"x": np.zeros((1,) * (axes - 1) + (k,), np.float32)}
        function = gated_product(OPSET, gate, ACCURACY, offsets=offsets)
        self.fused = model(function.name, x, weights | added, attributes, function=function)
        if offsets:
            product = block_product(OPSET, ACCURACY)
            self._product = model(product.name, x, weights | added, attributes, function=product)
        else:
            left_out = {"zero_points": None, "order": None} if bias else {}
            self._product = model(
                "MatMulNBits", x, {**weights, **left_out, **added}, attributes | ACCURACY
            )
        gate_up = {"x": np.zeros((1,) * (axes - 1) + (n,), np.float32)}
        self._gate = model(gate, gate_up, {}, {}, function=gated(OPSET, gate))

    def assert_same_bits(self, x: Array, variant: str) -> None:
        product, gate, fused = (
            session(of, native=True, variant=variant)
            for of in (self._product, self._gate, self.fused)
        )
        wanted = gate.run(None, {"x": product.run(None, {"x": x})[0]})[0]
        np.testing.assert_array_equal(fused.run(None, {"x": x})[0], wanted, err_msg=variant)


shapes = {
    "panels": st.integers(1, 5),
    "blocks": st.integers(1, 7),
    "rows": st.integers(1, 70),
    "bits": st.sampled_from([4, 8]),
    "block": st.sampled_from([16, 32, 128]),
    "gate": st.sampled_from(GATES),
    "offsets": st.booleans(),
    "bias": st.booleans(),
    "short_scales": st.booleans(),
    "seed": st.integers(0, 2**32 - 1),
}


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(**shapes)
def test_every_variant_gives_the_bits_of_the_two_operators(
    *, panels: int, blocks: int, rows: int, block: int, gate: Gate, seed: int, **how: Any
) -> None:
    rng = np.random.default_rng(seed)
    of = Mlp(rng, 16 * panels, blocks * block, gate, block=block, **how)
    x = rng.standard_normal((rows, 1, blocks * block), np.float32)
    for variant in VARIANTS:
        of.assert_same_bits(x, variant)


@needs_matrix_unit
@settings(max_examples=40, deadline=None)
@given(**shapes)
def test_prompts_on_the_matrix_unit_do_too(
    *, panels: int, blocks: int, rows: int, block: int, gate: Gate, seed: int, **how: Any
) -> None:
    rng = np.random.default_rng(seed)
    of = Mlp(rng, 16 * panels, blocks * block, gate, block=block, **how)
    of.assert_same_bits(rng.standard_normal((2, rows, blocks * block), np.float32), "amx")


@needs_matrix_unit
@pytest.mark.parametrize("rows", [40, 300])
def test_a_matrix_that_does_not_fit_a_core_s_cache(rows: int) -> None:
    rng = np.random.default_rng(7)
    of = Mlp(rng, 48, 4608, bias=True)
    of.assert_same_bits(rng.standard_normal((1, rows, 4608), np.float32), "amx")


@needs_kernels
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("offsets", [False, True])
def test_it_is_what_its_definition_computes(gate: Gate, offsets: bool) -> None:
    rng = np.random.default_rng(11)
    of = Mlp(rng, 48, 128, gate, offsets=offsets, bias=True, axes=2)
    assert_near(*both(of.fused, {"x": rng.standard_normal((33, 128), np.float32)}), 2e-5)


@needs_kernels
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_is_the_same_in_any_company(variant: str) -> None:
    rng = np.random.default_rng(13)
    native = session(Mlp(rng, 96, 256).fused, native=True, variant=variant)
    x = rng.standard_normal((33, 1, 256), np.float32)
    alone = np.concatenate([native.run(None, {"x": x[i : i + 1]})[0] for i in range(len(x))])
    for rows in (2, 8, 9, 33):
        np.testing.assert_array_equal(native.run(None, {"x": x[:rows]})[0], alone[:rows])


@needs_kernels
def test_halves_that_are_no_whole_panels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(17)
    of = Mlp(rng, 24, 64).fused
    ir.save(of, tmp_path / "model.onnx")
    x = {"x": rng.standard_normal((1, 3, 64), np.float32)}
    found = open_session(tmp_path / "model.onnx", HostDevice(), native=True).run(None, x)
    np.testing.assert_array_equal(found[0], session(of, native=False).run(None, x)[0])
    assert "N is no multiple of 32" in caplog.text


@needs_kernels
@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("family", ["llama-biases", "gemma2"])
def test_an_artifact_on_onnx_runtime_s_own_kernels(
    family: str,
    precision: str,
    make_family: MakeFamily,
    make_artifact: MakeArtifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    artifact = make_artifact(make_family(family), precision)
    ids = np.random.default_rng(19).integers(3, 384, 40).tolist()
    logits = []
    for choice in (VARIANTS[0], "onnxruntime"):
        monkeypatch.setenv("RBEE_KERNELS", choice)
        logits.append(forced_logits(open_cpu(artifact), ids, 20))
    # One of the two keeps its cache in 16 bits, by which activations tip from one byte to the next.
    assert relative_error(*logits) < 5e-2
