"""What artifacts make of texts, beside what the weights that they were made of do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbee_export import open_embedder
from rbee_export.embedder_evaluation import reference_embeddings
from rbee_export.embedding_fidelity import artifact_embeddings
from rbee_runtime.artifact import EmbedderArtifact

Vectors = NDArray[np.float32]
Texts = Sequence[Sequence[int]]

_HELD = {
    "fp16": "fp16",
    "int8": "8-bit, blocks of 32, rounded",
    "int4": "4-bit, blocks of 32, calibrated",
}


def embed(artifact: Path, texts: Texts) -> Vectors:
    """Return the vectors of texts, ``float32[N, dim]``."""
    return artifact_embeddings(EmbedderArtifact.open(artifact), texts)


def of_length_one(vectors: Vectors) -> Vectors:
    """Divide vectors by their lengths."""
    normalized: Vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return normalized


def assert_near_its_weights(
    checkpoint: Path, artifact: Path, texts: Texts, *, precision: str, most: float
) -> None:
    """Check how far the worst cosine falls short of one, and how queries are held."""
    theirs = reference_embeddings(open_embedder(checkpoint), texts)
    cosines = (of_length_one(embed(artifact, texts)) * theirs).sum(-1)
    assert 1 - cosines.min() < most
    held = {g.held for g in EmbedderArtifact.open(artifact).manifest.weights if g.name == "q"}
    assert held == {_HELD[precision]}
