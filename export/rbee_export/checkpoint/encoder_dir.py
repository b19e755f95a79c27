"""A directory with an encoder that embeds texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rbee_export.checkpoint.encoder_config import EncoderConfig
from rbee_export.checkpoint.encoder_layout import locate_in_encoder, read_encoder_config
from rbee_export.checkpoint.layout import Stored
from rbee_export.checkpoint.model_directory import read_shards
from rbee_export.checkpoint.sentence_checkpoint import SentenceCheckpoint
from rbee_export.checkpoint.sentence_modules import SentenceModules
from rbee_export.errors import UnsupportedModel

_HEADS = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")


class EncoderCheckpoint(SentenceCheckpoint[EncoderConfig]):
    """A directory with an encoder in it: its weights go by the names of
    :mod:`rbee_export.encoder`.
    """

    __slots__ = ()

    def place(self, name: str) -> Stored:
        """See :class:`~rbee_export.checkpoint.sentence_checkpoint.SentenceCheckpoint`."""
        return locate_in_encoder(name, self.config, self.shards)


def read_encoder(
    name: str, modules: SentenceModules, settings: Mapping[str, Any]
) -> EncoderCheckpoint:
    """Read a directory whose ``model_type`` is one of encoders.

    Args:
        name: What to call it.
        modules: What its sentence-transformers say.
        settings: Content of ``config.json``.

    Raises:
        CheckpointError: A file is missing or damaged.
        UnsupportedModel: It does what is not known here.
    """
    directory = modules.transformer
    if not modules.files:
        _require_embeddings(directory, settings)
    config = read_encoder_config(directory / "config.json", settings)
    modules.pooling.check(config.hidden)
    longest = min(modules.longest or config.context_length, config.context_length)
    config = replace(config, context_length=longest)
    return EncoderCheckpoint(name, config, modules, read_shards(directory), settings)


def _require_embeddings(directory: Path, settings: Mapping[str, Any]) -> None:
    """Refuse an encoder that was trained for something else."""
    named = settings.get("architectures")
    for architecture in named if isinstance(named, list) else []:
        if isinstance(architecture, str) and architecture.endswith(_HEADS):
            raise UnsupportedModel(
                f"{directory}: {architecture} classifies texts; only models that embed them "
                "are supported"
            )
