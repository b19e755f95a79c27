"""A checkpoint of a reranker in, its artifact out."""

from __future__ import annotations

from pathlib import Path

from rbee_export.checkpoint.reranker_dir import RerankerCheckpoint
from rbee_export.embedding_fidelity import Sentences
from rbee_export.export import reference, write_manifest
from rbee_export.fidelity import Progress, untold
from rbee_export.options import EXPORTER, Options
from rbee_export.ranking_fidelity import measure_scores
from rbee_export.staging import staged_directory
from rbee_export.text_compiler import compile_texts, text_precision, text_shapes
from rbee_runtime.artifact import RerankerArtifact, RerankerManifest, Source


def export_reranker(
    checkpoint: RerankerCheckpoint,
    target: Path,
    options: Options,
    content: str,
    progress: Progress = untold,
    *,
    texts: Sentences | None = None,
) -> RerankerManifest:
    """Write the artifact of ``checkpoint`` to the directory ``target``, whole or not at all.

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
    config = checkpoint.config
    precision = text_precision(checkpoint, options, "rerankers")
    with staged_directory(target) as staging:
        files, weights = compile_texts(checkpoint, staging, precision, progress)
        manifest = RerankerManifest(
            exporter=EXPORTER,
            source=Source(format="safetensors", name=checkpoint.name, sha256=content),
            model_ref=options.model_ref or reference(checkpoint.name),
            family=config.family,
            shapes=text_shapes(config),
            precision=precision,
            scoring=checkpoint.scoring,
            files=files,
            weights=weights,
        )
        if texts is not None:
            artifact = RerankerArtifact(staging, manifest)
            fidelity = measure_scores(artifact, checkpoint, texts, progress)
            manifest = manifest.model_copy(update={"fidelity": fidelity})
        write_manifest(manifest, staging)
    return manifest
