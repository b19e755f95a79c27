"""Compile models ahead of time: a checkpoint in, an artifact out.

checkpoint = open_checkpoint(Path("model.gguf"))
export(checkpoint, Path("artifacts/model"), Options(), digest(checkpoint.files))

embedder = open_embedder(Path("all-MiniLM-L6-v2"))
export_embedder(embedder, Path("artifacts/embedder"), Options(), digest(embedder.files))
"""

from typing import TYPE_CHECKING

from rbee_export.checkpoint import Checkpoint, digest, open_checkpoint
from rbee_export.errors import CheckpointError, ExportError, UnsupportedModel
from rbee_export.export import export
from rbee_export.options import Options, identity

if TYPE_CHECKING:
    from rbee_export.checkpoint.embedder_dir import EmbedderCheckpoint, open_embedder
    from rbee_export.embedder import export_embedder

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "EmbedderCheckpoint",
    "ExportError",
    "Options",
    "UnsupportedModel",
    "digest",
    "export",
    "export_embedder",
    "identity",
    "open_checkpoint",
    "open_embedder",
]


def __getattr__(name: str) -> object:
    """Import what is of embedding models, and what reads their files, when asked for it."""
    if name in ("EmbedderCheckpoint", "open_embedder"):
        from rbee_export.checkpoint import embedder_dir

        return getattr(embedder_dir, name)
    if name == "export_embedder":
        from rbee_export.embedder import export_embedder

        return export_embedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
