"""The ``ort`` dialect: ONNX Runtime's fused operators, for its CPU and CUDA providers.

The graph's inputs and outputs, with B rows of S tokens each:

    input_ids               int64[B, S]     S > 1 (prefill) only with B = 1
    seqlens_k               int32[B]        positions in the cache after this step, less one
    total_sequence_length   int32           the largest of those positions
    past_key.{i}            float32[B, kv_heads, capacity, head_dim]; past_value.{i} alike
    logits                  float32[B, vocab], of each row's last token
    present_key.{i}         the same memory as past_key.{i}; present_value.{i} alike

Where every product is a ``MatMulNBits``, activations keep their rows, ``float32[B, S, width]``. A
``Gemm`` takes matrices only, so the other precisions run on flat ones, ``float32[B * S, width]``,
with a ``Reshape`` on either side of the attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from rbee_export.blocks import BLOCK, BlockMatrix
from rbee_export.checkpoint import DecoderConfig
from rbee_export.weights import Matrix, Weights, pack_rows
from rbee_export.weights_file import WeightsFile

OPSET = 21
_MS = "com.microsoft"
_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level


class OrtDialect:
    """A :class:`~rbee_export.decoder.Dialect` of ONNX Runtime's operators."""

    def __init__(self, config: DecoderConfig, weights: Weights, file: WeightsFile) -> None:
        self._c = config
        self._weights = weights
        self._file = file
        self._tape = Tape()
        self._written: dict[str, ir.ExternalTensor] = {}
        self._initializers: dict[str, ir.Value] = {}
        self._row_shapes: dict[int, ir.Value] = {}
        self._outputs: list[ir.Value] = []
        self._past: list[ir.Value] = []
        self._unpacked: list[ir.Value] = []
        self._flat = weights.precision in ("fp32", "gguf")

        self._ids = _value("input_ids", ir.DataType.INT64, ["batch", "sequence"])
        self._seqlens = _value("seqlens_k", ir.DataType.INT32, ["batch"])
        self._total = _value("total_sequence_length", ir.DataType.INT32, [])
        cos, sin = config.rope.tables(config.head_dim, config.context_length)
        self._cos, self._sin = self._stored("rope.cos", cos), self._stored("rope.sin", sin)
        self._tied: Matrix | None = None

    def model(self, producer_version: str) -> ir.Model:
        """Return the finished model; its weights stay in the weights file."""
        graph = ir.Graph(
            [self._ids, self._seqlens, self._total, *self._past, *self._unpacked],
            self._outputs,
            nodes=self._tape.nodes,
            initializers=list(self._initializers.values()),
            opset_imports={"": OPSET, _MS: 1},
            name="decoder",
        )
        return ir.Model(
            graph, ir_version=10, producer_name="rbee-export", producer_version=producer_version
        )

    def embedding(self, name: str, rows: int) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        table = self._weights.matrix(name, rows, self._c.hidden)
        if self._c.tied_embedding:
            self._tied = table
        ids = self._ids
        if self._flat:
            ids = self._op("Reshape", [ids, self._ints("flat", [-1])])
        if not isinstance(table, BlockMatrix):
            return self._op("Gather", [self._stored(name, table), ids])
        bytes_per_row = self._c.hidden * table.bits // 8
        data, scales = self._blocks(name, table, [rows, bytes_per_row])
        vectors = self._op(
            "GatherBlockQuantized",
            [data, ids, scales],
            {"bits": table.bits, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1},
            domain=_MS,
        )
        if table.offsets is None:
            return vectors
        offsets = self._op("Gather", [self._stored(f"{name}.offsets", table.offsets), ids])
        cut = self._op("Reshape", [vectors, self._ints("blocks", [0, -1, BLOCK])])
        shifted = self._op("Add", [cut, self._op("Unsqueeze", [offsets, self._ints("[-1]", [-1])])])
        return self._op("Reshape", [shifted, self._ints("whole", [0, -1])])

    def rms_norm(self, x: ir.Value, name: str) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        weight = self._stored(name, self._weights.vector(name, self._c.hidden))
        attributes = {"epsilon": self._c.norm_epsilon, "axis": -1}
        return self._op("SimplifiedLayerNormalization", [x, weight], attributes)

    def add_rms_norm(self, residual: ir.Value, x: ir.Value, name: str) -> tuple[ir.Value, ir.Value]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        weight = self._stored(name, self._weights.vector(name, self._c.hidden))
        normed, _, _, total = self._tape.op_multi_out(
            "SkipSimplifiedLayerNormalization",
            [x, residual, weight],
            {"epsilon": self._c.norm_epsilon},
            num_outputs=4,
            domain=_MS,
        )
        return total, normed

    def linear(self, x: ir.Value, columns: int, rows: Mapping[str, int]) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        matrices = [self._weights.matrix(name, n, columns) for name, n in rows.items()]
        packed = pack_rows(matrices)
        if packed is not None:
            return self._product(x, "+".join(rows), packed)
        parts = [self._product(x, name, m) for name, m in zip(rows, matrices, strict=True)]
        return self._op("Concat", parts, {"axis": -1})

    def attention(self, qkv: ir.Value, layer: int) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        c = self._c
        width = (c.heads + 2 * c.kv_heads) * c.head_dim
        cache: list[int | str] = ["batch", c.kv_heads, "capacity", c.head_dim]
        past = [_value(f"past_{kv}.{layer}", ir.DataType.FLOAT, cache) for kv in ("key", "value")]
        attended, *present = self._tape.op_multi_out(
            "GroupQueryAttention",
            [
                self._in_rows(qkv, width),
                None,
                None,
                *past,
                self._seqlens,
                self._total,
                self._cos,
                self._sin,
            ],
            {"num_heads": c.heads, "kv_num_heads": c.kv_heads, "do_rotary": 1},
            num_outputs=3,
            domain=_MS,
        )
        self._past += past
        for kv, value in zip(("key", "value"), present, strict=True):
            self._output(value, f"present_{kv}.{layer}", cache)
        if not self._flat:
            return attended
        return self._op("Reshape", [attended, self._ints("wide", [-1, c.heads * c.head_dim])])

    def swiglu(self, gate_up: ir.Value) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        gate, up = self._tape.op_multi_out(
            "Split", [gate_up], {"axis": -1, "num_outputs": 2}, num_outputs=2
        )
        # QuickGelu is x * sigmoid(alpha * x): at alpha 1, SiLU in one operator.
        return self._op("Mul", [self._op("QuickGelu", [gate], {"alpha": 1.0}, domain=_MS), up])

    def last_position(self, x: ir.Value) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._op(
            "Gather", [self._in_rows(x, self._c.hidden), self._ints("-1", -1)], {"axis": 1}
        )

    def logits(self, x: ir.Value, name: str, rows: int) -> None:
        """See :class:`~rbee_export.decoder.Dialect`."""
        head = self._tied
        if head is None:
            head = self._weights.matrix(name, rows, self._c.hidden)
        self._output(self._product(x, name, head), "logits", ["batch", rows])
        # ``logits`` comes first among the outputs, whatever order the layers were emitted in.
        self._outputs.insert(0, self._outputs.pop())

    def _product(self, x: ir.Value, name: str, matrix: Matrix) -> ir.Value:
        """Multiply flat activations by a matrix of ``[N, K]``."""
        if not isinstance(matrix, BlockMatrix):
            return self._op("Gemm", [x, self._stored(name, matrix)], {"transB": 1})
        n, k = matrix.shape
        y = self._op(
            "MatMulNBits",
            [x, *self._blocks(name, matrix, matrix.packed.shape)],
            {
                "N": n,
                "K": k,
                "bits": matrix.bits,
                "block_size": BLOCK,
                "accuracy_level": _INT8_ACTIVATIONS,
            },
            domain=_MS,
        )
        if matrix.offsets is None:
            return y
        offsets = self._stored(f"{name}.offsets", matrix.offsets)
        if offsets not in self._unpacked:
            # An initializer that is also an input is left as it is. Packed for large products, it
            # would be read with many small jumps, which takes twice the time for one row.
            self._unpacked.append(offsets)
        return self._op("Gemm", [self._block_sums(x), offsets, y], {"transB": 1})

    def _block_sums(self, x: ir.Value) -> ir.Value:
        """Sum each block of 32 activations: ``float32[T, K]`` to ``float32[T, K / 32]``."""
        cut = self._op("Reshape", [x, self._ints("blocks", [0, -1, BLOCK])])
        return self._op("ReduceSum", [cut, self._ints("[-1]", [-1])], {"keepdims": 0})

    def _in_rows(self, x: ir.Value, width: int) -> ir.Value:
        """Return activations as ``[B, S, width]``."""
        if not self._flat:
            return x
        if width not in self._row_shapes:
            shape = self._op("Shape", [self._ids])
            parts = [shape, self._ints(f"width.{width}", [width])]
            self._row_shapes[width] = self._op("Concat", parts, {"axis": 0})
        return self._op("Reshape", [x, self._row_shapes[width]])

    def _blocks(self, name: str, matrix: BlockMatrix, shape: Sequence[int]) -> list[ir.Value]:
        packed = self._stored(f"{name}.packed", matrix.packed, shape)
        return [packed, self._stored(f"{name}.scales", matrix.scales)]

    def _stored(
        self,
        name: str,
        array: NDArray[np.float32] | NDArray[np.uint8],
        shape: Sequence[int] | None = None,
    ) -> ir.Value:
        """Return an initializer over ``array``, whose bytes are written the first time ``name``
        comes.

        Another ``shape`` gives another initializer over the same bytes.
        """
        if name not in self._written:
            self._written[name] = self._file.add(name, array)
        tensor = self._written[name]
        shape = tuple(shape if shape is not None else array.shape)
        if shape != tuple(array.shape):
            name = f"{name}:{'x'.join(map(str, shape))}"
            tensor = ir.ExternalTensor(
                tensor.location,
                tensor.offset,
                tensor.length,
                tensor.dtype,
                shape=ir.Shape(shape),
                name=name,
                base_dir=tensor.base_dir,
            )
        return self._constant(name, tensor, shape)

    def _ints(self, name: str, values: int | Sequence[int]) -> ir.Value:
        """Return a small ``int64`` constant, kept in the graph itself."""
        name = f"const.{name}"
        array = np.asarray(values, np.int64)
        return self._constant(name, ir.tensor(array, name=name), array.shape)

    def _constant(self, name: str, tensor: ir.TensorProtocol, shape: Sequence[int]) -> ir.Value:
        if name not in self._initializers:
            value = _value(name, tensor.dtype, shape)
            value.const_value = tensor
            self._initializers[name] = value
        return self._initializers[name]

    def _op(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, int | float] | None = None,
        domain: str = "",
    ) -> ir.Value:
        return self._tape.op(kind, inputs, attributes, domain=domain)

    def _output(self, value: ir.Value, name: str, shape: Sequence[int | str]) -> None:
        value.name = name
        value.dtype = ir.DataType.FLOAT
        value.shape = ir.Shape(shape)
        self._outputs.append(value)


def _value(name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
