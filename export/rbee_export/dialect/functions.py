"""Operators of our own, each defined by ONNX Runtime's.

They are functions of the model, in the domain ``rbee``. ONNX Runtime puts a function's body in the
place of its calls, unless a library of kernels brings one for it, as :mod:`rbee_runtime.kernels`
does. A graph with them therefore runs wherever the bodies do, and faster with that library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import onnx_ir as ir
from onnx_ir.tape import Tape

DOMAIN = "rbee"
_MS = "com.microsoft"

_PRODUCT = ("N", "K", "bits", "block_size")

Gate = Literal["GatedSilu", "GatedGelu", "GatedErfGelu"]


def block_product(opset: int, attributes: Mapping[str, int]) -> ir.Function:
    """Return ``BlockProduct``, a product with weights whose blocks have offsets.

    Its inputs are ``x``, ``float[..., K]``; ``integers``, ``scales`` and ``offsets`` of a
    :class:`~rbee_export.blocks.BlockMatrix`; and, optional, ``bias``, ``float[N]``. Its attributes
    are those of ``MatMulNBits``.

    Args:
        opset: Version of ONNX's own operators.
        attributes: What every ``MatMulNBits`` is told besides.
    """
    tape = Tape()
    inputs = _values("x", "integers", "scales", "offsets", "bias")
    total = _product(tape, inputs, attributes)
    return function("BlockProduct", body(opset, inputs, tape, total), _PRODUCT)


def gated(opset: int, name: Gate) -> ir.Function:
    """Return ``GatedSilu``, ``GatedGelu`` or ``GatedErfGelu``: ``activation(gate) * up``.

    Its input is both side by side, ``float[..., 2 * width]``, the gate first. The activation is
    ``x * sigmoid(x)``, or GELU in its approximation by ``tanh``, or GELU itself.
    """
    tape = Tape()
    inputs = _values("gate_up")
    return function(name, body(opset, inputs, tape, _gated(tape, inputs[0], name)))


def gated_product(
    opset: int, gate: Gate, attributes: Mapping[str, int], *, offsets: bool
) -> ir.Function:
    """Return a product with weights in blocks, and the gate of its outcome, in one.

    That is ``GatedSiluProduct``, ``GatedGeluProduct`` or ``GatedErfGeluProduct``, and for blocks
    with offsets ``GatedSiluBlockProduct`` or ``GatedGeluBlockProduct``. Inputs and attributes are
    those of ``BlockProduct``, without the offsets where there are none; the output, ``float[...,
    N / 2]``, is that of :func:`gated`.

    Args:
        opset: Version of ONNX's own operators.
        gate: The gate.
        attributes: What every ``MatMulNBits`` is told besides.
        offsets: Whether the blocks have offsets.
    """
    tape = Tape()
    names = ("x", "integers", "scales", *(["offsets"] if offsets else []), "bias")
    inputs = _values(*names)
    y = _gated(tape, _product(tape, inputs, attributes), gate)
    name = f"{gate}{'Block' if offsets else ''}Product"
    return function(name, body(opset, inputs, tape, y), _PRODUCT)


def gelu_product(opset: int, attributes: Mapping[str, int]) -> ir.Function:
    """Return ``GeluProduct``: GELU of a product with weights in blocks, ``float[..., N]``.

    Inputs and attributes are those of ``BlockProduct``, without the offsets.

    Args:
        opset: Version of ONNX's own operators.
        attributes: What every ``MatMulNBits`` is told besides.
    """
    tape = Tape()
    inputs = _values("x", "integers", "scales", "bias")
    y = tape.op("Gelu", [_product(tape, inputs, attributes)])
    return function("GeluProduct", body(opset, inputs, tape, y), _PRODUCT)


def _product(tape: Tape, inputs: Sequence[ir.Value], attributes: Mapping[str, int]) -> ir.Value:
    """Multiply by weights in blocks; the offsets before the bias are there or not."""
    x, integers, scales, *offsets, bias = inputs
    told: dict[str, ir.Attr | int] = {name: _same(name) for name in _PRODUCT}
    told.update(attributes)
    y = tape.op("MatMulNBits", [x, integers, scales, None, None, bias], told, domain=_MS)
    if not offsets:
        return y
    # Sizes to cut x to: leading dimensions as they are, then blocks.
    leading = tape.op("Shape", [x], {"end": -1})
    block = tape.op("Constant", [], {"value_int": _same("block_size", "value_int")})
    width = tape.op("Unsqueeze", [block, ints(tape, [0])])
    last = ints(tape, [-1])
    sizes = tape.op("Concat", [leading, last, width], {"axis": 0})
    sums = tape.op("ReduceSum", [tape.op("Reshape", [x, sizes]), last], {"keepdims": 0})
    shifts = tape.op("FusedMatMul", [sums, *offsets], {"transB": 1}, domain=_MS)
    return tape.op("Add", [y, shifts])


def _gated(tape: Tape, gate_up: ir.Value, name: Gate) -> ir.Value:
    halves = {"axis": -1, "num_outputs": 2}
    gate, up = tape.op_multi_out("Split", [gate_up], halves, num_outputs=2)
    return gated_pair(tape, gate, up, name)


def gated_pair(tape: Tape, gate: ir.Value, up: ir.Value, name: Gate) -> ir.Value:
    """Return ``activation(gate) * up``, within a function."""
    if name == "GatedSilu":
        # QuickGelu is x * sigmoid(alpha * x): at alpha 1, SiLU in one operator.
        active = tape.op("QuickGelu", [gate], {"alpha": 1.0}, domain=_MS)
    else:
        active = tape.op("Gelu", [gate], {"approximate": "tanh"} if name == "GatedGelu" else {})
    return tape.op("Mul", [active, up])


def function(
    name: str, made: ir.Graph, attributes: Sequence[str] = (), floats: Sequence[str] = ()
) -> ir.Function:
    """Return a function of this domain.

    Args:
        name: Its name.
        made: Its body.
        attributes: Names of those that are whole numbers.
        floats: Names of the others.
    """
    given = [ir.Attr(each, ir.AttributeType.INT, None) for each in attributes]
    given += [ir.Attr(each, ir.AttributeType.FLOAT, None) for each in floats]
    return ir.Function(DOMAIN, name, graph=made, attributes=given)


def body(opset: int, inputs: Sequence[ir.Value], tape: Tape, *outputs: ir.Value) -> ir.Graph:
    """Return a function's body."""
    imports = {"": opset, _MS: 1}
    return ir.Graph(inputs, outputs, nodes=tape.nodes, opset_imports=imports)


def _same(of_function: str, name: str | None = None) -> ir.Attr:
    """Return an attribute of a node that is as the function's is."""
    return ir.RefAttr(name or of_function, of_function, ir.AttributeType.INT)


def _values(*names: str) -> list[ir.Value]:
    return [ir.Value(name=name) for name in names]


def ints(tape: Tape, values: Sequence[int]) -> ir.Value:
    """Return whole numbers, within a function."""
    return tape.op("Constant", [], {"value_ints": list(values)})


def split(tape: Tape, x: ir.Value, widths: Sequence[int]) -> Sequence[ir.Value]:
    """Return parts of such widths of ``x``'s last dimension, within a function."""
    count = len(widths)
    return tape.op_multi_out("Split", [x, ints(tape, widths)], {"axis": -1}, num_outputs=count)
