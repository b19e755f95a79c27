"""What of an export is alike for all models that read whole texts: graph, weights, tokenizer."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from rbee_export.calibration import calibration_texts
from rbee_export.checkpoint import DecoderConfig
from rbee_export.checkpoint.embedder_dir import EmbedderCheckpoint
from rbee_export.checkpoint.encoder_config import EncoderConfig
from rbee_export.embedder_evaluation import embedder_graph
from rbee_export.errors import ExportError
from rbee_export.export import GRAPH, TOKENIZER, WEIGHTS
from rbee_export.fidelity import Progress
from rbee_export.options import Options
from rbee_export.staging import file_entry
from rbee_export.weights import Weights, summed_up
from rbee_export.weights_file import WeightsFile
from rbee_runtime.artifact import FileEntry, Precision, TextShapes, WeightGroup


def compile_texts(
    checkpoint: EmbedderCheckpoint, staging: Path, precision: Precision, progress: Progress
) -> tuple[tuple[FileEntry, ...], tuple[WeightGroup, ...]]:
    """Write everything of an artifact but its manifest into a directory.

    Args:
        checkpoint: What to compile.
        staging: The directory.
        precision: How weights are to be held.
        progress: Called after each layer.

    Returns:
        The files, and what became of the weights.

    Raises:
        CheckpointError: The checkpoint is damaged.
        UnsupportedModel: It holds something this exporter does not know.
    """
    config = checkpoint.config

    def layer(done: int) -> None:
        progress("layers", done, config.layers)

    tokenizer = checkpoint.tokenizer()
    halves = precision == "fp16"
    calibration = calibration_texts(tokenizer, config) if precision == "int4" else []
    weights = Weights(checkpoint, precision, "fp16" if halves else "fp32")
    with WeightsFile(staging / WEIGHTS) as file:
        dtype = ir.DataType.FLOAT16 if halves else ir.DataType.FLOAT
        model = embedder_graph(checkpoint, weights, file, dtype, texts=calibration, layer=layer)
        ir.save(model, staging / GRAPH)
    (staging / TOKENIZER).write_text(tokenizer, encoding="utf-8")
    files = (
        file_entry("graph", staging / GRAPH),
        *file.entries,
        file_entry("tokenizer", staging / TOKENIZER),
    )
    return files, summed_up(weights.report)


def text_shapes(c: EncoderConfig | DecoderConfig) -> TextShapes:
    """Return a model's dimensions."""
    decoder = c if isinstance(c, DecoderConfig) else None
    return TextShapes(
        layers=c.layers,
        hidden=c.hidden,
        intermediate=c.intermediate,
        heads=c.heads,
        vocab=c.vocab,
        context_length=c.context_length,
        kv_heads=decoder.kv_heads if decoder else None,
        head_dim=decoder.head_dim if decoder else None,
    )


def text_precision(checkpoint: EmbedderCheckpoint, options: Options, kind: str) -> Precision:
    """Return the precision for this checkpoint: by default ``int8``, and on CUDA ``fp16``.

    Args:
        checkpoint: The checkpoint.
        options: What is asked for.
        kind: What models of its kind are called.

    Raises:
        ExportError: No artifact of such a model has it, or the target.
    """
    if options.tensorrt is not None:
        raise ExportError(
            f"{checkpoint.name}: {kind} run on ONNX Runtime; use --target cpu or cuda"
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
            f"{checkpoint.name}: {kind} are not exported at bf16; use --precision fp16"
        )
    if options.target == "cuda" and options.precision != "fp16":
        raise ExportError(f"{checkpoint.name}: {kind} run on CUDA at fp16; leave --precision out")
    return options.precision
