"""A directory with a model that embeds texts, as model hubs lay it out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from rbee_export.checkpoint.dense_tensor import DenseTensor
from rbee_export.checkpoint.encoder_tokenizer import (
    VOCABULARY,
    read_encoder_tokenizer,
    reads_vocabulary,
)
from rbee_export.checkpoint.layout import Stored
from rbee_export.checkpoint.model_directory import read_shards
from rbee_export.checkpoint.safetensors_dir import model_files, read_tensor
from rbee_export.checkpoint.sentence_modules import SentenceModules

Config = TypeVar("Config")


@dataclass(frozen=True, slots=True)
class SentenceCheckpoint(ABC, Generic[Config]):
    """A directory of transformers or of sentence-transformers.

    Attributes:
        name: Directory name, without its path.
        config: Hyper-parameters.
        modules: How texts become vectors, besides the model itself.
        shards: The file of each tensor.
        settings: Content of ``config.json``.
    """

    name: str
    config: Config
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

    @abstractmethod
    def place(self, name: str) -> Stored:
        """Return where the weight with this canonical name is."""

    def tensor(self, name: str) -> DenseTensor:
        """Return the weight with this canonical name.

        Raises:
            CheckpointError: The checkpoint has no such weight.
            UnsupportedModel: It is stored in a type this exporter does not read.
        """
        folder, shards = self.modules.transformer, self.shards
        for at, layer in self.modules.pooling.named_layers():
            stored = layer.stored(name.removeprefix(at)) if name.startswith(at) else None
            if stored is not None:
                own = shards if layer.folder == folder else read_shards(layer.folder)
                return read_tensor(layer.folder, own, Stored(stored))
        return read_tensor(folder, shards, self.place(name))

    def tokenizer(self) -> str:
        """Return the tokenizer, serialised.

        Raises:
            CheckpointError: There is none, or it is damaged.
        """
        return read_encoder_tokenizer(self.modules, self.settings)
