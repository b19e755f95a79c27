"""An ONNX graph under construction: nodes in order, weights in a file beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from rbee_export.checkpoint.rope import Rope
from rbee_export.weights_file import WeightsFile

FLOATS: Mapping[ir.DataType, Any] = {
    ir.DataType.FLOAT: np.float32,
    ir.DataType.FLOAT16: np.float16,
    ir.DataType.BFLOAT16: ml_dtypes.bfloat16,
}
"""NumPy's type for each floating-point type a graph computes in."""


class GraphWriter:
    """Emits nodes; each weight's bytes are written the first time its name comes.

    Attributes:
        dtype: What the graph computes in.
    """

    def __init__(self, file: WeightsFile, dtype: ir.DataType) -> None:
        self.dtype = dtype
        self._file = file
        self._tape = Tape()
        self._written: dict[str, ir.ExternalTensor] = {}
        self._initializers: dict[str, ir.Value] = {}
        self._ropes: dict[Rope, tuple[ir.Value, ir.Value]] = {}
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._functions: dict[str, ir.Function] = {}

    def op(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, int | float | str | ir.TensorProtocol] | None = None,
        domain: str = "",
    ) -> ir.Value:
        """Emit a node and return its only output."""
        return self._tape.op(kind, inputs, attributes, domain=domain)

    def call(
        self,
        function: ir.Function,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, int | float] | None = None,
    ) -> ir.Value:
        """Emit a call of a function, which the model then brings along; return its only output."""
        (output,) = self.call_multi_out(function, inputs, attributes)
        return output

    def call_multi_out(
        self,
        function: ir.Function,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, int | float] | None = None,
    ) -> Sequence[ir.Value]:
        """Emit such a call and return all its outputs."""
        self._functions.setdefault(function.name, function)
        return self._tape.op_multi_out(
            function.name,
            inputs,
            attributes,
            num_outputs=len(function.outputs),
            domain=function.domain,
        )

    def op_multi_out(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, int | float | str],
        outputs: int,
        domain: str = "",
    ) -> Sequence[ir.Value]:
        """Emit a node and return its outputs."""
        return self._tape.op_multi_out(kind, inputs, attributes, num_outputs=outputs, domain=domain)

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        """Add an input."""
        value = _value(name, dtype, shape)
        self._inputs.append(value)
        return value

    def output(
        self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[int | str]
    ) -> None:
        """Make a value an output."""
        value.name = name
        value.dtype = dtype
        value.shape = ir.Shape(shape)
        self._outputs.append(value)

    def floats(self, name: str, array: NDArray[Any]) -> ir.Value:
        """Return an initializer over numbers in the type the graph computes in."""
        return self.stored(name, array.astype(FLOATS[self.dtype], copy=False))

    def stored(
        self,
        name: str,
        array: NDArray[Any],
        shape: Sequence[int] | None = None,
        dtype: ir.DataType | None = None,
    ) -> ir.Value:
        """Return an initializer over ``array`` as it is.

        Another ``shape`` gives another initializer over the same bytes, and so does another
        ``dtype``: NumPy has none for integers of 4 bits, two to a byte.
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
                dtype or tensor.dtype,
                shape=ir.Shape(shape),
                name=name,
                base_dir=tensor.base_dir,
            )
        return self._constant(name, tensor, shape)

    def rope(self, rope: Rope, positions: int) -> tuple[ir.Value, ir.Value]:
        """Return initializers over a rotary embedding's :meth:`~Rope.stored_tables`."""
        if rope not in self._ropes:
            prefix = f"rope.{len(self._ropes)}" if self._ropes else "rope"
            cos, sin = rope.stored_tables(positions)
            self._ropes[rope] = self.floats(f"{prefix}.cos", cos), self.floats(f"{prefix}.sin", sin)
        return self._ropes[rope]

    def ints(self, name: str, values: int | Sequence[int]) -> ir.Value:
        """Return a small ``int64`` constant, kept in the graph itself."""
        name = f"const.{name}"
        array = np.asarray(values, np.int64)
        return self._constant(name, ir.tensor(array, name=name), array.shape)

    def number(self, value: float) -> ir.Value:
        """Return a scalar in the type the graph computes in, kept in the graph itself."""
        name = f"const.{value!r}"
        array = np.asarray(value, FLOATS[self.dtype])
        return self._constant(name, ir.tensor(array, name=name), ())

    def model(
        self,
        opset: int,
        domains: Mapping[str, int],
        producer: str,
        *,
        ir_version: int,
        name: str = "decoder",
    ) -> ir.Model:
        """Return the finished model; its weights stay in the weights file."""
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._tape.nodes,
            initializers=list(self._initializers.values()),
            opset_imports={"": opset, **domains},
            name=name,
        )
        for function in self._functions.values():
            graph.opset_imports.setdefault(function.domain, 1)
        return ir.Model(
            graph,
            ir_version=ir_version,
            producer_name="rbee-export",
            producer_version=producer,
            functions=list(self._functions.values()),
        )

    def _constant(self, name: str, tensor: ir.TensorProtocol, shape: Sequence[int]) -> ir.Value:
        if name not in self._initializers:
            value = _value(name, tensor.dtype, shape)
            value.const_value = tensor
            self._initializers[name] = value
        return self._initializers[name]


def _value(name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
