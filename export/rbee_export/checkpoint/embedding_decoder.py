"""A directory of sentence-transformers with a decoder that embeds texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rbee_export.checkpoint.config import DecoderConfig
from rbee_export.checkpoint.hf_layout import locate, read_config
from rbee_export.checkpoint.layout import Stored
from rbee_export.checkpoint.model_directory import read_shards
from rbee_export.checkpoint.sentence_checkpoint import SentenceCheckpoint
from rbee_export.checkpoint.sentence_modules import SentenceModules
from rbee_export.errors import UnsupportedModel, shown

_STEM = "model."
"""What names begin with where a language model was saved, not the decoder by itself."""


class EmbeddingDecoder(SentenceCheckpoint[DecoderConfig]):
    """A directory with a decoder in it: its weights go by the names of :mod:`rbee_export.decoder`.

    It has no output projection.
    """

    __slots__ = ()

    def place(self, name: str) -> Stored:
        """See :class:`~rbee_export.checkpoint.sentence_checkpoint.SentenceCheckpoint`."""
        place = locate(name, self.config, self.shards)
        bare = place.name.removeprefix(_STEM)
        if place.name not in self.shards and bare in self.shards:
            return replace(place, name=bare)
        return place


def read_embedding_decoder(
    name: str, modules: SentenceModules, settings: Mapping[str, Any]
) -> EmbeddingDecoder:
    """Read a directory whose ``model_type`` is one of decoders.

    Args:
        name: What to call it.
        modules: What its sentence-transformers say.
        settings: Content of ``config.json``.

    Raises:
        CheckpointError: A file is missing or damaged.
        UnsupportedModel: It does what is not known here.
    """
    directory = modules.transformer
    config = read_config(directory / "config.json", settings)
    _require_known_attention(directory, settings, config)
    if config.experts is not None:
        raise UnsupportedModel(
            f"{directory}: mixtures of experts are not supported in embedding models"
        )
    if config.mixer is not None:
        raise UnsupportedModel(
            f"{directory}: layers that do not attend are not supported in embedding models"
        )
    if config.long_rope_from is not None:
        raise UnsupportedModel(
            f"{directory}: two sets of rotary frequencies are not supported in embedding models"
        )
    if any(a.rope is None for a in config.attention):
        raise UnsupportedModel(
            f"{directory}: layers without rotary embedding are not supported in embedding models"
        )
    if config.temperature is not None:
        raise UnsupportedModel(
            f"{directory}: queries that grow with their position are not supported in embedding "
            "models"
        )
    if config.qk_norm_last:
        raise UnsupportedModel(
            f"{directory}: norms of queries and keys behind their rotary embedding are not "
            "supported in embedding models"
        )
    modules.pooling.check(config.hidden)
    config = replace(
        config,
        context_length=min(modules.longest or config.context_length, config.context_length),
        # There are no logits.
        tied_embedding=True,
        head_bias=False,
        logits_scale=1.0,
        logits_cap=None,
    )
    return EmbeddingDecoder(name, config, modules, read_shards(directory), settings)


def _require_known_attention(
    directory: Path, settings: Mapping[str, Any], config: DecoderConfig
) -> None:
    """Refuse a decoder that was trained on to see what comes later, or may have been, unless its
    type is known to do so.
    """
    both_ways = settings.get("is_causal") is False or settings.get("use_bidirectional_attention")
    if both_ways and config.causal:
        raise UnsupportedModel(
            f"{directory}: its tokens see those that come later; only decoders whose attention is "
            "causal are supported, and Gemma 3"
        )
    if not config.causal and config.attention_cap is not None:
        raise UnsupportedModel(
            f"{directory}: attn_logit_softcapping is not supported where tokens see those that "
            "come later"
        )
    turned = {a.rope.dims for a in config.attention if a.rope is not None}
    if not config.causal and turned != {config.head_dim}:
        raise UnsupportedModel(
            f"{directory}: partial_rotary_factor is not supported where tokens see those that "
            "come later"
        )
    code = settings.get("auto_map")
    if isinstance(code, dict) and "AutoModel" in code:
        raise UnsupportedModel(
            f"{directory}: runs by code of its own, {shown(code['AutoModel'])}, which may do what "
            "its model type does not; only models that transformers runs by itself are supported"
        )
