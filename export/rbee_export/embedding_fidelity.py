"""How far an artifact's embeddings are from those that its checkpoint's weights mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import onnxruntime as ort
import tokenizers
from numpy.typing import NDArray

from rbee_export.checkpoint.embedder_dir import EmbedderCheckpoint
from rbee_export.embedder_evaluation import reference_embeddings
from rbee_export.errors import ExportError
from rbee_export.fidelity import Progress, Text
from rbee_runtime.artifact import EmbedderArtifact, EmbeddingFidelity

if TYPE_CHECKING:
    from rbee_runtime.artifact import TextArtifact

Vectors = NDArray[np.float32]

TOKENS = 4096
"""Tokens of all texts that are compared, but for those of the last one."""

_PACK = 1024
"""Tokens run together: the attention of an artifact's own functions takes their square."""


@dataclass(frozen=True, slots=True)
class Sentences:
    """Texts to embed.

    Attributes:
        name: ``built-in``, or the name of the file they came from.
        texts: The texts, at least two.
    """

    name: str
    texts: tuple[str, ...]

    @classmethod
    def built_in(cls) -> Self:
        """Return those that come with the exporter: questions, answers, searches, code, passages,
        many of them twice in other words.
        """
        content = files("rbee_export").joinpath("sentences.txt").read_text(encoding="utf-8")
        return cls._lines("built-in", content)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a file with a text in each line.

        Raises:
            ExportError: It cannot be read, is not UTF-8, or has fewer than two texts.
        """
        text = Text.read(file)
        return cls._lines(text.name, text.content)

    @classmethod
    def _lines(cls, name: str, content: str) -> Self:
        texts = tuple(line for line in map(str.strip, content.splitlines()) if line)
        if len(texts) < 2:
            raise ExportError(f"{name}: fewer than two texts; give a file with one in each line")
        return cls(name, texts)

    def ids(self, artifact: EmbedderArtifact) -> list[list[int]]:
        """Return the first texts in an artifact's vocabulary, as many as are compared.

        Each comes after the model's prompt; those that the model cannot read whole are cut.

        Raises:
            ExportError: The model lacks a token of them.
        """
        manifest = artifact.manifest
        tokenizer = tokenizers.Tokenizer.from_file(str(artifact.file("tokenizer")))
        tokenizer.enable_truncation(manifest.shapes.context_length)
        found: list[list[int]] = []
        for text in self.texts:
            ids = tokenizer.encode(manifest.embedding.prompt + text).ids
            if max(ids, default=-1) >= manifest.shapes.vocab:
                raise ExportError(
                    f"{self.name}: the tokenizer knows tokens that the model does not"
                )
            if ids:
                found.append(ids)
            if sum(map(len, found)) >= TOKENS:
                break
        return found


def measure_embeddings(
    artifact: EmbedderArtifact, checkpoint: EmbedderCheckpoint, texts: Sentences, progress: Progress
) -> EmbeddingFidelity:
    """Compare what an artifact and its checkpoint make of texts, on the CPU.

    Raises:
        ExportError: The texts do not fit the model, or ONNX Runtime cannot run the graph here.
    """
    ids = texts.ids(artifact)
    config = checkpoint.config
    reference = reference_embeddings(
        checkpoint, ids, lambda done: progress("reference", done, config.layers)
    )
    return compare_embeddings(texts.name, ids, artifact_embeddings(artifact, ids), reference)


def artifact_embeddings(
    artifact: TextArtifact,
    texts: Sequence[Sequence[int]],
    types: Sequence[Sequence[int]] | None = None,
) -> Vectors:
    """Return what an artifact makes of N texts, ``float32[N, dim]``, on the CPU.

    Args:
        artifact: Of an embedding model, or of a reranker, whose scores are vectors of one number.
        texts: Tokens of each.
        types: Their types, which a reranker's graph may ask for.

    Raises:
        ExportError: ONNX Runtime cannot run the graph here, or it gives what is no number.
    """
    graph = artifact.file("graph")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    output, _ = artifact.manifest.output
    packs = _packs(texts)
    inputs = [_packed(texts[pack]) for pack in packs]
    if types is not None and artifact.manifest.token_types:
        for given, pack in zip(inputs, packs, strict=True):
            given["token_types"] = np.concatenate(types[pack]).astype(np.int32)
    try:
        session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        found = [session.run([output], given)[0] for given in inputs]
    except Exception as error:  # the library's exceptions share no narrower base
        raise ExportError(f"{graph}: cannot be run on this CPU: {error}") from error
    vectors: Vectors = np.concatenate(found)
    if not np.isfinite(vectors).all():
        raise ExportError(f"{graph}: makes of a text what is no number; export the model again")
    return vectors


def compare_embeddings(
    name: str, texts: Sequence[Sequence[int]], vectors: Vectors, reference: Vectors
) -> EmbeddingFidelity:
    """Compare embeddings of N texts, each ``float32[N, dim]``.

    Args:
        name: Where the texts came from.
        texts: Their tokens.
        vectors: Of the artifact.
        reference: Of the checkpoint.
    """
    ours, theirs = _of_length_one(vectors), _of_length_one(reference)
    cosines = np.minimum((ours * theirs).sum(-1), 1.0)
    return EmbeddingFidelity(
        text=name,
        texts=len(texts),
        tokens=sum(map(len, texts)),
        mean_cosine=float(cosines.mean()),
        least_cosine=float(cosines.min()),
        agreement=float((_nearest(ours) == _nearest(theirs)).mean()),
    )


def _of_length_one(vectors: Vectors) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    lengths: NDArray[np.float64] = np.linalg.norm(wide, axis=-1, keepdims=True)
    return wide / np.maximum(lengths, np.finfo(np.float64).tiny)


def _nearest(vectors: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the nearest of the others to each vector."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    nearest: NDArray[np.intp] = cosines.argmax(-1)
    return nearest


def _packs(texts: Sequence[Sequence[int]]) -> list[slice]:
    """Return which texts to run together, in order."""
    firsts, tokens = [0], 0
    for i, text in enumerate(texts):
        tokens += len(text)
        if i > firsts[-1] and tokens > _PACK:
            firsts.append(i)
            tokens = len(text)
    return [slice(*ends) for ends in pairwise([*firsts, len(texts)])]


def _packed(texts: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int64] | NDArray[np.int32]]:
    """Return texts as a graph takes them."""
    return {
        "input_ids": np.concatenate([np.asarray(text, np.int64) for text in texts]),
        "cu_seqlens": np.cumsum([0, *map(len, texts)]).astype(np.int32),
    }
