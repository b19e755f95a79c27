"""An encoder's checkpoint in, an artifact that embeds texts out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from rbee_export.calibration import calibration_texts
from rbee_export.checkpoint.encoder_dir import EncoderCheckpoint
from rbee_export.dialect.calibrated_encoder import CalibratedEncoder
from rbee_export.dialect.encoder_reference import EncoderReference
from rbee_export.dialect.packed import PackedDialect
from rbee_export.embedding_fidelity import Sentences, measure_embeddings
from rbee_export.encoder import build
from rbee_export.errors import ExportError
from rbee_export.export import GRAPH, TOKENIZER, WEIGHTS, reference, write_manifest
from rbee_export.fidelity import Progress
from rbee_export.options import EXPORTER, Options
from rbee_export.staging import file_entry, staged_directory
from rbee_export.weights import Weights, summed_up
from rbee_export.weights_file import WeightsFile
from rbee_runtime.artifact import (
    EmbedderArtifact,
    EmbedderManifest,
    Embedding,
    EncoderShapes,
    Precision,
    Source,
)


def _ignore(_stage: str, _done: int, _total: int) -> None:
    pass


def export_embedder(
    checkpoint: EncoderCheckpoint,
    target: Path,
    options: Options,
    content: str,
    progress: Progress = _ignore,
    *,
    texts: Sentences | None = None,
) -> EmbedderManifest:
    """Write the artifact of ``checkpoint`` to the directory ``target``, whole or not at all.

    The same checkpoint and options give the same bytes, ``int4`` apart between processors: sums of
    another order tip weights that lie half-way.

    Args:
        checkpoint: What to export.
        target: The directory to write; an artifact already there is replaced.
        options: What to make of it.
        content: The checkpoint's :func:`~rbee_export.checkpoint.digest`.
        progress: Called as the export proceeds.
        texts: What to measure fidelity on; ``None`` leaves it unmeasured.

    Raises:
        CheckpointError: The checkpoint is damaged.
        UnsupportedModel: It holds something this exporter does not know.
        ExportError: ``target`` cannot be replaced, or the options do not fit the checkpoint.
        OSError: The disk is full or not writable; nothing is left behind.
    """
    config, modules = checkpoint.config, checkpoint.modules
    precision = embedder_precision(checkpoint, options)
    tokenizer = checkpoint.tokenizer()
    halves = precision == "fp16"
    calibration = calibration_texts(tokenizer, config) if precision == "int4" else []
    weights = Weights(checkpoint, precision, "fp16" if halves else "fp32")
    with staged_directory(target) as staging:
        with WeightsFile(staging / WEIGHTS) as file:
            dtype = ir.DataType.FLOAT16 if halves else ir.DataType.FLOAT
            ops = PackedDialect(config, weights, file, dtype)
            _build(ops, checkpoint, weights, calibration, progress)
            ir.save(ops.model(EXPORTER), staging / GRAPH)
        (staging / TOKENIZER).write_text(tokenizer, encoding="utf-8")
        manifest = EmbedderManifest(
            exporter=EXPORTER,
            source=Source(format="safetensors", name=checkpoint.name, sha256=content),
            model_ref=options.model_ref or reference(checkpoint.name),
            family=config.family,
            shapes=EncoderShapes(
                layers=config.layers,
                hidden=config.hidden,
                intermediate=config.intermediate,
                heads=config.heads,
                vocab=config.vocab,
                context_length=config.context_length,
            ),
            precision=precision,
            embedding=Embedding(
                dim=config.hidden,
                pooling=modules.pooling.kind,
                normalized=modules.pooling.normalized,
                prompt=modules.prompt,
            ),
            files=(
                file_entry("graph", staging / GRAPH),
                *file.entries,
                file_entry("tokenizer", staging / TOKENIZER),
            ),
            weights=summed_up(weights.report),
        )
        if texts is not None:
            artifact = EmbedderArtifact(staging, manifest)
            fidelity = measure_embeddings(artifact, checkpoint, texts, progress)
            manifest = manifest.model_copy(update={"fidelity": fidelity})
        write_manifest(manifest, staging)
    return manifest


def _build(
    graph: PackedDialect,
    checkpoint: EncoderCheckpoint,
    weights: Weights,
    texts: Sequence[Sequence[int]],
    progress: Progress,
) -> None:
    """Emit a checkpoint's graph, its matrices rounded to what they make of texts, if there are any.

    Args:
        graph: Where to.
        checkpoint: The checkpoint.
        weights: Its weights, at the graph's precision.
        texts: Tokens of each text.
        progress: Called after each layer.
    """
    config, pooling = checkpoint.config, checkpoint.modules.pooling

    def layer(done: int) -> None:
        progress("layers", done, config.layers)

    if not texts:
        build(graph, config, pooling, layer)
        return
    evaluation = EncoderReference(config, Weights(checkpoint, "fp32"), texts)
    # Weights that lead beyond what float32 can hold are rounded by themselves.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        build(CalibratedEncoder(graph, evaluation, weights), config, pooling, layer)


def embedder_precision(checkpoint: EncoderCheckpoint, options: Options) -> Precision:
    """Return the precision for this checkpoint: by default ``int8``, and on CUDA ``fp16``.

    Raises:
        ExportError: No artifact of an encoder has it, or the target.
    """
    if options.tensorrt is not None:
        raise ExportError(
            f"{checkpoint.name}: embedding models run on ONNX Runtime; use --target cpu or cuda"
        )
    if options.precision == "auto":
        return "fp16" if options.target == "cuda" else "int8"
    if options.precision == "gguf":
        raise ExportError(
            f"{checkpoint.name}: has no quantised blocks for --precision gguf to keep; "
            "use fp32 or int8"
        )
    if options.precision == "bf16":
        raise ExportError(
            f"{checkpoint.name}: embedding models are not exported at bf16; use --precision fp16"
        )
    if options.target == "cuda" and options.precision != "fp16":
        raise ExportError(
            f"{checkpoint.name}: embedding models run on CUDA at fp16; leave --precision out"
        )
    return options.precision
