"""Compile language models ahead of time: a checkpoint in, an artifact out.

checkpoint = open_checkpoint(Path("model.gguf"))
export(checkpoint, Path("artifacts/model"), Options(), digest(checkpoint.files))
"""

from rbee_export.checkpoint import Checkpoint, digest, open_checkpoint
from rbee_export.errors import CheckpointError, ExportError, UnsupportedModel
from rbee_export.export import export
from rbee_export.options import Options, identity

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ExportError",
    "Options",
    "UnsupportedModel",
    "digest",
    "export",
    "identity",
    "open_checkpoint",
]
