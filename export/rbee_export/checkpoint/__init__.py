"""Checkpoints: GGUF files and safetensors directories behind one interface, read lazily."""

from rbee_export.checkpoint.checkpoint import (
    Checkpoint,
    TokenizerSource,
    WeightSource,
    digest,
    open_checkpoint,
)
from rbee_export.checkpoint.config import Attention, DecoderConfig
from rbee_export.checkpoint.rope import Rope
from rbee_export.checkpoint.tensor import Tensor

__all__ = [
    "Attention",
    "Checkpoint",
    "DecoderConfig",
    "Rope",
    "Tensor",
    "TokenizerSource",
    "WeightSource",
    "digest",
    "open_checkpoint",
]
