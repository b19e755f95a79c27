"""A checkpoint of a model that embeds texts in, its artifact out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rbee_export.checkpoint import DecoderConfig
from rbee_export.checkpoint.embedder_dir import EmbedderCheckpoint
from rbee_export.checkpoint.matryoshka import read_matryoshka
from rbee_export.decoder_limits import check_decoder
from rbee_export.embedding_fidelity import Sentences, measure_embeddings
from rbee_export.export import reference, write_manifest
from rbee_export.fidelity import Progress, untold
from rbee_export.options import EXPORTER, Options
from rbee_export.staging import staged_directory
from rbee_export.text_compiler import compile_texts, text_precision, text_shapes
from rbee_runtime.artifact import (
    EmbedderArtifact,
    EmbedderManifest,
    Embedding,
    Source,
)


def export_embedder(
    checkpoint: EmbedderCheckpoint,
    target: Path,
    options: Options,
    content: str,
    progress: Progress = untold,
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
    matryoshka = _matryoshka(checkpoint)
    if isinstance(config, DecoderConfig):
        check_decoder(checkpoint.name, config)
    precision = text_precision(checkpoint, options, "embedding models")
    with staged_directory(target) as staging:
        files, weights = compile_texts(checkpoint, staging, precision, progress)
        manifest = EmbedderManifest(
            exporter=EXPORTER,
            source=Source(format="safetensors", name=checkpoint.name, sha256=content),
            model_ref=options.model_ref or reference(checkpoint.name),
            family=config.family,
            shapes=text_shapes(config),
            precision=precision,
            embedding=Embedding(
                dim=modules.pooling.width(config.hidden),
                pooling=modules.pooling.kind,
                normalized=modules.pooling.normalized,
                prompt=modules.prompt,
                prompts=modules.prompts,
                matryoshka=matryoshka,
            ),
            files=files,
            weights=weights,
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
