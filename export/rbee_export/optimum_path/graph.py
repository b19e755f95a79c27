"""The traced graph: what its inputs and outputs are, and how it is stored in an artifact."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from rbee_export.errors import UnsupportedModel
from rbee_export.weights_file import WeightsFile
from rbee_runtime.artifact import CacheGeometry

_CACHE = re.compile(r"past_key_values\.(\d+)\.(key|value)")
_TOKEN_INPUTS = ("input_ids", "attention_mask", "position_ids")

_INLINE = 1024
"""Bytes up to which a tensor stays in the graph's own file."""


@dataclass(frozen=True, slots=True)
class Interface:
    """What a traced graph takes and gives.

    Attributes:
        cache: Names and ``(heads, width)`` of the cache's inputs, in the graph's order.
        vocab: Width of the logits.
    """

    cache: dict[str, tuple[int, int]]
    vocab: int

    @classmethod
    def of(cls, model: ir.Model, checkpoint: Path) -> Interface:
        """Read a graph's inputs and outputs.

        Raises:
            UnsupportedModel: It wants or gives something the runtime does not know.
        """
        inputs = {str(value.name): value for value in model.graph.inputs}
        outputs = {str(value.name): value for value in model.graph.outputs}
        cache = {}
        for name, value in inputs.items():
            if _CACHE.fullmatch(name):
                cache[name] = _heads_and_width(value, checkpoint)
            elif name not in _TOKEN_INPUTS or value.dtype is not ir.DataType.INT64:
                raise UnsupportedModel(
                    f"{checkpoint}: the exported graph wants an input {name!r} ({value.dtype}), "
                    "which the runtime cannot give"
                )
        if not cache:
            raise UnsupportedModel(
                f"{checkpoint}: the exported graph has no cache of keys and values"
            )
        for name in ("logits", *map(present, cache)):
            if name not in outputs:
                raise UnsupportedModel(f"{checkpoint}: the exported graph gives no {name!r}")
        logits = outputs["logits"].shape
        vocab = None if logits is None or logits.rank() != 3 else logits[2]
        if not isinstance(vocab, int):
            raise UnsupportedModel(f"{checkpoint}: the exported graph's logits are of {logits}")
        return cls(cache, vocab)

    @property
    def geometry(self) -> CacheGeometry:
        """Return the cache's geometry.

        Where tensors differ in shape, it is that of equal ones that take at least as many bytes.
        """
        layers = -(-len(self.cache) // 2)
        elements = sum(heads * width for heads, width in self.cache.values())
        heads = max(heads for heads, _ in self.cache.values())
        width = -(-elements // (2 * layers * heads))
        return CacheGeometry(layers=layers, kv_heads=heads, head_dim=width, dtype="float32")


def present(past: str) -> str:
    """Return the name of the output that is the next step's input ``past``."""
    return past.replace("past_key_values", "present", 1)


def _heads_and_width(value: ir.Value, checkpoint: Path) -> tuple[int, int]:
    shape = value.shape
    if (
        value.dtype is ir.DataType.FLOAT
        and shape is not None
        and shape.rank() == 4
        and isinstance(shape[1], int)
        and isinstance(shape[3], int)
        and not isinstance(shape[2], int)
    ):
        return shape[1], shape[3]
    raise UnsupportedModel(
        f"{checkpoint}: its cache {value.name} is {value.dtype} of {shape}, and the runtime holds "
        "FLOAT of [batch, heads, positions, width]"
    )


def keep_last_logits(model: ir.Model) -> None:
    """Have the graph give the logits of its last token alone, ``float32[batch, 1, vocab]``."""
    graph = model.graph
    place = [value.name for value in graph.outputs].index("logits")
    every = graph.outputs[place]
    every.name = "logits_of_every_token"
    index = ir.Value(
        name="last_token",
        shape=ir.Shape([1]),
        type=ir.TensorType(ir.DataType.INT64),
        const_value=ir.tensor(np.array([-1], np.int64), name="last_token"),
    )
    graph.register_initializer(index)
    node = ir.node("Gather", [every, index], {"axis": 1}, name="keep_last_logits")
    assert every.shape is not None
    last = node.outputs[0]
    last.name, last.type = "logits", every.type
    last.shape = ir.Shape([every.shape[0], 1, every.shape[2]])
    # The trace names this dimension as if it were as long as the input.
    every.shape = ir.Shape([every.shape[0], "kept", every.shape[2]])
    graph.append(node)
    graph.outputs[place] = last


def save(model: ir.Model, graph: Path, weights: WeightsFile) -> None:
    """Write a graph, and its initialisers to the weights file.

    Raises:
        OSError: The disk is full.
    """
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None:
            small = tensor.nbytes <= _INLINE
            value.const_value = _in_memory(tensor) if small else weights.add(name, tensor.numpy())
    # What is left may still lie in the trace's own files, which will be gone.
    for part in model.graphs():
        for node in part:
            for attribute in node.attributes.values():
                if attribute.type is ir.AttributeType.TENSOR:
                    tensor = _in_memory(attribute.as_tensor())
                    node.attributes[attribute.name] = ir.AttrTensor(attribute.name, tensor)
        if part is not model.graph:
            for value in part.initializers.values():
                if value.const_value is not None:
                    value.const_value = _in_memory(value.const_value)
    ir.save(model, graph)


def _in_memory(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return ir.tensor(tensor.numpy().copy(), name=tensor.name)
