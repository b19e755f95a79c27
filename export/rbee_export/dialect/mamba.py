"""A layer's state space, as a function of the model beside those of :mod:`.functions`."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.tape import Tape

from rbee_export.checkpoint.config import Mamba2
from rbee_export.dialect.functions import body, function, ints, split

_MS = "com.microsoft"


def mamba2(opset: int, net: Mamba2, epsilon: float) -> ir.Function:
    """Return ``Mamba2``; see ``mamba`` of a decoder's dialect.

    Inputs, for B rows of S tokens:

        zxbc          float[B, S, width + channels]
        dt            float[B, S, heads]
        past_conv     float[B, taps - 1, channels], tokens before these
        past_state    float[B, heads, state_dim, head_dim]
        filters       float[channels, 1, taps]
        conv_bias     float[channels]
        decay         float[heads], as it is multiplied by: below zero
        step, skip    float[heads]
        norm          float[width]

    It gives ``float[B, S, width]``, and both pasts as they then are, which may be in the same
    memory. Attributes are those of :func:`mamba2_attributes`; the body is for these alone.

    Args:
        opset: Version of ONNX's own operators.
        net: The dimensions.
        epsilon: Added to the mean square inside the norm.
    """
    tape = Tape()
    names = ("zxbc", "dt", "past_conv", "past_state", "filters", "conv_bias")
    inputs = [ir.Value(name=name) for name in (*names, "decay", "step", "skip", "norm")]
    zxbc, dt, past_conv, past_state, filters, conv_bias, decay, step, skip, norm = inputs
    z, xbc = split(tape, zxbc, [net.width, net.channels])
    convolved, conv = tape.op_multi_out(
        "CausalConvWithState",
        [xbc, filters, conv_bias, past_conv],
        {"activation": "silu", "channels_last": 1},
        num_outputs=2,
        domain=_MS,
    )
    x, b, c = split(tape, convolved, [net.width, net.state_dim, net.state_dim])
    dt = tape.op("Softplus", [tape.op("Add", [dt, step])])
    x = tape.op("Reshape", [x, ints(tape, [0, 0, net.heads, net.head_dim])])
    last, flat = ints(tape, [-1]), ints(tape, [0, 0, -1])
    written = tape.op("Mul", [x, tape.op("Unsqueeze", [dt, last])])
    again = ints(tape, [1, 1, net.heads])
    read, state = tape.op_multi_out(
        "LinearAttention",
        [
            tape.op("Tile", [c, again]),
            tape.op("Tile", [b, again]),
            tape.op("Reshape", [written, flat]),
            past_state,
            tape.op("Mul", [decay, dt]),
        ],
        {
            "q_num_heads": net.heads,
            "kv_num_heads": net.heads,
            "update_rule": "gated",
            "scale": 1.0,
        },
        num_outputs=2,
        domain=_MS,
    )
    past_by = tape.op("Mul", [x, tape.op("Unsqueeze", [skip, last])])
    total = tape.op("Add", [read, tape.op("Reshape", [past_by, flat])])
    # QuickGelu is x * sigmoid(alpha * x): at alpha 1, SiLU in one operator.
    gated = tape.op("Mul", [total, tape.op("QuickGelu", [z], {"alpha": 1.0}, domain=_MS)])
    # Within a function, the library does not survive to be told no stash_type.
    attributes = {"epsilon": epsilon, "axis": -1, "stash_type": 1}
    y = tape.op("SimplifiedLayerNormalization", [gated, norm], attributes)
    whole = [each for each in mamba2_attributes(net, epsilon) if each != "epsilon"]
    return function("Mamba2", body(opset, inputs, tape, y, conv, state), whole, ["epsilon"])


def mamba2_attributes(net: Mamba2, epsilon: float) -> Mapping[str, int | float]:
    """Return what a call of the function is told."""
    return {
        "heads": net.heads,
        "head_dim": net.head_dim,
        "state_dim": net.state_dim,
        "taps": net.taps,
        "epsilon": float(epsilon),
    }
