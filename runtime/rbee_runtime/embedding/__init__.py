"""What a caller asks of an embedder, and what it says meanwhile; and how it packs texts."""

from rbee_runtime.embedding.events import Embedded, EmbeddingEvent, EmbeddingFinished
from rbee_runtime.embedding.request import MOST_INPUTS, EmbeddingRequest

__all__ = ["MOST_INPUTS", "Embedded", "EmbeddingEvent", "EmbeddingFinished", "EmbeddingRequest"]
