"""ONNX Runtime on a graph of padded texts, as optimum and fastembed run such models."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rbee_bench.embedders.converted import converted
from rbee_bench.embedders.embedder import EmbedderSpec, Vectors, in_batches

_BATCH = 8
"""Texts at a time, as fast as any of 4 to 32 when tried: more are padded more."""


class OnnxRuntimeEmbedder:
    """optimum's graph, with ONNX Runtime's fused operators for such models, or in 8 bits by it.

    Attributes:
        version: See :class:`~rbee_bench.embedders.embedder.Embedder`.
    """

    def __init__(self, spec: EmbedderSpec) -> None:
        library: Any = importlib.import_module("onnxruntime")
        tokenizers: Any = importlib.import_module("tokenizers")
        self.version = f"onnxruntime {library.__version__}"
        graph = converted("onnx", spec.encoder, spec.workspace) / f"{spec.arithmetic}.onnx"
        options = library.SessionOptions()
        options.intra_op_num_threads = spec.threads
        options.log_severity_level = 3
        self._session = library.InferenceSession(graph, options, ["CPUExecutionProvider"])
        self._inputs = {each.name for each in self._session.get_inputs()}
        self._tokenizer = tokenizers.Tokenizer.from_file(str(spec.encoder / "tokenizer.json"))
        self._tokenizer.enable_truncation(spec.longest)
        self._tokenizer.enable_padding()
        self._spec = spec

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See :class:`~rbee_bench.embedders.embedder.Embedder`."""
        return in_batches([self._spec.prompt + text for text in texts], _BATCH, self._together)

    def _together(self, texts: list[str]) -> Vectors:
        encoded = self._tokenizer.encode_batch(texts)
        ids = np.array([each.ids for each in encoded])
        mask = np.array([each.attention_mask for each in encoded])
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        feeds = {name: array for name, array in given.items() if name in self._inputs}
        (states,) = self._session.run(["last_hidden_state"], feeds)
        match self._spec.pooling:
            case "cls":
                pooled = states[:, 0]
            case "last":
                pooled = states[np.arange(len(texts)), mask.sum(1) - 1]
            case _:
                lengths = mask.sum(1, keepdims=True, dtype=np.float32)
                pooled = (mask[:, None].astype(np.float32) @ states)[:, 0] / lengths
        if self._spec.normalized:
            pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
        vectors: Vectors = pooled
        return vectors
