"""A short convolution in one operator, beside its definition in ONNX Runtime's operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
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

from rbee_export.checkpoint.config import ShortConvolution
from rbee_export.dialect.ort import OPSET
from rbee_export.dialect.short_convolution import short_convolution, short_convolution_attributes

Array = NDArray[Any]

NETS = {
    "as in LFM2": ShortConvolution(2048, 3, frozenset({0})),
    # Not a multiple of what registers hold, and longer than most steps.
    "odd": ShortConvolution(150, 9, frozenset({0})),
}


def draw(net: ShortConvolution, rows: int, tokens: int) -> dict[str, Array]:
    rng = np.random.default_rng(rows + tokens)
    return {
        "bcx": rng.standard_normal((rows, tokens, 3 * net.channels), np.float32),
        "past_conv": rng.standard_normal((rows, net.taps - 1, net.channels), np.float32),
    }


def layer(net: ShortConvolution) -> ir.Model:
    filters = np.random.default_rng(3).standard_normal((net.channels, 1, net.taps), np.float32)
    return model(
        "ShortConvolution",
        draw(net, 1, 1),
        {"filters": filters},
        short_convolution_attributes(net),
        outputs=2,
        keep_all=True,
        function=short_convolution(OPSET),
    )


@needs_kernels
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 1), (1, 2), (2, 70)])
def test_it_computes_its_definition(net: ShortConvolution, rows: int, tokens: int) -> None:
    found, wanted = both(layer(net), draw(net, rows, tokens))
    assert_near(found, wanted)


@pytest.mark.parametrize("variant", ["onnxruntime", *VARIANTS])
def test_a_state_is_updated_where_it_is(variant: str) -> None:
    """As the engine has it; the kernels give the same bits however a text is cut into steps."""
    net, native = NETS["odd"], variant != "onnxruntime"
    opened = session(layer(net), native=native, variant=variant if native else None)
    inputs = draw(net, 1, 50)
    whole = opened.run(None, inputs)
    held, parts, first = inputs["past_conv"].copy(), [], 0
    for tokens in (1, 2, 33, 1, 13):
        own = {"bcx": inputs["bcx"][:, first : first + tokens].copy()}
        parts.append(run_in_place(opened, own, {"past_conv": held}, net.channels))
        first += tokens
    found = [np.concatenate(parts, axis=1), held]
    if native:
        for f, w in zip(found, whole, strict=True):
            np.testing.assert_array_equal(f, w)
    else:
        assert_near(found, whole)


@needs_kernels
def test_what_does_not_fit_is_refused() -> None:
    net = NETS["odd"]
    opened = session(layer(net), native=True)
    right = draw(net, 2, 3)
    for name, array in right.items():
        with pytest.raises(Exception, match=r"ShortConvolution: .*(width|shape)"):
            opened.run(None, {**right, name: array[..., :-1].copy()})
