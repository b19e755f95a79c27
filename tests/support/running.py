"""Running an artifact step by step, below the engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import Backend, CacheType, open_backend
from rbee_runtime.step import PREFILL_CHUNK, Step


def open_cpu(
    artifact: Path,
    slots: int = 1,
    chunk: int = PREFILL_CHUNK,
    cache_type: CacheType | None = None,
) -> Backend:
    opened = Artifact.open(artifact)
    return open_backend(opened, "cpu", slots=slots, chunk=chunk, cache_type=cache_type)


def open_plainly(graph: Path | bytes) -> ort.InferenceSession:
    """Open a graph, or a file's content, on what ONNX Runtime has itself, with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # a second one spins, on a core that another test has
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def prefill(
    backend: Backend,
    ids: Sequence[int],
    *,
    slot: int = 0,
    chunk: int = PREFILL_CHUNK,
    length: int = 0,
) -> NDArray[np.float32]:
    """Run a prompt as the engine does, in chunks, and return the logits after it.

    Args:
        backend: Where to.
        ids: The prompt.
        slot: Slot to fill.
        chunk: Tokens to run at once.
        length: Tokens the sequence is to have in the end, if more than the prompt.
    """
    logits = np.empty((1, 0), np.float32)
    whole = max(length, len(ids))
    for past in range(0, len(ids), chunk):
        logits = backend.run(Step.of(slot, past, ids[past : past + chunk], whole))
    return logits[0].copy()


def forced_logits(
    backend: Backend, ids: Sequence[int], prompt: int, *, slot: int = 0
) -> NDArray[np.float32]:
    """Prefill the first ``prompt`` ids, decode the rest, and return the logits after each step.

    Returns:
        ``float32[len(ids) - prompt + 1, vocab]``.
    """
    first = prefill(backend, ids[:prompt], slot=slot, length=len(ids))
    steps = (Step.of(slot, past, [ids[past]], len(ids)) for past in range(prompt, len(ids)))
    return np.stack([first, *(backend.run(step)[0].copy() for step in steps)])


def greedy(backend: Backend, prompt: Sequence[int], *, slot: int = 0) -> Iterator[int]:
    """Yield the likeliest continuation without end."""
    token = int(prefill(backend, prompt, slot=slot).argmax())
    past = len(prompt)
    while True:
        yield token
        token = int(backend.run(Step.of(slot, past, [token]))[0].argmax())
        past += 1


def relative_error(values: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the root mean square of the difference over that of the centred reference."""
    centred = reference - reference.mean(-1, keepdims=True)
    return float(np.sqrt(np.mean((values - reference) ** 2) / np.mean(centred**2)))


def mean_divergence(values: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the mean Kullback-Leibler divergence, in nats, of the rows' distributions."""
    return float(_divergences(values, reference).mean())


def median_divergence(values: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the median of the rows, for models that are not continuous.

    Where a router finds two experts nearly alike, what is rounded decides between them.
    """
    return float(np.median(_divergences(values, reference)))


def _divergences(
    values: NDArray[np.float32], reference: NDArray[np.float32]
) -> NDArray[np.float64]:
    p, q = _log_softmax(reference), _log_softmax(values)
    divergences: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(-1)
    return divergences


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    normal: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normal
