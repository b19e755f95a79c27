"""The texts that roundings are fitted to."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers

from rbee_export.checkpoint import DecoderConfig
from rbee_export.checkpoint.encoder_config import EncoderConfig
from rbee_export.fidelity import TOKENS, Text
from rbee_export.rounding import GROUP

_TOKENS = 1024
_EMBEDDED_TOKENS = 4096
_LARGEST_ACTIVATIONS = 1 << 25
"""Numbers in one array of activations; 134 MB."""


def calibration_ids(tokenizer_json: str, config: DecoderConfig) -> Sequence[int]:
    """Return tokens of the built-in text in a model's vocabulary, for it to read in one go.

    They come after those that fidelity is measured on by default: what a rounding was fitted to
    says little about it.

    Returns:
        At most 1,024 tokens, fewer for models so wide that their activations would fill the memory;
        none where the text cannot serve: the model lacks a token of it, or reads too few at once.
    """
    text = Text.built_in().content
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
    offsets = tokenizer.encode(text).offsets
    if len(offsets) <= TOKENS:
        return ()
    widest = _widest(config)
    count = min(_TOKENS, config.context_length, _LARGEST_ACTIVATIONS // widest)
    # Anew from there, to begin as the model expects a text to.
    ids: Sequence[int] = tokenizer.encode(text[offsets[TOKENS - 1][1] :]).ids[:count]
    # Fewer than the columns of a group would leave most directions to chance.
    if len(ids) < GROUP or max(ids) >= config.vocab:
        return ()
    return ids


def calibration_texts(
    tokenizer_json: str, config: EncoderConfig | DecoderConfig
) -> list[list[int]]:
    """Return the parts of the built-in text, one by one, in an embedding model's vocabulary.

    Fidelity is measured on others by default.

    Returns:
        The tokens of each, special ones included, cut to what the model reads; none where the text
        cannot serve: the model lacks a token of it, or its own are so few that chance decides.
    """
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
    tokenizer.enable_truncation(config.context_length)
    texts: list[list[int]] = []
    left = min(_EMBEDDED_TOKENS, _LARGEST_ACTIVATIONS // _widest(config))
    for part in Text.built_in().content.split("\n\n"):
        ids = tokenizer.encode(part).ids[:left]
        if ids:
            texts.append(ids)
        left -= len(ids)
    if sum(map(len, texts)) < GROUP or max(map(max, texts)) >= config.vocab:
        return []
    return texts


def _widest(config: EncoderConfig | DecoderConfig) -> int:
    """Return the width of the widest activations inside a model."""
    if isinstance(config, EncoderConfig):
        return max(3 * config.hidden, config.intermediate)
    return max(config.hidden, config.q_width + 2 * config.kv_width, 2 * config.intermediate)
