"""The experts of a layer, as functions of the model beside those of :mod:`.functions`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from rbee_export.dialect.functions import DOMAIN, gated_pair
from rbee_export.dialect.routing import LEAST_SUM

_MS = "com.microsoft"

_ROUTING = ("experts", "active", "normalized")
_SIZES = ("N", "K")
_BLOCKS = ("bits", "block_size", "down_bits", "down_block_size")


@dataclass(frozen=True, slots=True)
class _Matrix:
    """One of the matrices that every expert has one of.

    Attributes:
        outputs: Name of the attribute that says how many rows each expert has.
        parts: The weights, or integers, scales and perhaps offsets: the rows of all experts.
        blocks: Names of the attributes that say bits and size of a block; none for numbers.
        bias: What is added to the products, of all experts; ``None`` for nothing.
    """

    outputs: str
    parts: Sequence[ir.Value]
    blocks: tuple[str, str] | None = None
    bias: ir.Value | None = None


def block_experts(
    opset: int, *, offsets: bool, down_offsets: bool, clamped: bool = False, sigmoid: bool = False
) -> ir.Function:
    """Return the gated SiLU of the experts that a router chooses, weights in blocks.

    That is ``GatedSiluExperts``, with ``Block`` before ``Experts`` where the blocks of gate and up
    have offsets, and behind it where those of down have. Of each token, with ``p`` the softmax of
    its router logits, the outcome is the sum over the ``active`` largest of ``p`` (the lower index
    of equal ones) of ``p * down(silu(gate x) * up x)``, ``p`` divided by the sum of those largest
    where ``normalized``.

    Inputs, at the same places whether there are offsets or not:

        x                                           float[..., K]
        router                                      float[..., experts], logits
        gate_integers, gate_scales, gate_offsets    a matrix of [experts * N, K] in blocks
        up_integers, up_scales, up_offsets          the same
        down_integers, down_scales, down_offsets    a matrix of [experts * K, N] in blocks

    With clamped experts it is ``ClampedSiluExperts``, named alike: the products have biases, and
    what becomes of those with gate and up is ``g * sigmoid(1.702 g) * (u + 1)``, ``g`` no more than
    7 and ``u`` from -7 to 7. Three more inputs are

        gate_bias, up_bias                          float[experts * N]
        down_bias                                   float[experts * K]

    and one more, behind places for those three, is there where weights are sigmoids:

        choice_bias                                 float[experts]

    ``p`` is then the sigmoid of each logit, experts are chosen by the largest ``p + choice_bias``,
    and to the sum that ``p`` is divided by, 1e-6 is added.

    Attributes are ``experts``, ``active``, ``normalized`` (0 or 1), ``N``, ``K``, ``bits`` and
    ``block_size`` of gate and up, ``down_bits`` and ``down_block_size``. The output is like ``x``.

    Args:
        opset: Version of ONNX's own operators.
        offsets: Whether the blocks of gate and up have offsets.
        down_offsets: Whether those of down have.
        clamped: Whether the experts are clamped.
        sigmoid: Whether weights are sigmoids.
    """
    x, router = ir.Value(name="x"), ir.Value(name="router")
    gate, up, down = (
        [ir.Value(name=f"{name}_{part}") for part in ("integers", "scales", "offsets")]
        for name in ("gate", "up", "down")
    )
    places = _biases(clamped=clamped or sigmoid)
    biases = places if clamped else {}
    choice = ir.Value(name="choice_bias") if sigmoid else None
    ours, theirs = ("bits", "block_size"), ("down_bits", "down_block_size")
    first, last = (3 if offsets else 2), (3 if down_offsets else 2)
    body = _Body(opset, x, router, choice)
    outcome = body.outcome(
        _Matrix("N", gate[:first], ours, biases.get("gate")),
        _Matrix("N", up[:first], ours, biases.get("up")),
        _Matrix("K", down[:last], theirs, biases.get("down")),
    )
    kind = "ClampedSilu" if clamped else "GatedSilu"
    name = f"{kind}{'Block' if offsets else ''}Experts{'Block' if down_offsets else ''}"
    weights = [*gate, *up, *down, *places.values(), *([choice] if choice else [])]
    return body.function(name, weights, outcome, (*_ROUTING, *_SIZES, *_BLOCKS))


def dense_experts(opset: int, *, clamped: bool = False, sigmoid: bool = False) -> ir.Function:
    """Return ``GatedSiluDenseExperts``: the same with weights that are numbers.

    Its inputs are ``x``, ``router``, ``gate``, ``up`` and ``down``, the biases of
    ``ClampedSiluDenseExperts``, and ``choice_bias`` where weights are sigmoids.
    """
    x, router = ir.Value(name="x"), ir.Value(name="router")
    gate, up, down = (ir.Value(name=name) for name in ("gate", "up", "down"))
    choice = ir.Value(name="choice_bias") if sigmoid else None
    body = _Body(opset, x, router, choice)
    biases = _biases(clamped=clamped)
    outcome = body.outcome(
        _Matrix("N", [gate], bias=biases.get("gate")),
        _Matrix("N", [up], bias=biases.get("up")),
        _Matrix("K", [down], bias=biases.get("down")),
    )
    name = "ClampedSiluDenseExperts" if clamped else "GatedSiluDenseExperts"
    weights = [gate, up, down, *biases.values(), *([choice] if choice else [])]
    return body.function(name, weights, outcome, (*_ROUTING, *_SIZES))


def _biases(*, clamped: bool) -> dict[str, ir.Value]:
    names = ("gate", "up", "down") if clamped else ()
    return {name: ir.Value(name=f"{name}_bias") for name in names}


class _Body:
    """A function's body, under construction: a loop over the experts that any token chose."""

    def __init__(
        self, opset: int, x: ir.Value, router: ir.Value, choice_bias: ir.Value | None
    ) -> None:
        self._opset = opset
        self._x, self._router, self._choice_bias = x, router, choice_bias
        self._tape = Tape()

    def outcome(self, gate: _Matrix, up: _Matrix, down: _Matrix) -> ir.Value:
        """Emit everything."""
        op = self._tape.op
        flat = op("Reshape", [self._x, self._sizes("K")])
        logits = op("Reshape", [self._router, self._sizes("experts")])
        # [T, active]
        shares, chosen = self._chosen(logits)
        ids, *_ = self._tape.op_multi_out(
            "Unique", [op("Reshape", [chosen, _ints(self._tape, -1)])], {"sorted": 1}, num_outputs=1
        )
        trips = op("Squeeze", [op("Shape", [ids])])
        zeros = op("ConstantOfShape", [op("Shape", [flat])])
        loop = self._loop(flat, shares, chosen, ids, (gate, up, down))
        summed = op("Loop", [trips, None, zeros], {"body": loop})
        return op("Reshape", [summed, op("Shape", [self._x])])

    def function(
        self, name: str, weights: Sequence[ir.Value], outcome: ir.Value, attributes: Sequence[str]
    ) -> ir.Function:
        """Return the function with this body."""
        graph = ir.Graph(
            [self._x, self._router, *weights],
            [outcome],
            nodes=self._tape.nodes,
            opset_imports={"": self._opset, _MS: 1},
        )
        given = [ir.Attr(each, ir.AttributeType.INT, None) for each in attributes]
        return ir.Function(DOMAIN, name, graph=graph, attributes=given)

    def _sizes(self, width: str) -> ir.Value:
        last = _attribute(self._tape, width)
        return self._tape.op("Concat", [_ints(self._tape, -1), last], {"axis": 0})

    def _chosen(self, logits: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the weight of each expert that a token chose, and which ones these are."""
        op = self._tape.op
        if self._choice_bias is None:
            shares, chosen = self._largest(op("Softmax", [logits], {"axis": -1}))
            total = op("ReduceSum", [shares, _ints(self._tape, -1)], {"keepdims": 1})
        else:
            p = op("Sigmoid", [logits])
            _, chosen = self._largest(op("Add", [p, self._choice_bias]))
            shares = op("GatherElements", [p, chosen], {"axis": -1})
            total = op("ReduceSum", [shares, _ints(self._tape, -1)], {"keepdims": 1})
            total = op("Add", [total, op("Constant", [], {"value_float": LEAST_SUM})])
        normalized = op("Cast", [_attribute(self._tape, "normalized")], {"to": ir.DataType.BOOL})
        one = op("Constant", [], {"value_float": 1.0})
        return op("Div", [shares, op("Where", [normalized, total, one])]), chosen

    def _largest(self, p: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return each token's largest, and where they are: of equal ones, at the lower index."""
        values, places = self._tape.op_multi_out(
            "TopK", [p, _attribute(self._tape, "active")], {"axis": -1}, num_outputs=2
        )
        return values, places

    def _loop(
        self,
        x: ir.Value,
        shares: ir.Value,
        chosen: ir.Value,
        ids: ir.Value,
        matrices: tuple[_Matrix, _Matrix, _Matrix],
    ) -> ir.Graph:
        """Return what is done for each expert: its tokens' outcome is added to what there is."""
        tape = Tape()
        trip = ir.Value(name="trip", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
        go_on = ir.Value(name="go_on", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
        summed = ir.Value(name="summed", type=ir.TensorType(ir.DataType.FLOAT))
        expert = tape.op("Gather", [ids, trip])
        # [n] tokens, and the place of this expert among those that each chose.
        places = tape.op("NonZero", [tape.op("Equal", [chosen, expert])])
        tokens = tape.op("Gather", [places, _int(tape, 0)])
        share = tape.op("GatherND", [shares, tape.op("Transpose", [places])])
        own = tape.op("Gather", [x, tokens])
        gate, up, down = matrices
        gated, factor = (self._product(tape, own, matrix, expert) for matrix in (gate, up))
        if gate.bias is None:
            inner = gated_pair(tape, gated, factor, "GatedSilu")
        else:
            inner = _clamped_pair(tape, gated, factor)
        outcome = self._product(tape, inner, down, expert)
        weighted = tape.op("Mul", [outcome, tape.op("Unsqueeze", [share, _ints(tape, 1)])])
        rows = tape.op("Unsqueeze", [tokens, _ints(tape, 1)])
        following = tape.op("ScatterND", [summed, rows, weighted], {"reduction": "add"})
        still = tape.op("Identity", [go_on])
        # By themselves they would be named as those around them are.
        for i, value in enumerate(value for node in tape.nodes for value in node.outputs):
            value.name = f"expert.{i}"
        return ir.Graph(
            [trip, go_on, summed],
            [still, following],
            nodes=tape.nodes,
            opset_imports={"": self._opset, _MS: 1},
            name="expert",
        )

    @staticmethod
    def _product(tape: Tape, x: ir.Value, matrix: _Matrix, expert: ir.Value) -> ir.Value:
        """Multiply by the rows of a matrix that belong to one expert."""
        count = _attribute(tape, matrix.outputs)
        start = tape.op("Mul", [expert, count])
        end = tape.op("Add", [start, count])
        if matrix.blocks is None:
            rows = tape.op("Slice", [matrix.parts[0], start, end, _ints(tape, 0)])
        else:
            scalars = [tape.op("Squeeze", [bound]) for bound in (start, end)]
            numbers = tape.op("Range", [*scalars, _int(tape, 1)])
            rows = _dequantized(tape, matrix, matrix.blocks, numbers)
        product = tape.op("FusedMatMul", [x, rows], {"transB": 1}, domain=_MS)
        if matrix.bias is None:
            return product
        bias = tape.op("Slice", [matrix.bias, start, end, _ints(tape, 0)])
        return tape.op("Add", [product, bias])


def _clamped_pair(tape: Tape, gate: ir.Value, up: ir.Value) -> ir.Value:
    """Return what becomes of a clamped expert's two projections."""
    limit, least, one = (
        tape.op("Constant", [], {"value_float": value}) for value in (7.0, -7.0, 1.0)
    )
    # x * sigmoid(alpha * x)
    own = tape.op("Min", [gate, limit])
    active = tape.op("QuickGelu", [own], {"alpha": 1.702}, domain=_MS)
    return tape.op("Mul", [active, tape.op("Add", [tape.op("Clip", [up, least, limit]), one])])


def _dequantized(tape: Tape, matrix: _Matrix, blocks: tuple[str, str], rows: ir.Value) -> ir.Value:
    """Return what some rows stand for, ``float[n, width]``.

    ``MatMulNBits`` would do it ten times as slowly: it works with weights that are constant.
    """
    integers, scales, *offsets = matrix.parts
    last = _ints(tape, -1)
    bits, size = (
        ir.RefAttr(own, name, ir.AttributeType.INT)
        for own, name in zip(("bits", "block_size"), blocks, strict=True)
    )
    weights = tape.op(
        "GatherBlockQuantized",
        [integers, rows, tape.op("Unsqueeze", [scales, last])],
        {"bits": bits, "block_size": size, "gather_axis": 0, "quantize_axis": 2},
        domain=_MS,
    )
    for values in offsets:
        shifts = tape.op("Unsqueeze", [tape.op("Gather", [values, rows]), last])
        weights = tape.op("Add", [weights, shifts])
    return tape.op("Reshape", [weights, _ints(tape, 0, -1)])


def _attribute(tape: Tape, name: str) -> ir.Value:
    """Return an attribute of the function as a list of one."""
    value = ir.RefAttr("value_int", name, ir.AttributeType.INT)
    return tape.op("Unsqueeze", [tape.op("Constant", [], {"value_int": value}), _ints(tape, 0)])


def _ints(tape: Tape, *values: int) -> ir.Value:
    return tape.op("Constant", [], {"value_ints": list(values)})


def _int(tape: Tape, value: int) -> ir.Value:
    return tape.op("Constant", [], {"value": ir.tensor(np.asarray(value, np.int64))})
