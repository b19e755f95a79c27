"""The gated DeltaNet of a layer, as a function of the model beside those of :mod:`.functions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from rbee_export.checkpoint.config import DeltaNet
from rbee_export.dialect.functions import body, function, ints, split

_MS = "com.microsoft"
_LEAST = 1e-6
"""Added to the square of a length that is divided by."""


def gated_delta_net(opset: int, net: DeltaNet, epsilon: float) -> ir.Function:
    """Return ``GatedDeltaNet``; see ``delta_net`` of a decoder's dialect.

    Inputs, for B rows of S tokens:

        qkvz          float[B, S, channels + value_heads * value_dim]
        b, a          float[B, S, value_heads]
        past_conv     float[B, taps - 1, channels], tokens before these
        past_state    float[B, value_heads, key_dim, value_dim]
        filters       float[channels, 1, taps]
        decay, step   float[value_heads], the first as it is multiplied by: below zero
        norm          float[value_dim]

    It gives ``float[B, S, value_heads * value_dim]``, and both pasts as they then are, which may be
    in the same memory. Attributes are those of :func:`delta_net_attributes`; the body is for these
    alone.

    Args:
        opset: Version of ONNX's own operators.
        net: The dimensions.
        epsilon: Added to the mean square inside the norm.
    """
    tape = Tape()
    names = ("qkvz", "b", "a", "past_conv", "past_state", "filters", "decay", "step", "norm")
    inputs = [ir.Value(name=name) for name in names]
    qkvz, b, a, past_conv, past_state, filters, decay, step, norm = inputs
    qkv, z = split(tape, qkvz, [net.channels, net.value_width])
    convolved, conv = tape.op_multi_out(
        "CausalConvWithState",
        [qkv, filters, None, past_conv],
        {"activation": "silu", "channels_last": 1},
        num_outputs=2,
        domain=_MS,
    )
    qk, v = split(tape, convolved, [2 * net.key_width, net.value_width])
    # x / sqrt(sum(x ** 2) + least): an RMS norm, whose mean is of as many.
    unit = tape.op("Constant", [], {"value": _floats([net.key_dim**-0.5] * net.key_dim)})
    qk = _normed(tape, qk, unit, 2 * net.key_heads, _LEAST / net.key_dim)
    q, k = split(tape, qk, [net.key_width, net.key_width])
    key_heads = net.key_heads
    if net.tiled:
        again = [net.value_heads // net.key_heads]
        q, k = (tape.op("Tile", [each, ints(tape, [1, 1, *again])]) for each in (q, k))
        key_heads = net.value_heads
    pace = tape.op("Mul", [decay, tape.op("Softplus", [tape.op("Add", [a, step])])])
    read, state = tape.op_multi_out(
        "LinearAttention",
        [q, k, v, past_state, pace, tape.op("Sigmoid", [b])],
        {
            "q_num_heads": key_heads,
            "kv_num_heads": net.value_heads,
            "update_rule": "gated_delta",
            "scale": net.key_dim**-0.5,
        },
        num_outputs=2,
        domain=_MS,
    )
    normed = _normed(tape, read, norm, net.value_heads, epsilon)
    # QuickGelu is x * sigmoid(alpha * x): at alpha 1, SiLU in one operator.
    y = tape.op("Mul", [normed, tape.op("QuickGelu", [z], {"alpha": 1.0}, domain=_MS)])
    whole = [each for each in delta_net_attributes(net, epsilon) if each != "epsilon"]
    return function("GatedDeltaNet", body(opset, inputs, tape, y, conv, state), whole, ["epsilon"])


def delta_net_attributes(net: DeltaNet, epsilon: float) -> Mapping[str, int | float]:
    """Return what a call of the function is told."""
    return {
        "key_heads": net.key_heads,
        "value_heads": net.value_heads,
        "key_dim": net.key_dim,
        "value_dim": net.value_dim,
        "taps": net.taps,
        "tiled": int(net.tiled),
        "epsilon": float(epsilon),
    }


def _normed(tape: Tape, x: ir.Value, weight: ir.Value, heads: int, epsilon: float) -> ir.Value:
    """Normalise each head of ``float[B, S, heads * width]``."""
    each = tape.op("Reshape", [x, ints(tape, [0, 0, heads, -1])])
    # Within a function, the library does not survive to be told no stash_type.
    attributes = {"epsilon": epsilon, "axis": -1, "stash_type": 1}
    each = tape.op("SimplifiedLayerNormalization", [each, weight], attributes)
    return tape.op("Reshape", [each, ints(tape, [0, 0, -1])])


def _floats(values: Sequence[float]) -> ir.TensorProtocol:
    return ir.tensor(np.asarray(values, np.float32))
