"""How far an artifact's scores are from those that its checkpoint's weights mean."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import tokenizers

from rbee_export.checkpoint.reranker_dir import RerankerCheckpoint
from rbee_export.embedder_evaluation import reference_embeddings
from rbee_export.embedding_fidelity import TOKENS, Sentences, Vectors, artifact_embeddings
from rbee_export.errors import ExportError
from rbee_export.fidelity import Progress
from rbee_runtime.artifact import RankingFidelity, RerankerArtifact

_DOCUMENTS = 8
"""Documents of a query."""


@dataclass(frozen=True, slots=True)
class Rankings:
    """Queries, each with some documents.

    Attributes:
        name: Where their texts came from.
        documents: Documents of each query.
        ids: Tokens of each query beside each of its documents, one query after another.
        types: Their types.
    """

    name: str
    documents: int
    ids: list[list[int]]
    types: list[list[int]]

    @classmethod
    def of(cls, texts: Sentences, artifact: RerankerArtifact) -> Rankings:
        """Make some of texts, in an artifact's vocabulary, as many as are compared.

        Every eighth text is a query, and the eight that follow it are its documents: one often says
        the same in other words. What the model cannot read whole is cut.

        Raises:
            ExportError: The model lacks a token of them.
        """
        shapes = artifact.manifest.shapes
        tokenizer = tokenizers.Tokenizer.from_file(str(artifact.file("tokenizer")))
        tokenizer.enable_truncation(shapes.context_length)
        count = len(texts.texts)
        documents = min(_DOCUMENTS, count - 1)
        made = cls(texts.name, documents, [], [])
        for first in range(0, count, documents):
            for after in range(1, documents + 1):
                query, document = texts.texts[first], texts.texts[(first + after) % count]
                pair = tokenizer.encode(query, document)
                if max(pair.ids, default=-1) >= shapes.vocab:
                    raise ExportError(
                        f"{texts.name}: the tokenizer knows tokens that the model does not"
                    )
                made.ids.append(pair.ids)
                made.types.append(pair.type_ids)
            if sum(map(len, made.ids)) >= TOKENS:
                break
        return made


def measure_scores(
    artifact: RerankerArtifact, checkpoint: RerankerCheckpoint, texts: Sentences, progress: Progress
) -> RankingFidelity:
    """Compare what an artifact and its checkpoint make of pairs of texts, on the CPU.

    Raises:
        ExportError: The texts do not fit the model, or ONNX Runtime cannot run the graph here.
    """
    rankings = Rankings.of(texts, artifact)
    layers = checkpoint.config.layers
    reference = reference_embeddings(
        checkpoint,
        rankings.ids,
        lambda done: progress("reference", done, layers),
        types=rankings.types,
    )
    return compare_scores(rankings, artifact_scores(artifact, rankings), reference)


def artifact_scores(artifact: RerankerArtifact, rankings: Rankings) -> Vectors:
    """Return an artifact's scores, ``float32[pairs, 1]``, on the CPU.

    Raises:
        ExportError: ONNX Runtime cannot run the graph here, or it gives what is no number.
    """
    return artifact_embeddings(artifact, rankings.ids, rankings.types)


def compare_scores(rankings: Rankings, scores: Vectors, reference: Vectors) -> RankingFidelity:
    """Compare scores, each ``float32[pairs, 1]``.

    Args:
        rankings: What they are of.
        scores: Of the artifact.
        reference: Of the checkpoint.
    """
    ours, theirs = (
        given.astype(np.float64).reshape(-1, rankings.documents) for given in (scores, reference)
    )
    same, apart = 0, 0
    for i, j in combinations(range(rankings.documents), 2):
        order = np.sign(theirs[:, i] - theirs[:, j])
        same += int(((np.sign(ours[:, i] - ours[:, j]) == order) & (order != 0)).sum())
        apart += int((order != 0).sum())
    differences = np.abs(ours - theirs)
    return RankingFidelity(
        text=rankings.name,
        queries=len(ours),
        pairs=ours.size,
        tokens=sum(map(len, rankings.ids)),
        mean_difference=float(differences.mean()),
        largest_difference=float(differences.max()),
        # Documents that the reference does not tell apart stand in no order.
        agreement=same / apart if apart else 1.0,
    )
