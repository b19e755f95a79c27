"""A directory with an encoder that embeds texts, as model hubs lay it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rbee_export.checkpoint.encoder_config import EncoderConfig
from rbee_export.checkpoint.encoder_layout import (
    ENCODERS,
    locate_in_encoder,
    read_encoder_config,
)
from rbee_export.checkpoint.encoder_tokenizer import (
    VOCABULARY,
    read_encoder_tokenizer,
    reads_vocabulary,
)
from rbee_export.checkpoint.json_file import read_json
from rbee_export.checkpoint.model_directory import beside, read_shards
from rbee_export.checkpoint.safetensors_dir import DenseTensor, model_files, read_tensor
from rbee_export.checkpoint.sentence_modules import MODULES, SentenceModules, read_modules
from rbee_export.errors import UnsupportedModel, shown

_HEADS = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")


@dataclass(frozen=True, slots=True)
class EncoderCheckpoint:
    """A directory of transformers or of sentence-transformers with an encoder in it.

    Weights go by canonical names, listed in :mod:`rbee_export.encoder`.

    Attributes:
        name: Directory name, without its path.
        config: Hyper-parameters.
        modules: How texts become vectors, besides the encoder itself.
        shards: The file of each tensor.
        settings: Content of ``config.json``.
    """

    name: str
    config: EncoderConfig
    modules: SentenceModules
    shards: Mapping[str, Path] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """Weights, configuration, tokenizer, and what sentence-transformers adds to them."""
        directory = self.modules.transformer
        files = (*model_files(directory, self.shards), *self.modules.files)
        vocabulary = directory / VOCABULARY
        return (*files, vocabulary) if reads_vocabulary(directory) else files

    def tensor(self, name: str) -> DenseTensor:
        """Return the weight with this canonical name.

        Raises:
            CheckpointError: The checkpoint has no such weight.
            UnsupportedModel: It is stored in a type this exporter does not read.
        """
        place = locate_in_encoder(name, self.config, self.shards)
        return read_tensor(self.modules.transformer, self.shards, place)

    def tokenizer(self) -> str:
        """Return the tokenizer, serialised.

        Raises:
            CheckpointError: There is none, or it is damaged.
        """
        return read_encoder_tokenizer(self.modules, self.settings)


def open_encoder(path: Path, name: str | None = None) -> EncoderCheckpoint:
    """Read a directory's configuration and its files' headers; weights stay on disk.

    Args:
        path: The directory.
        name: What to call it; ``None`` for its own name.

    Raises:
        CheckpointError: A file is missing or damaged.
        UnsupportedModel: It is no encoder, or does what is not known here.
    """
    modules = read_modules(path)
    directory = modules.transformer
    beside(directory)  # before anything is read
    settings = read_json(directory / "config.json")
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in ENCODERS:
        raise UnsupportedModel(
            f"{directory}: model type {shown(kind)} is no encoder known here; "
            f"{', '.join(ENCODERS)} are"
        )
    if not modules.files:
        _require_embeddings(directory, settings)
    config = read_encoder_config(directory / "config.json", settings)
    longest = min(modules.longest or config.context_length, config.context_length)
    return EncoderCheckpoint(
        name or path.resolve().name,
        replace(config, context_length=longest),
        modules,
        read_shards(directory),
        settings,
    )


def is_encoder(path: Path) -> bool:
    """Return whether a directory holds an encoder, as far as its settings say.

    Raises:
        CheckpointError: They are damaged.
        UnsupportedModel: It is one of sentence-transformers, of a kind not known here.
    """
    if not (path / "config.json").is_file():
        return (path / MODULES).is_file()
    kind = read_json(path / "config.json").get("model_type")
    return isinstance(kind, str) and kind in ENCODERS


def _require_embeddings(directory: Path, settings: Mapping[str, Any]) -> None:
    """Refuse an encoder that was trained for something else."""
    named = settings.get("architectures")
    for architecture in named if isinstance(named, list) else []:
        if isinstance(architecture, str) and architecture.endswith(_HEADS):
            raise UnsupportedModel(
                f"{directory}: {architecture} classifies texts; only models that embed them "
                "are supported"
            )
