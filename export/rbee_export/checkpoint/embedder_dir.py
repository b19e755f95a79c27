"""A directory with a model that embeds texts: an encoder's, or a decoder's."""

from __future__ import annotations

from pathlib import Path

from rbee_export.checkpoint.embedding_decoder import EmbeddingDecoder, read_embedding_decoder
from rbee_export.checkpoint.encoder_dir import EncoderCheckpoint, read_encoder
from rbee_export.checkpoint.encoder_families import ENCODERS
from rbee_export.checkpoint.hf_families import FAMILIES
from rbee_export.checkpoint.json_file import read_json
from rbee_export.checkpoint.model_directory import beside
from rbee_export.checkpoint.sentence_modules import MODULES, read_modules
from rbee_export.errors import UnsupportedModel, shown

EmbedderCheckpoint = EncoderCheckpoint | EmbeddingDecoder
"""What :func:`open_embedder` opens."""


def open_embedder(path: Path, name: str | None = None) -> EmbedderCheckpoint:
    """Read a directory's configuration and its files' headers; weights stay on disk.

    Args:
        path: The directory.
        name: What to call it; ``None`` for its own name.

    Raises:
        CheckpointError: A file is missing or damaged.
        UnsupportedModel: It embeds no texts, or does what is not known here.
    """
    modules = read_modules(path)
    directory = modules.transformer
    beside(directory)  # before anything is read
    settings = read_json(directory / "config.json")
    name = name or path.resolve().name
    kind = settings.get("model_type")
    if isinstance(kind, str) and kind in ENCODERS:
        return read_encoder(name, modules, settings)
    # A language model has the same type: what is listed beside it makes it a model of embeddings.
    if modules.files and isinstance(kind, str) and kind in FAMILIES:
        return read_embedding_decoder(name, modules, settings)
    raise UnsupportedModel(
        f"{directory}: model type {shown(kind)} is none that embeds texts here; "
        f"{', '.join(ENCODERS)} are, and with {MODULES} {', '.join(FAMILIES)}"
    )


def is_embedder(path: Path) -> bool:
    """Return whether a directory holds a model that embeds texts, as far as its settings say.

    Raises:
        CheckpointError: They are damaged.
    """
    if (path / MODULES).is_file():
        return True
    if not (path / "config.json").is_file():
        return False
    kind = read_json(path / "config.json").get("model_type")
    return isinstance(kind, str) and kind in ENCODERS
