"""``rbee-export verify``: whether an artifact still is what was exported."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

from rbee_export.checkpoint import Checkpoint, digest, open_checkpoint
from rbee_export.checkpoint.embedder_dir import EmbedderCheckpoint, open_embedder
from rbee_export.checkpoint.reranker_dir import open_reranker
from rbee_export.embedding_fidelity import Sentences, artifact_embeddings, measure_embeddings
from rbee_export.errors import ExportError
from rbee_export.fidelity import Text, measure, perplexity
from rbee_export.ranking_fidelity import Rankings, artifact_scores, measure_scores
from rbee_export.report import fidelity_table
from rbee_export.source import resolve
from rbee_export.stages import Stages
from rbee_runtime.artifact import (
    Artifact,
    EmbedderArtifact,
    EmbeddingFidelity,
    Fidelity,
    RankingFidelity,
    RerankerArtifact,
    open_artifact,
)

if TYPE_CHECKING:
    from rbee_runtime.artifact import AnyArtifact

OpenedT = TypeVar("OpenedT", bound="Checkpoint | EmbedderCheckpoint")

_SAME = 0.01
"""Relative difference up to which two perplexities of one artifact are the same: processors round
differently.
"""


def verify(arguments: argparse.Namespace, console: Console) -> None:
    """Check an artifact's files, and how far it is from its checkpoint.

    Raises:
        ExportError: It is not what it was when it was exported.
        ArtifactError: A file is missing or damaged.
    """
    artifact = open_artifact(arguments.artifact)
    with Stages(console) as stages:
        artifact.verify(lambda done, total: stages.show("checksums", done, total))
    console.print(f"{artifact.path}: every file is as it was written")
    fidelity: Fidelity | EmbeddingFidelity | RankingFidelity
    if isinstance(artifact, EmbedderArtifact):
        fidelity = _verified_embeddings(artifact, arguments, console)
    elif isinstance(artifact, RerankerArtifact):
        fidelity = _verified_scores(artifact, arguments, console)
    else:
        fidelity = _verified_predictions(artifact, arguments, console)
    console.print(fidelity_table(fidelity))


def _verified_predictions(
    artifact: Artifact, arguments: argparse.Namespace, console: Console
) -> Fidelity:
    """Return how far a language model is from its checkpoint, measured anew as far as it can be.

    Raises:
        ExportError: It is not what it was when it was exported.
    """
    recorded = artifact.manifest.fidelity
    text = text_of(arguments.calibration)
    checkpoint = _its_checkpoint(open_checkpoint, artifact, arguments, console)
    if checkpoint is not None:
        with Stages(console) as stages:
            return measure(artifact, checkpoint, text, stages.show)
    if recorded is None:
        raise _never_measured(artifact)
    if recorded.text != text.name:
        raise ExportError(
            f"{artifact.path}: its fidelity was measured on {recorded.text}; "
            "give that file with --calibration, or the checkpoint with --model"
        )
    again = perplexity(artifact, text)
    if not abs(again - recorded.perplexity) <= _SAME * recorded.perplexity:
        raise ExportError(
            f"{artifact.path}: perplexity is {again:.2f} here and was {recorded.perplexity:.2f} "
            "when it was exported; export the model again"
        )
    return recorded


def _verified_embeddings(
    artifact: EmbedderArtifact, arguments: argparse.Namespace, console: Console
) -> EmbeddingFidelity:
    """Return how far an embedding model is from its checkpoint; without that, whether it runs.

    Raises:
        ExportError: It does not, or it is not what the checkpoint makes.
    """
    texts = sentences(arguments.calibration)
    checkpoint = _its_checkpoint(open_embedder, artifact, arguments, console)
    if checkpoint is not None:
        with Stages(console) as stages:
            return measure_embeddings(artifact, checkpoint, texts, stages.show)
    artifact_embeddings(artifact, texts.ids(artifact))
    if artifact.manifest.fidelity is None:
        raise _never_measured(artifact)
    return artifact.manifest.fidelity


def _verified_scores(
    artifact: RerankerArtifact, arguments: argparse.Namespace, console: Console
) -> RankingFidelity:
    """Return how far a reranker is from its checkpoint; without that, whether it runs.

    Raises:
        ExportError: It does not, or it is not what the checkpoint makes.
    """
    texts = sentences(arguments.calibration)
    checkpoint = _its_checkpoint(open_reranker, artifact, arguments, console)
    if checkpoint is not None:
        with Stages(console) as stages:
            return measure_scores(artifact, checkpoint, texts, stages.show)
    artifact_scores(artifact, Rankings.of(texts, artifact))
    if artifact.manifest.fidelity is None:
        raise _never_measured(artifact)
    return artifact.manifest.fidelity


def _its_checkpoint(
    opened: Callable[[Path, str | None], OpenedT],
    artifact: AnyArtifact,
    arguments: argparse.Namespace,
    console: Console,
) -> OpenedT | None:
    """Return the checkpoint that an artifact was made from, if one is given.

    Raises:
        ExportError: It was made from another.
    """
    if arguments.source is None:
        return None
    source = resolve(arguments.source)
    checkpoint = opened(source.path, source.name)
    if digest_shown(checkpoint.files, console) != artifact.manifest.source.sha256:
        raise ExportError(
            f"{arguments.source}: is not the checkpoint that {artifact.path} was made from"
        )
    return checkpoint


def _never_measured(artifact: AnyArtifact) -> ExportError:
    return ExportError(
        f"{artifact.path}: its fidelity was never measured; give its checkpoint with --model"
    )


def text_of(file: Path | None) -> Text:
    """Return the text to predict: a file's, or the built-in one."""
    return Text.read(file) if file is not None else Text.built_in()


def sentences(file: Path | None) -> Sentences:
    """Return the texts to embed: a file's, or the built-in ones."""
    return Sentences.read(file) if file is not None else Sentences.built_in()


def digest_shown(files: Sequence[Path], console: Console) -> str:
    """Return a checkpoint's digest, showing how far it is."""
    with Stages(console) as stages:
        return digest(files, lambda n, of: stages.show("reading", n, of))
