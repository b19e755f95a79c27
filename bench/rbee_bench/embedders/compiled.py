"""Our own: an artifact on the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from rbee_bench.embedders.embedder import EmbedderSpec, Vectors
from rbee_runtime import Embedder


class CompiledEmbedder:
    """Through the embedder, as a worker would.

    Attributes:
        version: See :class:`~rbee_bench.embedders.embedder.Embedder`.
    """

    def __init__(self, spec: EmbedderSpec) -> None:
        self.version = f"onnx-worker-rbee {version('onnx-worker-rbee')}"
        self._embedder = Embedder.load(spec.model, backend="cpu")

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See :class:`~rbee_bench.embedders.embedder.Embedder`."""
        return self._embedder.embed(texts)
