"""sentence-transformers, by its own ``encode``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from rbee_bench.embedders.embedder import EmbedderSpec, Vectors

_BATCH = 16
"""Texts at a time, as eager torch has them: more are padded more."""


class SentenceTransformersEmbedder:
    """The library at its defaults, or with its weights in bf16, as it tells people to speed it up.

    Attributes:
        version: See :class:`~rbee_bench.embedders.embedder.Embedder`.
    """

    def __init__(self, spec: EmbedderSpec) -> None:
        # This one first: where it is missing, torch would take a second to import for nothing.
        library: Any = importlib.import_module("sentence_transformers")
        torch: Any = importlib.import_module("torch")
        self.version = f"sentence-transformers {library.__version__}"
        torch.set_num_threads(spec.threads)
        dtype = torch.bfloat16 if spec.arithmetic == "bf16" else torch.float32
        self._model = library.SentenceTransformer(
            str(spec.model), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype}
        )

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See :class:`~rbee_bench.embedders.embedder.Embedder`."""
        vectors: Vectors = self._model.encode(
            list(texts), batch_size=_BATCH, show_progress_bar=False
        )
        return vectors
