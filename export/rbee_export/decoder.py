"""The model definition: a pre-norm decoder-only transformer, as the Llama papers draw it.

Weights go by these names, each a matrix of ``[outputs, inputs]`` or a vector:

    embedding                         [vocab, hidden]
    layers.{i}.attention_norm         [hidden]
    layers.{i}.q, .k, .v              [heads * head_dim, hidden], k and v with kv_heads
    layers.{i}.o                      [hidden, heads * head_dim]
    layers.{i}.mlp_norm               [hidden]
    layers.{i}.gate, .up              [intermediate, hidden]
    layers.{i}.down                   [hidden, intermediate]
    final_norm                        [hidden]
    lm_head                           [vocab, hidden], absent when tied to the embedding
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import onnx_ir as ir

from rbee_export.checkpoint import DecoderConfig


class Dialect(Protocol):
    """The operations a decoder is made of, each emitting nodes into a graph."""

    def embedding(self, name: str, rows: int) -> ir.Value:
        """Look the graph's input tokens up in a table of ``rows`` vectors."""
        ...

    def rms_norm(self, x: ir.Value, name: str) -> ir.Value:
        """Scale each vector to unit root mean square, then by a weight (Zhang & Sennrich 2019)."""
        ...

    def add_rms_norm(self, residual: ir.Value, x: ir.Value, name: str) -> tuple[ir.Value, ir.Value]:
        """Return ``residual + x`` and its RMS norm."""
        ...

    def linear(self, x: ir.Value, columns: int, rows: Mapping[str, int]) -> ir.Value:
        """Multiply by matrices of ``[rows[name], columns]``; their results stand side by side."""
        ...

    def attention(self, qkv: ir.Value, layer: int) -> ir.Value:
        """Rotate queries and keys, append keys and values to the layer's cache, attend causally."""
        ...

    def swiglu(self, gate_up: ir.Value) -> ir.Value:
        """Return ``silu(gate) * up`` of two halves side by side (Shazeer 2020)."""
        ...

    def last_position(self, x: ir.Value) -> ir.Value:
        """Keep the last position of every row."""
        ...

    def logits(self, x: ir.Value, name: str, rows: int) -> None:
        """Multiply by a matrix of ``rows`` outputs and make the result the graph's output."""
        ...


def build(ops: Dialect, c: DecoderConfig, progress: Callable[[int], None] | None = None) -> None:
    """Emit the decoder described by ``c``, reporting each layer done to ``progress``."""
    q_width, kv_width = c.heads * c.head_dim, c.kv_heads * c.head_dim
    residual = ops.embedding("embedding", c.vocab)
    x = ops.rms_norm(residual, "layers.0.attention_norm")
    for i in range(c.layers):
        at = f"layers.{i}."
        qkv = ops.linear(x, c.hidden, {at + "q": q_width, at + "k": kv_width, at + "v": kv_width})
        attended = ops.attention(qkv, i)
        x = ops.linear(attended, q_width, {at + "o": c.hidden})
        residual, x = ops.add_rms_norm(residual, x, at + "mlp_norm")

        gate_up = ops.linear(x, c.hidden, {at + "gate": c.intermediate, at + "up": c.intermediate})
        x = ops.linear(ops.swiglu(gate_up), c.intermediate, {at + "down": c.hidden})
        following = f"layers.{i + 1}.attention_norm" if i + 1 < c.layers else "final_norm"
        residual, x = ops.add_rms_norm(residual, x, following)
        if progress is not None:
            progress(i + 1)
    x = ops.last_position(x)
    ops.logits(x, "embedding" if c.tied_embedding else "lm_head", c.vocab)
