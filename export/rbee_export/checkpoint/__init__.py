"""Checkpoints: GGUF files and safetensors directories behind one interface, read lazily."""

from rbee_export.checkpoint.checkpoint import (
    Checkpoint,
    TokenizerSource,
    digest,
    open_checkpoint,
)
from rbee_export.checkpoint.config import DecoderConfig, Llama3Scaling, Rope
from rbee_export.checkpoint.tensor import Tensor

__all__ = [
    "Checkpoint",
    "DecoderConfig",
    "Llama3Scaling",
    "Rope",
    "Tensor",
    "TokenizerSource",
    "digest",
    "open_checkpoint",
]
