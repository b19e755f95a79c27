"""Graphs of models that embed texts, and what their checkpoints' own weights make of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from rbee_export import decoder, encoder
from rbee_export.checkpoint.embedder_dir import EmbedderCheckpoint
from rbee_export.checkpoint.encoder_dir import EncoderCheckpoint
from rbee_export.dialect import CalibratedDialect
from rbee_export.dialect.calibrated_encoder import CalibratedEncoder
from rbee_export.dialect.encoder_reference import EncoderReference
from rbee_export.dialect.packed import PackedDialect
from rbee_export.dialect.packed_decoder import PackedDecoder
from rbee_export.dialect.packed_reference import PackedReference
from rbee_export.dialect.reference import Floats
from rbee_export.options import EXPORTER
from rbee_export.weights import Weights
from rbee_export.weights_file import WeightsFile

Texts = Sequence[Sequence[int]]
"""Tokens of each text."""


def embedder_graph(
    checkpoint: EmbedderCheckpoint,
    weights: Weights,
    file: WeightsFile,
    dtype: ir.DataType,
    *,
    texts: Texts,
    layer: Callable[[int], None],
) -> ir.Model:
    """Return a checkpoint's graph, its matrices rounded to what they make of texts, if any.

    Args:
        checkpoint: The checkpoint.
        weights: Its weights, at the graph's precision.
        file: Where weights go.
        dtype: What the graph computes in.
        texts: What to round for, or none.
        layer: Called after each layer.
    """
    pooling, own = checkpoint.modules.pooling, Weights(checkpoint, "fp32")
    # Weights that lead beyond what float32 can hold are rounded by themselves.
    beyond: Literal["ignore", "warn"] = "ignore" if texts else "warn"
    with np.errstate(over=beyond, invalid=beyond, divide=beyond):
        if isinstance(checkpoint, EncoderCheckpoint):
            graph = PackedDialect(checkpoint.config, weights, file, dtype)
            if texts:
                read = EncoderReference(checkpoint.config, own, texts)
                calibrated = CalibratedEncoder(graph, read, weights)
                encoder.build(calibrated, checkpoint.config, pooling, layer)
            else:
                encoder.build(graph, checkpoint.config, pooling, layer)
            return graph.model(EXPORTER)
        packed = PackedDecoder(checkpoint.config, pooling, weights, file, dtype)
        if texts:
            text = PackedReference(checkpoint.config, pooling, own, texts)
            decoder.build(CalibratedDialect(packed, text, weights), checkpoint.config, layer)
        else:
            decoder.build(packed, checkpoint.config, layer)
        return packed.model(EXPORTER)


def reference_embeddings(
    checkpoint: EmbedderCheckpoint,
    texts: Texts,
    layer: Callable[[int], None] = lambda _done: None,
    *,
    types: Texts | None = None,
) -> Floats:
    """Return what a checkpoint's own weights make of N texts, worked out in float32.

    Args:
        checkpoint: The weights.
        texts: What to embed.
        layer: Called after each layer.
        types: Types of the tokens, of a model that reads pairs.

    Returns:
        ``float32[N, dim]``.
    """
    pooling, weights = checkpoint.modules.pooling, Weights(checkpoint, "fp32")
    if isinstance(checkpoint, EncoderCheckpoint):
        ops = EncoderReference(checkpoint.config, weights, texts, types)
        encoder.build(ops, checkpoint.config, pooling, layer)
        return ops.embeddings
    packed = PackedReference(checkpoint.config, pooling, weights, texts)
    decoder.build(packed, checkpoint.config, layer)
    return packed.output
