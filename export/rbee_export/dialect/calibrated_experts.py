"""Experts rounded one by one to the activations that they multiply."""

from __future__ import annotations

from typing import Literal

import numpy as np

from rbee_export.blocks import BLOCK, BlockMatrix, quantize
from rbee_export.checkpoint.config import Experts
from rbee_export.dialect.activations import expert_gate
from rbee_export.dialect.reference import Floats, ReferenceDialect
from rbee_export.rounding import InputMoments
from rbee_export.weights import Weights


def round_experts(
    text: ReferenceDialect, weights: Weights, x: Floats, *, at: str, columns: int, experts: Experts
) -> Floats:
    """Round the experts of a layer, and return what they then make of a text.

    Each is rounded to the tokens that it is given, however few; by itself where there are none.
    Held at a time are the matrices of one expert in float32, and the rounded ones of all.

    Args:
        text: An evaluation of the checkpoint's own weights.
        weights: Those to round; they keep the outcome for the graph.
        x: The layer's inputs, ``float32[T, columns]``.
        at: What the names of its weights begin with.
        columns: Their width.
        experts: Its experts.
    """
    narrow = experts.intermediate
    stacks = {
        name: _Stack(weights, at + name, experts.count, *shape)
        for name, shape in {
            "expert_gate": (narrow, columns),
            "expert_up": (narrow, columns),
            "expert_down": (columns, narrow),
        }.items()
    }
    routing = text.routing(x, at, columns, experts)
    biases = text.expert_biases(at, columns, experts)
    outcome = np.zeros_like(x)
    for expert in range(experts.count):
        tokens, shares = routing.of_expert(expert)
        own = x[tokens]
        inputs = _moments(own)
        gate, up = (
            own @ stacks[name].round(expert, inputs).T for name in ("expert_gate", "expert_up")
        )
        inner = expert_gate(gate + biases.gate[expert], up + biases.up[expert], experts)
        down = stacks["expert_down"].round(expert, _moments(inner))
        outcome[tokens] += shares * (inner @ down.T + biases.down[expert])
    for stack in stacks.values():
        stack.keep()
    return outcome


def _moments(inputs: Floats) -> InputMoments | None:
    return InputMoments.of(inputs) if len(inputs) else None


class _Stack:
    """A matrix of every expert, rounded one at a time."""

    def __init__(self, weights: Weights, name: str, count: int, rows: int, columns: int) -> None:
        self._weights = weights
        self._name = name
        self._tensors = weights.experts(name, count, rows, columns)
        shape = (count * rows, columns // BLOCK)
        self._packed = np.empty((*shape, BLOCK // 2), np.uint8)
        self._scales = np.empty(shape, np.float32)
        self._rows = rows
        self._calibrated = False

    def round(self, expert: int, inputs: InputMoments | None) -> Floats:
        """Round an expert's matrix, and return what it then stands for."""
        weights = np.require(self._tensors[expert].dense(), requirements="W")
        self._weights.require_finite(self._name, weights)
        own = slice(expert * self._rows, (expert + 1) * self._rows)
        if inputs is None:
            rounded = quantize(weights, 4)
            weights = rounded.dequantize()
        else:
            rounded = inputs.round(weights, weights)
            self._calibrated = True
        self._packed[own], self._scales[own] = rounded.packed, rounded.scales
        return weights

    def keep(self) -> None:
        """Leave the stack to the weights."""
        how: Literal["calibrated", "rounded"] = "calibrated" if self._calibrated else "rounded"
        matrix = BlockMatrix(4, self._packed, self._scales, how=how)
        self._weights.keep(self._name, matrix)
