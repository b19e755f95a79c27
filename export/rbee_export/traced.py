"""A model that the decoder definition does not cover in, an artifact out, through optimum."""

from __future__ import annotations

from pathlib import Path

from rbee_export.checkpoint.json_file import read_json
from rbee_export.checkpoint.tokenizer_directory import read_directory_tokenizer
from rbee_export.errors import ExportError
from rbee_export.export import TOKENIZER, reference, write_manifest
from rbee_export.fidelity import Progress
from rbee_export.optimum_path import export_with_optimum
from rbee_export.options import EXPORTER, Options
from rbee_export.source import ModelSource
from rbee_export.staging import file_entry, staged_directory
from rbee_runtime.artifact import Manifest, Source


def export_traced(
    source: ModelSource, target: Path, options: Options, content: str, progress: Progress
) -> tuple[Manifest, tuple[str, ...]]:
    """Write the artifact of a model directory to ``target``, whole or not at all.

    Args:
        source: A directory in transformers' format.
        target: The directory to write; an artifact already there is replaced.
        options: What to make of it; only ``model_ref`` has a say.
        content: Digest over the directory's files.
        progress: Called at the start of each stage.

    Returns:
        The manifest, and what the user should know, a sentence each.

    Raises:
        ExportError: The options ask for what this way of exporting cannot do, or it failed.
        OSError: The disk is full or not writable; nothing is left behind.
    """
    directory = source.path
    if options.target != "cpu" or options.precision not in ("auto", "fp32"):
        raise ExportError(
            f"{directory}: optimum exports for ONNX Runtime in fp32 only; "
            "leave --precision and --target out"
        )
    # First of all: without a tokenizer, a minute's work would be for nothing.
    settings = read_json(directory / "config.json")
    tokenizer = read_directory_tokenizer(directory, settings)
    with staged_directory(target) as staging:
        compiled = export_with_optimum(directory, staging, lambda stage: progress(stage, 0, 0))
        (staging / TOKENIZER).write_text(tokenizer.tokenizer_json, encoding="utf-8")
        manifest = Manifest(
            exporter=EXPORTER,
            source=Source(format="safetensors", name=source.name, sha256=content),
            model_ref=options.model_ref or reference(source.name),
            family=compiled.family,
            shapes=compiled.shapes,
            precision="fp32",
            dialect="optimum",
            cache=compiled.cache,
            files=(*compiled.files, file_entry("tokenizer", staging / TOKENIZER)),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_ids=tokenizer.eos_token_ids,
            chat_template=tokenizer.chat_template,
        )
        write_manifest(manifest, staging)
    return manifest, compiled.notes
