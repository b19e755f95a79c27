"""The ``ort`` dialect with a cache of 16 bits, for the native kernels of the runtime alone.

ONNX Runtime's own attention has its cache in the type that it computes in, and on a CPU it computes
in float32. The operator that takes its place here, ``GroupQueryAttention`` of the domain ``rbee``,
has the same inputs, attributes and outputs, but keys and values of the cache are float16.
"""

from __future__ import annotations

import onnx_ir as ir

from rbee_export.dialect.functions import DOMAIN


def halve_cache(model: ir.Model) -> None:
    """Have a float32 graph of the ``ort`` dialect keep its cache in float16."""
    for node in model.graph:
        if node.op_type == "GroupQueryAttention":
            node.domain = DOMAIN
            for value in (*node.inputs[3:5], *node.outputs[1:3]):
                assert value is not None  # the dialect always has a cache
                value.dtype = ir.DataType.FLOAT16
    model.graph.opset_imports.setdefault(DOMAIN, 1)
