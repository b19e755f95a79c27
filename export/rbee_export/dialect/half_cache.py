"""The ``ort`` dialect with a cache of 16 bits, for the native kernels of the runtime alone.

ONNX Runtime's own attention has its cache in the type that it computes in, and on a CPU it computes
in float32. The operator that takes its place here, ``GroupQueryAttention`` of the domain ``rbee``,
has the same inputs, attributes and outputs, but keys and values of the cache are float16, and one
input more:

    slots         int32[B]   where each row is in the cache, of any number of slots
    past_key.{i}  float16[slots, kv_heads, capacity, head_dim]; past_value.{i} alike

Several rows may be in one slot, each with a token of its own: every row's key is there before any
row attends.
"""

from __future__ import annotations

import onnx_ir as ir

from rbee_export.dialect.functions import DOMAIN

_SLOTS_AT = 10
"""Where it is among the operator's inputs: after ``position_ids``."""


def halve_cache(model: ir.Model) -> None:
    """Have a float32 graph of the ``ort`` dialect keep its cache in float16, and rows share it."""
    slots = ir.Value(name="slots", type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape(["batch"]))
    model.graph.inputs.append(slots)
    for node in model.graph:
        if node.op_type == "GroupQueryAttention":
            node.domain = DOMAIN
            for value in (*node.inputs[3:5], *node.outputs[1:3]):
                assert value is not None  # the dialect always has a cache
                assert value.shape is not None
                value.dtype = ir.DataType.FLOAT16
                value.shape = ir.Shape(["slots", *value.shape[1:]])
            node.resize_inputs(max(len(node.inputs), _SLOTS_AT + 1))
            node.replace_input_with(_SLOTS_AT, slots)
    model.graph.opset_imports.setdefault(DOMAIN, 1)
