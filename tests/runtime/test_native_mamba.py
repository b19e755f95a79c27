"""A state space in one operator, beside its definition in ONNX Runtime's operators."""

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

from rbee_export.checkpoint.config import Mamba2
from rbee_export.dialect.mamba import mamba2, mamba2_attributes
from rbee_export.dialect.ort import OPSET

Array = NDArray[Any]
EPSILON = 1e-5

NETS = {
    "as in Granite 4": Mamba2(6, 64, 128, 4, frozenset({0})),
    # Neither is a multiple of what registers hold, and a convolution longer than most steps.
    "odd": Mamba2(3, 40, 18, 9, frozenset({0})),
}


class Layer:
    """A layer with random weights."""

    def __init__(self, net: Mamba2) -> None:
        self._net = net
        rng = self._rng = np.random.default_rng(3)
        weights = {
            "filters": self._draw(net.channels, 1, net.taps),
            "conv_bias": self._draw(net.channels),
            "decay": -rng.uniform(0.05, 4.0, net.heads).astype(np.float32),
            "step": self._draw(net.heads),
            "skip": self._draw(net.heads),
            "norm": self._draw(net.width),
        }
        self.model = model(
            "Mamba2",
            self.inputs(1, 1),
            weights,
            mamba2_attributes(net, EPSILON),
            outputs=3,
            keep_all=True,
            function=mamba2(OPSET, net, EPSILON),
        )

    def inputs(self, rows: int, tokens: int) -> dict[str, Array]:
        net = self._net
        return {
            "zxbc": self._draw(rows, tokens, net.width + net.channels),
            "dt": self._draw(rows, tokens, net.heads),
            "past_conv": self._draw(rows, net.taps - 1, net.channels),
            "past_state": self._draw(rows, net.heads, net.state_dim, net.head_dim),
        }

    def _draw(self, *shape: int) -> Array:
        return self._rng.standard_normal(shape, np.float32)


@needs_kernels
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 1), (1, 2), (2, 70)])
def test_it_computes_its_definition(net: Mamba2, rows: int, tokens: int) -> None:
    layer = Layer(net)
    found, wanted = both(layer.model, layer.inputs(rows, tokens))
    assert_near(found, wanted, 1e-5)


@pytest.mark.parametrize("variant", ["onnxruntime", *VARIANTS])
def test_states_are_updated_where_they_are(variant: str) -> None:
    """As the engine has it; the kernels give the same bits however a text is cut into steps."""
    net, native = NETS["odd"], variant != "onnxruntime"
    layer = Layer(net)
    opened = session(layer.model, native=native, variant=variant if native else None)
    inputs = layer.inputs(1, 80)
    whole = opened.run(None, inputs)
    held = {name: inputs[name].copy() for name in ("past_conv", "past_state")}
    parts, first = [], 0
    for tokens in (1, 2, 1, 65, 3, 1, 7):
        given = {n: inputs[n][:, first : first + tokens].copy() for n in ("zxbc", "dt")}
        parts.append(run_in_place(opened, given, held, net.width))
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
        with pytest.raises(Exception, match=r"Mamba2: .*(width|shape)"):
            opened.run(None, {**right, name: array[..., :-1].copy()})
