"""Compile models ahead of time: a checkpoint in, an artifact out.

checkpoint = open_checkpoint(Path("model.gguf"))
export(checkpoint, Path("artifacts/model"), Options(), digest(checkpoint.files))

encoder = open_encoder(Path("all-MiniLM-L6-v2"))
export_embedder(encoder, Path("artifacts/embedder"), Options(), digest(encoder.files))
"""

from typing import TYPE_CHECKING

from rbee_export.checkpoint import Checkpoint, digest, open_checkpoint
from rbee_export.errors import CheckpointError, ExportError, UnsupportedModel
from rbee_export.export import export
from rbee_export.options import Options, identity

if TYPE_CHECKING:
    from rbee_export.checkpoint.encoder_dir import EncoderCheckpoint, open_encoder
    from rbee_export.embedder import export_embedder

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "EncoderCheckpoint",
    "ExportError",
    "Options",
    "UnsupportedModel",
    "digest",
    "export",
    "export_embedder",
    "identity",
    "open_checkpoint",
    "open_encoder",
]


def __getattr__(name: str) -> object:
    """Import what is of encoders, and the libraries that read their files, when asked for it."""
    if name in ("EncoderCheckpoint", "open_encoder"):
        from rbee_export.checkpoint import encoder_dir

        return getattr(encoder_dir, name)
    if name == "export_embedder":
        from rbee_export.embedder import export_embedder

        return export_embedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
