"""An encoder's checkpoint in, an artifact that embeds texts out."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from rbee_export.checkpoint.encoder_dir import EncoderCheckpoint
from rbee_export.dialect.packed import PackedDialect
from rbee_export.embedding_fidelity import Sentences, measure_embeddings
from rbee_export.encoder import build
from rbee_export.errors import CheckpointError, ExportError
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

    The same checkpoint and options give the same bytes.

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
    config, pooling = checkpoint.config, checkpoint.modules.pooling
    precision = embedder_precision(checkpoint, options)
    tokenizer = checkpoint.tokenizer()
    halves = precision == "fp16"
    weights = Weights(checkpoint, precision, "fp16" if halves else "fp32")
    with staged_directory(target) as staging:
        with WeightsFile(staging / WEIGHTS) as file:
            dtype = ir.DataType.FLOAT16 if halves else ir.DataType.FLOAT
            ops = PackedDialect(config, weights, file, dtype)
            build(ops, config, pooling, lambda done: progress("layers", done, config.layers))
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
                pooling=pooling.kind,
                normalized=pooling.normalized,
                prompt=checkpoint.modules.prompt,
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


def embedder_precision(checkpoint: EncoderCheckpoint, options: Options) -> Precision:
    """Return the precision for this checkpoint: ``int8``, and on CUDA ``fp16``, unless one is named.

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
    if options.precision in ("bf16", "int4"):
        raise ExportError(
            f"{checkpoint.name}: embedding models are exported at fp32, fp16 and int8, "
            f"not at {options.precision}"
        )
    if options.target == "cuda" and options.precision != "fp16":
        raise ExportError(
            f"{checkpoint.name}: embedding models run on CUDA at fp16; leave --precision out"
        )
    return options.precision
