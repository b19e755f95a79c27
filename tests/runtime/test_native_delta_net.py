"""A gated DeltaNet in one operator, beside its definition in ONNX Runtime's operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.native import (
    VARIANTS,
    assert_near,
    both,
    model,
    needs_kernels,
    run_in_place,
    session,
)

from rbee_export.checkpoint.config import DeltaNet
from rbee_export.dialect.delta_net import delta_net_attributes, gated_delta_net
from rbee_export.dialect.ort import OPSET

Array = NDArray[Any]
EPSILON = 1e-6

NETS = {
    "as in Qwen3.5": DeltaNet(2, 2, 128, 128, 4, frozenset({0})),
    "as in Qwen3-Next": DeltaNet(2, 4, 16, 32, 4, frozenset({0})),
    "as in its GGUF": DeltaNet(2, 6, 16, 32, 4, frozenset({0}), tiled=True),
    # Neither is a multiple of what registers hold, and a convolution longer than most steps.
    "odd": DeltaNet(1, 3, 18, 40, 9, frozenset({0})),
}


class Layer:
    """A layer with random weights."""

    def __init__(self, net: DeltaNet) -> None:
        self._net = net
        rng = self._rng = np.random.default_rng(3)
        heads = net.value_heads
        weights = {
            "filters": self._draw(net.channels, 1, net.taps),
            "decay": -rng.uniform(0.05, 4.0, heads).astype(np.float32),
            "step": self._draw(heads),
            "norm": self._draw(net.value_dim),
        }
        self.model = model(
            "GatedDeltaNet",
            self.inputs(1, 1),
            weights,
            delta_net_attributes(net, EPSILON),
            outputs=3,
            keep_all=True,
            function=gated_delta_net(OPSET, net, EPSILON),
        )

    def inputs(self, rows: int, tokens: int) -> dict[str, Array]:
        net = self._net
        return {
            "qkvz": self._draw(rows, tokens, net.channels + net.value_width),
            "b": self._draw(rows, tokens, net.value_heads),
            "a": self._draw(rows, tokens, net.value_heads),
            "past_conv": self._draw(rows, net.taps - 1, net.channels),
            "past_state": self._draw(rows, net.value_heads, net.key_dim, net.value_dim),
        }

    def _draw(self, *shape: int) -> Array:
        return self._rng.standard_normal(shape, np.float32)


@needs_kernels
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 1), (1, 2), (1, 3), (2, 70)])
def test_it_computes_its_definition(net: DeltaNet, rows: int, tokens: int) -> None:
    layer = Layer(net)
    found, wanted = both(layer.model, layer.inputs(rows, tokens))
    assert_near(found, wanted, 1e-5)


@pytest.mark.parametrize("variant", ["onnxruntime", *VARIANTS])
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_states_are_updated_where_they_are(net: DeltaNet, variant: str) -> None:
    """As the engine has it; the kernels give the same bits however a text is cut into steps."""
    layer = Layer(net)
    native = variant != "onnxruntime"
    opened = session(layer.model, native=native, variant=variant if native else None)
    inputs = layer.inputs(1, 80)
    whole = opened.run(None, inputs)
    held = {name: inputs[name].copy() for name in ("past_conv", "past_state")}
    parts, first = [], 0
    for tokens in (1, 2, 1, 65, 3, 1, 7):
        given = slice(first, first + tokens)
        part = {name: inputs[name][:, given].copy() for name in ("qkvz", "b", "a")}
        parts.append(run_in_place(opened, part, held, net.value_width))
        first += tokens
    found = [np.concatenate(parts, axis=1), *held.values()]
    if native:
        for f, w in zip(found, whole, strict=True):
            np.testing.assert_array_equal(f, w)
    else:
        assert_near(found, whole, 1e-5)


@needs_kernels
def test_what_does_not_fit_is_refused() -> None:
    layer = Layer(NETS["odd"])
    opened = session(layer.model, native=True)
    right = layer.inputs(2, 3)
    for name, array in right.items():
        with pytest.raises(Exception, match=r"GatedDeltaNet: .*(width|shape)"):
            opened.run(None, {**right, name: array[..., :-1].copy()})
