"""llama.cpp, by its Python binding's own ``embed``, which packs texts."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rbee_bench.embedders.embedder import EmbedderSpec, Vectors
from rbee_bench.embedders.gguf_of_bert import save_gguf
from rbee_bench.peers.dense import whole_directory
from rbee_bench.peers.llamacpp import describe

_PACK = 512
"""Tokens of texts that it takes at a time: every one attends to all, most of it to be masked."""


class LlamaCppEmbedder:
    """A file in 16 bits, as its own converter makes it.

    One in ``Q8_0`` ended 0.3.36 with a segmentation fault.

    Attributes:
        version: See :class:`~rbee_bench.embedders.embedder.Embedder`.
    """

    def __init__(self, spec: EmbedderSpec) -> None:
        library: Any = importlib.import_module("llama_cpp")
        self.version = describe(library)
        target = spec.workspace / "embedder-gguf"
        if not target.is_dir():
            with whole_directory(target) as directory:
                save_gguf(spec.encoder, directory / "model.gguf", spec.pooling)
        pack = max(_PACK, spec.longest)
        self._model = library.Llama(
            str(target / "model.gguf"),
            embedding=True,
            n_ctx=pack,
            n_batch=pack,
            n_ubatch=pack,
            n_threads=spec.threads,
            n_threads_batch=spec.threads,
            verbose=False,
        )
        self._spec = spec

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See :class:`~rbee_bench.embedders.embedder.Embedder`."""
        prompted = [self._spec.prompt + text for text in texts]
        return np.array(self._model.embed(prompted, normalize=self._spec.normalized), np.float32)
