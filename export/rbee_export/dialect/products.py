"""Products with a model's matrices, as the ``ort`` dialect's graphs have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeGuard

import numpy as np
import onnx_ir as ir

from rbee_export.blocks import BlockMatrix
from rbee_export.checkpoint.config import Experts
from rbee_export.checkpoint.pooling import Dense
from rbee_export.dialect.experts import block_experts, dense_experts
from rbee_export.dialect.functions import Gate, block_product, gated, gated_product, gelu_product
from rbee_export.dialect.graph import GraphWriter
from rbee_export.errors import UnsupportedModel
from rbee_export.weights import Matrix, Weights

_MS = "com.microsoft"
_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level
_PANEL = 16  # outputs that our kernels compute together


class Products:
    """Emits products of activations and a model's weights.

    Args:
        graph: The graph to emit them to.
        weights: The weights.
        opset: Version of ONNX's own operators.
        flat: Whether activations are ``float[B * S, width]``; else they are in rows.
    """

    def __init__(self, graph: GraphWriter, weights: Weights, opset: int, *, flat: bool) -> None:
        self._graph = graph
        self._weights = weights
        self._opset = opset
        self._flat = flat
        # GPUs multiply by what the integers stand for, in the type of the activations.
        self._on_cpu = graph.dtype == ir.DataType.FLOAT
        self._accuracy = {"accuracy_level": _INT8_ACTIVATIONS} if self._on_cpu else {}

    def linear(self, x: ir.Value, columns: int, rows: Mapping[str, int], *, bias: bool) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._joined(x, self._weights.stacked(rows, columns), bias=bias)

    def gated(
        self, x: ir.Value, columns: int, rows: Mapping[str, int], gate: Gate, *, bias: bool
    ) -> ir.Value:
        """Return ``activation(gate) * up``, of what two matrices make of ``x``.

        One operator does it where our kernels can: on the CPU, for matrices in blocks of one kind,
        whose outputs are whole panels.
        """
        stacks = self._weights.stacked(rows, columns)
        both, matrix = stacks[0]
        if len(stacks) == 1 and self._in_pairs(matrix):
            offsets = matrix.offsets is not None
            function = gated_product(self._opset, gate, self._accuracy, offsets=offsets)
            inputs = self._inputs(x, matrix, both, bias=bias)
            return self._graph.call(function, inputs, _shape(matrix))
        gate_up = self._joined(x, stacks, bias=bias)
        return self._graph.call(gated(self._opset, gate), [gate_up])

    def gelu(self, x: ir.Value, columns: int, rows: Mapping[str, int], *, bias: bool) -> ir.Value:
        """Return GELU of what matrices make of ``x``, in one operator alike."""
        stacks = self._weights.stacked(rows, columns)
        own, matrix = stacks[0]
        if len(stacks) == 1 and self._in_pairs(matrix) and matrix.offsets is None:
            function = gelu_product(self._opset, self._accuracy)
            inputs = self._inputs(x, matrix, own, bias=bias)
            return self._graph.call(function, inputs, _shape(matrix))
        return self._graph.op("Gelu", [self._joined(x, stacks, bias=bias)])

    def dense(self, x: ir.Value, at: str, layer: Dense) -> ir.Value:
        """Return what a layer after the pooling makes of vectors, ``float32[N, outputs]``.

        Args:
            x: The vectors, ``float32[N, inputs]``.
            at: What the names of its weights begin with.
            layer: The layer.
        """
        graph, weights, name = self._graph, self._weights, at + "dense"
        # A score is one sum: to round what it is of would save nothing.
        if self._on_cpu and layer.outputs > 1:
            y = self.linear(x, layer.inputs, {name: layer.outputs}, bias=layer.bias)
        else:
            # From the pooling on, vectors are in float32.
            matrix = weights.table(name, layer.outputs, layer.inputs, "float32")
            inputs = [x, graph.stored(name, matrix)]
            if layer.bias:
                bias = f"{name}_bias"
                inputs.append(graph.stored(bias, weights.vector(bias, layer.outputs)))
            y = graph.op("Gemm", inputs, {"transB": 1})
        match layer.activation:
            case "tanh" | "relu" | "gelu" | "sigmoid":
                y = graph.op(layer.activation.capitalize(), [y])
            case "gelu_tanh":
                y = graph.op("Gelu", [y], {"approximate": "tanh"})
            case "silu":
                y = graph.op("Mul", [y, graph.op("Sigmoid", [y])])
        if layer.norm is None:
            return y
        scale = weights.vector(at + "norm", layer.outputs)
        added = np.zeros_like(scale)
        if layer.norm.bias:
            added = weights.vector(at + "norm_bias", layer.outputs)
        inputs = [y, graph.stored(at + "norm", scale), graph.stored(at + "norm_bias", added)]
        epsilon = {"epsilon": layer.norm.epsilon, "axis": -1}
        return graph.op("LayerNormalization", inputs, epsilon)

    def experts(self, x: ir.Value, at: str, columns: int, experts: Experts) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        count, width = experts.count, experts.intermediate
        router = self.of_numbers(x, at + "router", count, columns)
        if experts.clamped:
            router = self._graph.op("Add", [router, self._vector(at + "router_bias", count)])
        inputs: list[ir.Value | None] = [x, router]
        kinds = []
        matrices = {
            "expert_gate": (count * width, columns),
            "expert_up": (count * width, columns),
            "expert_down": (count * columns, width),
        }
        for short, (rows, inner) in matrices.items():
            # One in memory at a time.
            matrix = self._weights.matrix(at + short, rows, inner)
            inputs += self._parts(at + short, matrix)
            kinds.append(_Kind.of(matrix))
            del matrix
        gate, up, down = kinds
        if gate != up or (gate.bits == 0) != (down.bits == 0):
            raise UnsupportedModel(
                f"{self._weights.checkpoint.name}: {at}expert_gate, expert_up and expert_down are "
                "of types that do not go together; use --precision int8"
            )
        if experts.clamped:
            inputs += [self._vector(f"{at}{n}_bias", rows) for n, (rows, _) in matrices.items()]
        if experts.sigmoid:
            # Behind the places of those biases, in what takes blocks.
            inputs += [None] * (3 if gate.bits and not experts.clamped else 0)
            inputs.append(self._vector(at + "choice_bias", count))
        attributes = {
            "experts": count,
            "active": experts.active,
            "normalized": int(experts.normalized),
            "N": width,
            "K": columns,
        }
        if not gate.bits:
            function = dense_experts(self._opset, clamped=experts.clamped, sigmoid=experts.sigmoid)
            return self._graph.call(function, inputs, attributes)
        attributes |= {
            "bits": gate.bits,
            "block_size": gate.block,
            "down_bits": down.bits,
            "down_block_size": down.block,
        }
        function = block_experts(
            self._opset,
            offsets=gate.offsets,
            down_offsets=down.offsets,
            clamped=experts.clamped,
            sigmoid=experts.sigmoid,
        )
        return self._graph.call(function, inputs, attributes)

    def of_numbers(self, x: ir.Value, name: str, rows: int, columns: int) -> ir.Value:
        """Multiply by a matrix of ``[rows, columns]`` that is in float32 whatever the precision."""
        weight = self._graph.floats(name, self._weights.table(name, rows, columns, "float32"))
        return self._graph.op("FusedMatMul", [x, weight], {"transB": 1}, domain=_MS)

    def product(
        self, x: ir.Value, matrix: Matrix, rows: Mapping[str, int], *, bias: bool
    ) -> ir.Value:
        """Multiply activations by a matrix of ``[N, K]``.

        Args:
            x: The activations.
            matrix: The matrix.
            rows: Weights that it consists of, with the rows of each.
            bias: Add their biases.
        """
        inputs = self._inputs(x, matrix, rows, bias=bias)
        if not isinstance(matrix, BlockMatrix):
            if self._flat:
                return self._graph.op("Gemm", inputs if bias else inputs[:2], {"transB": 1})
            *factors, added = inputs
            y = self._graph.op("FusedMatMul", factors, {"transB": 1}, domain=_MS)
            return self._graph.op("Add", [y, added]) if bias else y
        if matrix.offsets is not None:
            function = block_product(self._opset, self._accuracy)
            return self._graph.call(function, inputs, _shape(matrix))
        *given, added = inputs
        return self._graph.op(
            "MatMulNBits",
            [*given, None, None, added] if bias else given,
            {**_shape(matrix), **self._accuracy},
            domain=_MS,
        )

    def looked_up(self, name: str, table: BlockMatrix, ids: ir.Value) -> ir.Value:
        """Return rows of a table in blocks, ``float[B, S, width]``, by ids of ``int64[B, S]``."""
        rows, width = table.shape
        data, scales = self.blocks(name, table, [rows, width * table.bits // 8])
        vectors = self._graph.op(
            "GatherBlockQuantized",
            [data, ids, scales],
            {
                "bits": table.bits,
                "block_size": table.block,
                "gather_axis": 0,
                "quantize_axis": 1,
            },
            domain=_MS,
        )
        if table.offsets is None:
            return vectors
        graph = self._graph
        offsets = graph.op("Gather", [graph.floats(f"{name}.offsets", table.offsets), ids])
        cut = graph.op("Reshape", [vectors, graph.ints("blocks", [0, 0, -1, table.block])])
        last = graph.ints("[-1]", [-1])
        shifted = graph.op("Add", [cut, graph.op("Unsqueeze", [offsets, last])])
        return graph.op("Reshape", [shifted, graph.ints("joined", [0, 0, -1])])

    def blocks(self, name: str, matrix: BlockMatrix, shape: Sequence[int]) -> list[ir.Value]:
        """Return a matrix's integers, in such a shape, and its scales."""
        packed = self._graph.stored(f"{name}.packed", matrix.packed, shape)
        return [packed, self._graph.floats(f"{name}.scales", matrix.scales)]

    def _in_pairs(self, matrix: Matrix) -> TypeGuard[BlockMatrix]:
        """Return whether our kernels compute its outputs by pairs of panels."""
        blocks = isinstance(matrix, BlockMatrix)
        return self._on_cpu and blocks and matrix.shape[0] % (2 * _PANEL) == 0

    def _joined(
        self, x: ir.Value, stacks: Sequence[tuple[Mapping[str, int], Matrix]], *, bias: bool
    ) -> ir.Value:
        parts = [self.product(x, matrix, own, bias=bias) for own, matrix in stacks]
        return parts[0] if len(parts) == 1 else self._graph.op("Concat", parts, {"axis": -1})

    def _inputs(
        self, x: ir.Value, matrix: Matrix, rows: Mapping[str, int], *, bias: bool
    ) -> list[ir.Value | None]:
        """Return the activations, all that a matrix is, and the bias or nothing."""
        name = "+".join(rows)
        added = None
        if bias:
            added = self._graph.floats(f"{name}_bias", self._weights.bias(rows))
        parts = [part for part in self._parts(name, matrix) if part is not None]
        return [x, *parts, added]

    def _vector(self, name: str, size: int) -> ir.Value:
        return self._graph.floats(name, self._weights.vector(name, size))

    def _parts(self, name: str, matrix: Matrix) -> list[ir.Value | None]:
        """Return a matrix of numbers, or the integers, the scales and the offsets or nothing."""
        if not isinstance(matrix, BlockMatrix):
            return [self._graph.floats(name, matrix)]
        offsets = None
        blocks = self.blocks(name, matrix, matrix.packed.shape)
        if matrix.offsets is not None:
            offsets = self._graph.floats(f"{name}.offsets", matrix.offsets)
        return [*blocks, offsets]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What matrices of one operator have in common: bits and size of a block, 0 for numbers."""

    bits: int = 0
    block: int = 0
    offsets: bool = False

    @classmethod
    def of(cls, matrix: Matrix) -> Self:
        if not isinstance(matrix, BlockMatrix):
            return cls()
        return cls(matrix.bits, matrix.block, matrix.offsets is not None)


def _shape(matrix: BlockMatrix) -> dict[str, int]:
    n, k = matrix.shape
    return {"N": n, "K": k, "bits": matrix.bits, "block_size": matrix.block}
