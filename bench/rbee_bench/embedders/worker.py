"""An engine of embeddings in a process of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from rbee_bench.answering import serve
from rbee_bench.embedders.embedder import Embedder, EmbedderSpec

_AWAKE: Final = 32
"""Texts that are embedded at the beginning of a turn, untimed."""


def main() -> None:
    """Open the engine of the first argument's :class:`EmbedderSpec` and serve it."""
    serve(lambda: _open(EmbedderSpec.from_json(sys.argv[1])), _answer)


def _open(spec: EmbedderSpec) -> Embedder:
    match spec.kind:
        case "compiled":
            from rbee_bench.embedders.compiled import CompiledEmbedder

            return CompiledEmbedder(spec)
        case "sentence-transformers":
            from rbee_bench.embedders.sentence_transformers import SentenceTransformersEmbedder

            return SentenceTransformersEmbedder(spec)
        case "onnxruntime":
            from rbee_bench.embedders.onnxruntime import OnnxRuntimeEmbedder

            return OnnxRuntimeEmbedder(spec)
        case "openvino":
            from rbee_bench.embedders.openvino import OpenvinoEmbedder

            return OpenvinoEmbedder(spec)
        case "vllm":
            from rbee_bench.embedders.vllm import VllmEmbedder

            return VllmEmbedder(spec)
        case "llama.cpp":
            from rbee_bench.embedders.llamacpp import LlamaCppEmbedder

            return LlamaCppEmbedder(spec)
        case "eager":
            from rbee_bench.embedders.eager import EagerEmbedder

            return EagerEmbedder(spec)


def _answer(embedder: Embedder, call: dict[str, Any]) -> dict[str, Any]:
    match call["call"]:
        case "embed":
            with Path(call["file"]).open("wb") as stream:
                np.save(stream, np.asarray(embedder.embed(call["texts"]), np.float32))
            return {}
        case "time":
            # Who slept through the turns of others fetches pages of its own first.
            embedder.embed(call["calls"][0][:_AWAKE])
            return {"seconds": [_seconds(embedder, texts) for texts in call["calls"]]}
    raise ValueError(f"no such call: {call['call']}")


def _seconds(embedder: Embedder, texts: Sequence[str]) -> float:
    start = time.perf_counter()
    embedder.embed(texts)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
