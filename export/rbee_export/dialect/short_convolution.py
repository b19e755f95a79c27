"""A layer's short convolution, as a function of the model beside those of :mod:`.functions`."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.tape import Tape

from rbee_export.checkpoint.config import ShortConvolution
from rbee_export.dialect.functions import body, function

_MS = "com.microsoft"


def short_convolution(opset: int) -> ir.Function:
    """Return ``ShortConvolution``; see ``short_convolution`` of a decoder's dialect.

    Inputs, for B rows of S tokens:

        bcx           float[B, S, 3 * channels]
        past_conv     float[B, taps - 1, channels], ``b * x`` of tokens before these
        filters       float[channels, 1, taps]

    It gives ``float[B, S, channels]``, and the past as it then is, which may be in the same memory.
    Attributes are those of :func:`short_convolution_attributes`.

    Args:
        opset: Version of ONNX's own operators.
    """
    tape = Tape()
    inputs = [ir.Value(name=name) for name in ("bcx", "past_conv", "filters")]
    bcx, past_conv, filters = inputs
    parts = {"axis": -1, "num_outputs": 3}
    b, c, x = tape.op_multi_out("Split", [bcx], parts, num_outputs=3)
    convolved, conv = tape.op_multi_out(
        "CausalConvWithState",
        [tape.op("Mul", [b, x]), filters, None, past_conv],
        {"activation": "none", "channels_last": 1},
        num_outputs=2,
        domain=_MS,
    )
    y = tape.op("Mul", [c, convolved])
    return function("ShortConvolution", body(opset, inputs, tape, y, conv), ["channels", "taps"])


def short_convolution_attributes(net: ShortConvolution) -> Mapping[str, int]:
    """Return what a call of the function is told."""
    return {"channels": net.channels, "taps": net.taps}
