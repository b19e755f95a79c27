"""A checkpoint of a model that embeds texts in, its artifact out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import onnx_ir as ir

from rbee_export.calibration import calibration_texts
from rbee_export.checkpoint import DecoderConfig
from rbee_export.checkpoint.embedder_dir import EmbedderCheckpoint
from rbee_export.checkpoint.encoder_config import EncoderConfig
from rbee_export.checkpoint.matryoshka import read_matryoshka
from rbee_export.decoder_limits import check_decoder
from rbee_export.embedder_evaluation import embedder_graph
from rbee_export.embedding_fidelity import Sentences, measure_embeddings
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
    EmbedderShapes,
    Embedding,
    Precision,
    Source,
)


def _ignore(_stage: str, _done: int, _total: int) -> None:
    pass


def export_embedder(
    checkpoint: EmbedderCheckpoint,
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

    def layer(done: int) -> None:
        progress("layers", done, config.layers)

    matryoshka = _matryoshka(checkpoint)
    if isinstance(config, DecoderConfig):
        check_decoder(checkpoint.name, config)
    precision = embedder_precision(checkpoint, options)
    tokenizer = checkpoint.tokenizer()
    halves = precision == "fp16"
    calibration = calibration_texts(tokenizer, config) if precision == "int4" else []
    weights = Weights(checkpoint, precision, "fp16" if halves else "fp32")
    with staged_directory(target) as staging:
        with WeightsFile(staging / WEIGHTS) as file:
            dtype = ir.DataType.FLOAT16 if halves else ir.DataType.FLOAT
            model = embedder_graph(checkpoint, weights, file, dtype, texts=calibration, layer=layer)
            ir.save(model, staging / GRAPH)
        (staging / TOKENIZER).write_text(tokenizer, encoding="utf-8")
        manifest = EmbedderManifest(
            exporter=EXPORTER,
            source=Source(format="safetensors", name=checkpoint.name, sha256=content),
            model_ref=options.model_ref or reference(checkpoint.name),
            family=config.family,
            shapes=_shapes(config),
            precision=precision,
            embedding=Embedding(
                dim=modules.pooling.width(config.hidden),
                pooling=modules.pooling.kind,
                normalized=modules.pooling.normalized,
                prompt=modules.prompt,
                prompts=modules.prompts,
                matryoshka=matryoshka,
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


def _matryoshka(checkpoint: EmbedderCheckpoint) -> tuple[int, ...] | Literal["any"]:
    """Return the lengths that vectors may be cut to, which makes them of length 1 again."""
    modules = checkpoint.modules
    settings = modules.transformer / "config.json"
    width = modules.pooling.width(checkpoint.config.hidden)
    lengths = read_matryoshka(settings, checkpoint.settings, width)
    return lengths if modules.pooling.normalized else ()


def _shapes(c: EncoderConfig | DecoderConfig) -> EmbedderShapes:
    decoder = c if isinstance(c, DecoderConfig) else None
    return EmbedderShapes(
        layers=c.layers,
        hidden=c.hidden,
        intermediate=c.intermediate,
        heads=c.heads,
        vocab=c.vocab,
        context_length=c.context_length,
        kv_heads=decoder.kv_heads if decoder else None,
        head_dim=decoder.head_dim if decoder else None,
    )


def embedder_precision(checkpoint: EmbedderCheckpoint, options: Options) -> Precision:
    """Return the precision for this checkpoint: by default ``int8``, and on CUDA ``fp16``.

    Raises:
        ExportError: No artifact of an encoder has it, or the target.
    """
    if options.tensorrt is not None:
        raise ExportError(
            f"{checkpoint.name}: embedding models run on ONNX Runtime; use --target cpu or cuda"
        )
    config = checkpoint.config
    overflows = isinstance(config, DecoderConfig) and config.overflows_fp16
    if overflows and (options.precision == "fp16" or options.target == "cuda"):
        raise ExportError(
            f"{checkpoint.name}: activations of {config.family} overflow fp16; use --target cpu "
            "and int8, int4 or fp32"
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
