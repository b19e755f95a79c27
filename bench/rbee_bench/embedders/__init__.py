"""The engines of embedding models that are measured, each in a process of its own."""

from rbee_bench.embedders.embedder import OTHERS, EmbedderKind, EmbedderSpec, Waits
from rbee_bench.embedders.process import EmbedderProcess

__all__ = ["OTHERS", "EmbedderKind", "EmbedderProcess", "EmbedderSpec", "Waits"]
