"""The experts of a layer as ONNX Runtime's operators compute them, beside plain sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.native import model, session

from rbee_export.blocks import BlockMatrix, quantize
from rbee_export.dialect.experts import block_experts, dense_experts
from rbee_export.dialect.ort import OPSET

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Layer:
    """What is chosen from, and how.

    Attributes:
        matrices: Gate, up and down of all experts.
        experts: How many there are.
        active: How many of them a token is given.
        normalized: Whether their weights are divided by their sum.
        biases: Those of gate, up and down of all experts, where these are clamped.
        choice: What is added where experts are chosen by sigmoids.
    """

    matrices: Sequence[Floats]
    experts: int
    active: int
    normalized: bool
    biases: Sequence[Floats] = ()
    choice: Floats | None = None

    @property
    def attributes(self) -> dict[str, int]:
        columns = self.matrices[0].shape[1]
        return {
            "experts": self.experts,
            "active": self.active,
            "normalized": int(self.normalized),
            "N": self.matrices[2].shape[1],
            "K": columns,
        }

    def outcome(self, x: Floats, router: Floats) -> Floats:
        """Return the sums, token by token."""
        gates, ups, downs = (np.split(matrix, self.experts) for matrix in self.matrices)
        wanted = np.zeros((router.size // self.experts, x.shape[-1]))
        tokens = zip(x.reshape(wanted.shape), router.reshape(-1, self.experts), strict=True)
        for i, (own, logits) in enumerate(tokens):
            p = np.exp(logits.astype(np.float64) - logits.max())
            p /= p.sum()
            scores = p
            if self.choice is not None:
                p = 1 / (1 + np.exp(-logits.astype(np.float64)))
                scores = p + self.choice
            # Of equal ones, the lower number.
            chosen = sorted(range(self.experts), key=lambda e: (-scores[e], e))[: self.active]
            total = p[chosen].sum() if self.normalized else 1.0
            for e in chosen:
                gate, up = gates[e] @ own, ups[e] @ own
                if not self.biases:
                    inner = gate / (1 + np.exp(-gate)) * up
                    wanted[i] += p[e] / total * (downs[e] @ inner)
                    continue
                of_gate, of_up, of_down = (np.split(b, self.experts)[e] for b in self.biases)
                gate, up = np.minimum(gate + of_gate, 7), np.clip(up + of_up, -7, 7)
                inner = gate / (1 + np.exp(-1.702 * gate)) * (up + 1)
                wanted[i] += p[e] / total * (downs[e] @ inner + of_down)
        return wanted.reshape(x.shape).astype(np.float32)


def matrix(rows: int, columns: int, bits: Any, *, offsets: bool, seed: int) -> BlockMatrix:
    random = np.random.default_rng(seed)
    made = quantize(random.standard_normal((rows, columns), np.float32) / 6, bits)
    if not offsets:
        return made
    shifts = random.standard_normal(made.scales.shape, np.float32) / 9
    return BlockMatrix(made.bits, made.packed, made.scales, shifts)


def run(
    function: ir.Function,
    attributes: Mapping[str, int],
    constants: Mapping[str, NDArray[Any] | None],
    inputs: Mapping[str, Floats],
) -> Floats:
    of = model(function.name, inputs, constants, attributes, function=function)
    found: Floats = session(of, native=False).run(None, dict(inputs))[0]
    return found


def activations(shape: Sequence[int], experts: int, seed: int = 3) -> dict[str, Floats]:
    random = np.random.default_rng(seed)
    return {
        "x": random.standard_normal((*shape, 96), np.float32),
        "router": random.standard_normal((*shape, experts), np.float32),
    }


def assert_near(found: Floats, wanted: Floats) -> None:
    assert np.abs(wanted).max() > 0.5
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["softmax", "clamped", "sigmoid"])
@pytest.mark.parametrize("down_offsets", [False, True])
@pytest.mark.parametrize("offsets", [False, True])
@pytest.mark.parametrize(("bits", "down_bits"), [(8, 8), (4, 8), (4, 4)])
def test_experts_in_blocks(
    bits: int, down_bits: int, *, offsets: bool, down_offsets: bool, kind: str
) -> None:
    clamped, sigmoid = kind == "clamped", kind == "sigmoid"
    gate, up = (matrix(5 * 64, 96, bits, offsets=offsets, seed=seed) for seed in (0, 1))
    down = matrix(5 * 96, 64, down_bits, offsets=down_offsets, seed=2)
    biases = [np.linspace(-9, 9, 5 * size, dtype=np.float32) for size in (64, 64, 96) if clamped]
    matrices = [m.dequantize() for m in (gate, up, down)]
    choice = np.linspace(0.4, -0.4, 5, dtype=np.float32) if sigmoid else None
    layer = Layer(matrices, 5, 2, normalized=offsets, biases=biases, choice=choice)
    inputs = activations((1, 7), 5)
    function = block_experts(
        OPSET, offsets=offsets, down_offsets=down_offsets, clamped=clamped, sigmoid=sigmoid
    )
    constants = {
        f"{name}.{part}": getattr(m, part)
        for name, m in (("gate", gate), ("up", up), ("down", down))
        for part in ("packed", "scales", "offsets")
    }
    constants |= {f"bias.{i}": bias for i, bias in enumerate(biases)}
    if sigmoid:
        constants |= {**{f"bias.{i}": None for i in range(3)}, "choice_bias": choice}
    attributes = layer.attributes | {
        "bits": bits,
        "block_size": 32,
        "down_bits": down_bits,
        "down_block_size": 32,
    }
    found = run(function, attributes, constants, inputs)
    assert_near(found, layer.outcome(**inputs))


def dense(layer: Layer, inputs: Mapping[str, Floats]) -> Floats:
    constants = dict(zip(("gate", "up", "down"), layer.matrices, strict=True))
    return run(dense_experts(OPSET), layer.attributes, constants, inputs)


def dense_layer(experts: int, active: int, *, normalized: bool) -> Layer:
    random = np.random.default_rng(9)
    sizes = [(experts * 32, 96), (experts * 32, 96), (experts * 96, 32)]
    matrices = [random.standard_normal(size, np.float32) / 3 for size in sizes]
    return Layer(matrices, experts, active, normalized)


@given(
    shape=st.sampled_from([(1, 1), (1, 9), (16, 1), (5,)]),
    experts=st.integers(1, 9),
    data=st.data(),
    normalized=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_experts_of_numbers(
    shape: Sequence[int], experts: int, data: st.DataObject, *, normalized: bool
) -> None:
    layer = dense_layer(experts, data.draw(st.integers(1, experts)), normalized=normalized)
    inputs = activations(shape, experts, seed=data.draw(st.integers(0, 99)))
    found, wanted = dense(layer, inputs), layer.outcome(**inputs)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(np.abs(wanted).max(), 1))


def test_of_equal_experts_the_first_are_chosen() -> None:
    layer = dense_layer(6, 3, normalized=True)
    inputs = activations((1, 4), 6)
    inputs["router"][:] = np.float32([0, 1, 1, 0, 1, 1])
    wanted = layer.outcome(**inputs)
    assert_near(dense(layer, inputs), wanted)
    inputs["router"][:] = np.float32([-200, 1, 1, -200, 1, 0.5])
    np.testing.assert_allclose(layer.outcome(**inputs), wanted, rtol=0, atol=1e-5)


def test_logits_of_any_size_choose() -> None:
    layer = dense_layer(4, 2, normalized=False)
    inputs = activations((1, 8), 4)
    inputs["router"] *= np.float32(1e4)
    assert_near(dense(layer, inputs), layer.outcome(**inputs))
