"""OpenVINO GenAI's pipeline of embeddings."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from rbee_bench.embedders.converted import converted
from rbee_bench.embedders.embedder import EmbedderSpec, Vectors, in_batches

_BATCH = 8
"""Texts at a time, as fast as any of 4 to 32 when tried: more are padded more."""


class OpenvinoEmbedder:
    """The pipeline at its defaults; in what it computes is its choice: bf16 on AMX.

    Attributes:
        version: See :class:`~rbee_bench.embedders.embedder.Embedder`.
    """

    def __init__(self, spec: EmbedderSpec) -> None:
        importlib.import_module("openvino")
        library: Any = importlib.import_module("openvino_genai")
        self.version = f"openvino-genai {version('openvino-genai')}"
        pipeline = library.TextEmbeddingPipeline
        config = pipeline.Config()
        config.pooling_type = {
            "mean": pipeline.PoolingType.MEAN,
            "cls": pipeline.PoolingType.CLS,
            "last": pipeline.PoolingType.LAST_TOKEN,
        }[spec.pooling]
        config.normalize = spec.normalized
        config.max_length = spec.longest
        directory = converted("openvino", spec.encoder, spec.workspace)
        self._pipeline = pipeline(str(directory), "CPU", config, INFERENCE_NUM_THREADS=spec.threads)
        self._prompt = spec.prompt

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See :class:`~rbee_bench.embedders.embedder.Embedder`."""
        return in_batches([self._prompt + text for text in texts], _BATCH, self._together)

    def _together(self, texts: list[str]) -> Vectors:
        return np.array(self._pipeline.embed_documents(texts), np.float32)
