"""Compile models ahead of time: a checkpoint in, an artifact out.

checkpoint = open_checkpoint(Path("model.gguf"))
export(checkpoint, Path("artifacts/model"), Options(), digest(checkpoint.files))

embedder = open_embedder(Path("all-MiniLM-L6-v2"))
export_embedder(embedder, Path("artifacts/embedder"), Options(), digest(embedder.files))
"""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from rbee_export.checkpoint import Checkpoint, digest, open_checkpoint
from rbee_export.errors import CheckpointError, ExportError, UnsupportedModel
from rbee_export.export import export
from rbee_export.options import Options, identity

if TYPE_CHECKING:
    from rbee_export.checkpoint.embedder_dir import EmbedderCheckpoint, open_embedder
    from rbee_export.checkpoint.reranker_dir import RerankerCheckpoint, open_reranker
    from rbee_export.embedder import export_embedder
    from rbee_export.reranker import export_reranker

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "EmbedderCheckpoint",
    "ExportError",
    "Options",
    "RerankerCheckpoint",
    "UnsupportedModel",
    "digest",
    "export",
    "export_embedder",
    "export_reranker",
    "identity",
    "open_checkpoint",
    "open_embedder",
    "open_reranker",
]


_LATER: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("EmbedderCheckpoint", "open_embedder"), "checkpoint.embedder_dir"),
        **dict.fromkeys(("RerankerCheckpoint", "open_reranker"), "checkpoint.reranker_dir"),
        "export_embedder": "embedder",
        "export_reranker": "reranker",
    }
)
"""What is not of language models, and where it is."""


def __getattr__(name: str) -> object:
    """Import what is not of language models, and what reads its files, when asked for it."""
    if name in _LATER:
        return getattr(import_module(f"rbee_export.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
