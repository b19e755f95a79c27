"""What is measured: engines that make vectors of texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

EmbedderKind = Literal[
    "compiled", "sentence-transformers", "onnxruntime", "openvino", "vllm", "llama.cpp", "eager"
]
Arithmetic = Literal["fp32", "bf16", "int8", "own"]
Pooling = Literal["mean", "cls", "last"]
Vectors = NDArray[np.float32]

OTHERS: tuple[tuple[EmbedderKind, Arithmetic, str], ...] = (
    ("sentence-transformers", "fp32", "sentence-transformers"),
    ("sentence-transformers", "bf16", "sentence-transformers bf16"),
    ("onnxruntime", "fp32", "ONNX Runtime"),
    ("onnxruntime", "int8", "ONNX Runtime int8"),
    ("openvino", "own", "OpenVINO GenAI"),
    ("vllm", "bf16", "vLLM bf16"),
    ("llama.cpp", "own", "llama.cpp fp16"),
    ("eager", "bf16", "eager torch bf16"),
    ("eager", "fp32", "eager torch fp32"),
)
"""What people would use instead, in the order of tables, each in the arithmetic and by the name."""

REFERENCE = "eager torch fp32"
"""Whose vectors are right."""


@dataclass(frozen=True, slots=True)
class EmbedderSpec:
    """An engine to open.

    Attributes:
        kind: Which engine.
        label: Its name in tables.
        model: An artifact for ``compiled``, for the others a directory as sentence-transformers
            saves it.
        encoder: The directory of transformers in ``model``.
        arithmetic: What to multiply in; ``own`` leaves it to the engine.
        pooling: How the vectors of tokens become one.
        normalized: Whether its length is then made 1.
        prompt: What comes before every text.
        longest: Tokens of a text at most.
        threads: Threads to compute with.
        workspace: Directory for what an engine converts the model into, kept between runs.
    """

    kind: EmbedderKind
    label: str
    model: Path
    encoder: Path
    arithmetic: Arithmetic
    pooling: Pooling
    normalized: bool
    prompt: str
    longest: int
    threads: int
    workspace: Path

    def to_json(self) -> str:
        """Return one line that :meth:`from_json` reads."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        for name in ("model", "encoder", "workspace"):
            fields[name] = Path(fields[name])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Waits:
    """How long texts took.

    Attributes:
        seconds: Of each call, one after the other.
    """

    seconds: tuple[float, ...]

    @property
    def total(self) -> float:
        """Seconds of all calls."""
        return sum(self.seconds)


class Embedder(Protocol):
    """An engine with its model loaded.

    Attributes:
        version: Name and version of what computes.
    """

    version: str

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts, in their order: ``float32[texts, dim]``."""
        ...


def in_batches(texts: Sequence[str], size: int, embed: Callable[[list[str]], Vectors]) -> Vectors:
    """Embed texts of like length together, the longest first, so that little of it is padding.

    So sentence-transformers does, by characters.

    Args:
        texts: The texts.
        size: At a time.
        embed: Embeds up to ``size`` texts: ``float32[texts, dim]``.
    """
    order = np.argsort([-len(text) for text in texts], kind="stable")
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    found = np.concatenate([embed([texts[place] for place in batch]) for batch in batches])
    vectors: Vectors = np.empty_like(found, np.float32)
    vectors[order] = found
    return vectors
