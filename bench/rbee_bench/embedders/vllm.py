"""vLLM: its offline engine for models of embeddings."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from rbee_bench.embedders.embedder import EmbedderSpec, Vectors

_MEMORY = 0.1
"""Share of the memory that it may take. It starts only where so much is free, and needs little."""


class VllmEmbedder:
    """The engine in bf16, compiled, as is its default. As ours, it packs texts and pads nothing.

    Left to itself it takes fp16, in which it is a fourth as fast on a processor with AMX. What
    sentence-transformers saved tells it how to pool.

    Attributes:
        version: See :class:`~rbee_bench.embedders.embedder.Embedder`.
    """

    def __init__(self, spec: EmbedderSpec) -> None:
        # In this process: who stops this one is to stop all of it.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        library: Any = importlib.import_module("vllm")
        self._llm = library.LLM(
            str(spec.model),
            runner="pooling",
            max_model_len=spec.longest,
            dtype="bfloat16",
            gpu_memory_utilization=_MEMORY,  # of the processor's memory, where that computes
        )
        config = self._llm.llm_engine.vllm_config
        kind = str(config.model_config.dtype).removeprefix("torch.")
        self.version = f"vllm {library.__version__} on {config.device_config.device_type} in {kind}"
        self._prompt = spec.prompt

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See :class:`~rbee_bench.embedders.embedder.Embedder`."""
        found = self._llm.embed([self._prompt + text for text in texts], use_tqdm=False)
        return np.array([each.outputs.embedding for each in found], np.float32)
