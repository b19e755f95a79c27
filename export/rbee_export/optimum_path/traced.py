"""What the tracing process found out about a model."""

from __future__ import annotations

from dataclasses import dataclass

GRAPH, REFERENCE = "model.onnx", "reference.npz"
"""Files the process leaves in its output directory."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A model as its configuration describes it.

    Attributes:
        family: Its ``model_type``.
        layers: Decoder blocks.
        hidden: Width of the residual stream.
        intermediate: Width inside the MLP.
        heads: Query heads.
        vocab: Rows of the embedding.
        context_length: Positions for which the graph is right.
        notes: What the user should know, a sentence each.
    """

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocab: int
    context_length: int
    notes: tuple[str, ...]
