"""How far an artifact's predictions are from what its checkpoint's weights mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Self

import numpy as np
import tokenizers
from numpy.typing import NDArray

from rbee_export.checkpoint import Checkpoint
from rbee_export.decoder import build
from rbee_export.dialect import ReferenceDialect
from rbee_export.errors import ExportError
from rbee_export.evaluation import artifact_logits
from rbee_export.weights import Weights
from rbee_runtime.artifact import Artifact, Fidelity, Precision

Logits = NDArray[np.float32]
LogProbabilities = NDArray[np.float64]
Progress = Callable[[str, int, int], None]
"""Called with a stage, and how many of its steps are done, of how many."""


def untold(_stage: str, _done: int, _total: int) -> None:
    """Be told of progress, and do nothing."""


TOKENS = 256
"""Positions compared, unless the vocabulary is so large that their logits are."""

_LARGEST_LOGITS = 1 << 26
"""Numbers in one array of logits; 268 MB."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text to predict.

    Attributes:
        name: ``built-in``, or the name of the file it came from.
        content: The text.
    """

    name: str
    content: str

    @classmethod
    def built_in(cls) -> Self:
        """Return the text that comes with the exporter: prose, talk, lists, code, languages."""
        file = files("rbee_export").joinpath("calibration.txt")
        return cls("built-in", file.read_text(encoding="utf-8"))

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a text file.

        Raises:
            ExportError: It cannot be read, or is not UTF-8.
        """
        try:
            return cls(file.name, file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ExportError(f"{file}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ExportError(f"{file}: not UTF-8 text ({error})") from error

    def ids(self, artifact: Artifact) -> list[int]:
        """Return its first tokens in an artifact's vocabulary, as many as are compared.

        Raises:
            ExportError: It is too short, or the model lacks a token of it.
        """
        vocab = artifact.manifest.shapes.vocab
        tokens = max(2, min(TOKENS, _LARGEST_LOGITS // vocab))
        file = str(artifact.file("tokenizer"))
        encoding = tokenizers.Tokenizer.from_file(file).encode(self.content[: 16 * tokens])
        ids = list(encoding.ids)[:tokens]
        if len(ids) < 2:
            raise ExportError(f"{self.name}: fewer than two tokens; give a longer text")
        if max(ids) >= vocab:
            raise ExportError(f"{self.name}: the tokenizer knows tokens that the model does not")
        return ids


def measure(artifact: Artifact, checkpoint: Checkpoint, text: Text, progress: Progress) -> Fidelity:
    """Compare what an artifact and its checkpoint predict, on the CPU.

    The CPU has no operators for bfloat16; what is measured of a graph that computes in it is the
    price of rounding the weights.

    Raises:
        ExportError: The text does not fit the model, or ONNX Runtime cannot run the graph here.
    """
    ids = text.ids(artifact)
    reference = reference_logits(checkpoint, "fp32", ids, progress)
    logits = artifact_logits(artifact, ids, partial(progress, "artifact"))
    return compare(text, ids, logits, reference)


def perplexity(artifact: Artifact, text: Text) -> float:
    """Return an artifact's perplexity on a text, which needs no checkpoint.

    Raises:
        ExportError: The text does not fit the model, or ONNX Runtime cannot run the graph here.
    """
    ids = text.ids(artifact)
    logits = artifact_logits(artifact, ids)[:-1]
    surprise = [-log_softmax(row)[token] for row, token in zip(logits, ids[1:], strict=True)]
    return float(np.exp(np.mean(surprise)))


def reference_logits(
    checkpoint: Checkpoint, precision: Precision, ids: Sequence[int], progress: Progress
) -> Logits:
    """Return what a checkpoint's own weights predict after each token, worked out in float32.

    Args:
        checkpoint: The weights.
        precision: What to round them to: ``fp32`` or ``bf16``.
        ids: A text of T tokens.
        progress: Called after each layer.

    Returns:
        ``float32[T, vocab]``.
    """
    config = checkpoint.config
    ops = ReferenceDialect(config, Weights(checkpoint, precision), ids)
    build(ops, config, lambda done: progress("reference", done, config.layers))
    return ops.output


def compare(text: Text, ids: Sequence[int], logits: Logits, reference: Logits) -> Fidelity:
    """Compare predictions.

    Args:
        text: Where the tokens came from.
        ids: The T tokens.
        logits: Of the artifact, ``float32[T, vocab]``.
        reference: Of the checkpoint, alike.
    """
    total, surprise, expected_surprise = 0.0, 0.0, 0.0
    following = (*ids[1:], None)
    for mine, theirs, token in zip(logits, reference, following, strict=True):
        q, p = log_softmax(mine), log_softmax(theirs)
        total += divergence(q, p)
        if token is not None:
            surprise -= float(q[token])
            expected_surprise -= float(p[token])
    predicted = len(ids) - 1
    return Fidelity(
        text=text.name,
        tokens=len(ids),
        divergence=max(total / len(ids), 0.0),
        agreement=float((logits.argmax(-1) == reference.argmax(-1)).mean()),
        perplexity=float(np.exp(surprise / predicted)),
        reference_perplexity=float(np.exp(expected_surprise / predicted)),
    )


def divergence(log_q: LogProbabilities, log_p: LogProbabilities) -> float:
    """Return the Kullback-Leibler divergence of a distribution ``q`` from ``p``, in nats.

    In float64: between logits of float32, small divergences would drown.
    """
    return float(np.exp(log_p) @ (log_p - log_q))


def log_softmax(logits: Logits) -> LogProbabilities:
    """Return the logarithms of the probabilities that a row of logits stands for, in float64."""
    shifted = logits.astype(np.float64) - logits.max()
    normal: LogProbabilities = shifted - np.log(np.exp(shifted).sum())
    return normal
