"""Do the GPU's kernels compute what the CPU does?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_check import place
from gpu_check.child import Report
from gpu_check.families import MODELS
from gpu_check.family_configs import VOCAB
from gpu_check.random_weights import RandomCheckpoint
from rbee_export import Options
from rbee_runtime.backend import Backend
from rbee_runtime.step import PREFILL_CHUNK, Step

CLOSE: Mapping[str, float] = MappingProxyType(
    {"fp16": 2e-3, "bf16": 3e-2, "int8": 2e-2, "int4": 2e-2, "gguf": 2e-2}
)
"""Mean divergence up to which predictions are the CPU's, in nats, by precision."""

IDS = np.random.default_rng(13).integers(3, VOCAB, 300).tolist()
PROMPT = 280
"""Of those, the prompt: more than a chunk, a window, and what longrope calls short."""

Logits = NDArray[np.float32]


def compare(report: Report, precision: str) -> None:
    """Compare every family at a precision with the same artifact on the CPU."""
    for name in MODELS:
        try:
            report.row(family=name, **of_family(name, precision, report.directory))
        except Exception as error:  # the other families go on
            report.row(family=name, error=" ".join(str(error).split())[:300], holds=False)


def of_family(name: str, precision: Any, directory: Path) -> dict[str, Any]:
    """Return what :func:`beside` does of a small model on the GPU.

    The CPU has no ``bf16``: that is compared with the same weights at ``fp32``.
    """
    checkpoint = RandomCheckpoint(name, MODELS[name], quantized=precision == "gguf")
    path = place.compiled(
        checkpoint, directory / f"{name}-{precision}", Options(precision, target="cuda")
    )
    gpu = place.open_gpu(path)
    gpu.warm_up()
    if precision == "bf16":
        path = place.compiled(checkpoint, directory / f"{name}-fp32", Options("fp32"))
    return beside(gpu, place.open_alike(path, "cpu"), CLOSE[precision])


def beside(backend: Backend, reference: Backend, close: float) -> dict[str, Any]:
    """Return how far a backend's predictions are from another's, and whether that is close."""
    mine, theirs = forced_logits(backend), forced_logits(reference)
    divergence = mean_divergence(mine, theirs)
    return {
        "divergence": divergence,
        "at most": close,
        "same top token": float((mine.argmax(-1) == theirs.argmax(-1)).mean()),
        "holds": bool(np.isfinite(mine).all() and divergence <= close),
    }


def forced_logits(backend: Backend, ids: Sequence[int] = IDS, prompt: int = PROMPT) -> Logits:
    """Read a prompt in chunks, decode the rest of the ids, and return the logits after each step.

    Returns:
        ``float32[len(ids) - prompt + 1, vocab]``.
    """
    spans = [(past, min(past + PREFILL_CHUNK, prompt)) for past in range(0, prompt, PREFILL_CHUNK)]
    spans += [(past, past + 1) for past in range(prompt, len(ids))]
    steps = (Step.of(0, start, ids[start:end], len(ids)) for start, end in spans)
    logits = [backend.run(step)[0].copy() for step in steps]
    return np.stack(logits[-(len(ids) - prompt + 1) :])


def mean_divergence(values: Logits, reference: Logits) -> float:
    """Return the mean Kullback-Leibler divergence, in nats, of the rows' distributions."""
    p, q = _log_softmax(reference), _log_softmax(values)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    normal: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normal
