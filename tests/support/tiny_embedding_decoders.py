"""Small random decoders that embed texts, as sentence-transformers saves them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from .tiny_encoders import save_modules, save_weights, write_json
from .tiny_tokenizer import END_OF_TEXT, SPECIALS, VOCAB, tokenizer_json

CONTEXT = 256
WINDOW = 24
END = SPECIALS[END_OF_TEXT]
LAST_TOKEN = {"pooling_mode_lasttoken": True}

_BASE: Mapping[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": END_OF_TEXT,
    "eos_token_id": END_OF_TEXT,
    "pad_token_id": END_OF_TEXT,
    # Far wider than models start with, so that attention attends.
    "initializer_range": 0.2,
}
_GEMMA3: Mapping[str, Any] = {
    **_BASE,
    "num_hidden_layers": 7,
    "num_key_value_heads": 1,
    "head_dim": 32,
    # The configuration halves it whenever it is read.
    "sliding_window": 4 * WINDOW,
    "query_pre_attn_scalar": 24,
    "use_bidirectional_attention": True,
    "initializer_range": 0.1,
}
DECODERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "qwen3": ("qwen3", {**_BASE, "head_dim": 32, "rope_theta": 1e6}),
    "qwen3-windows": (
        "qwen3",
        {
            **_BASE,
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 1,
        },
    ),
    "qwen2": ("qwen2", _BASE),
    "mistral": ("mistral", {**_BASE, "head_dim": 32, "sliding_window": WINDOW}),
    "llama": (
        "llama",
        {**_BASE, "rope_scaling": {"rope_type": "linear", "factor": 4.0}, "attention_bias": True},
    ),
    "gemma2": (
        "gemma2",
        {
            **_BASE,
            "head_dim": 32,
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 20.0,
            "query_pre_attn_scalar": 24,
        },
    ),
    "gemma3": ("gemma3_text", _GEMMA3),
    # With heads as wide as real ones.
    "gemma3-wide": ("gemma3_text", {**_GEMMA3, "num_attention_heads": 3, "head_dim": 256}),
    "olmo2": ("olmo2", _BASE),
    "phi": ("phi", {**_BASE, "partial_rotary_factor": 1.0}),
}
"""By name: ``model_type``, and what is not the type's default."""


def save_embedding_decoder(
    directory: Path,
    name: str = "qwen3",
    *,
    modules: Sequence[str] = ("Transformer", "Pooling", "Normalize"),
    pooling: Mapping[str, Any] | None = None,
    dense: Sequence[Mapping[str, Any]] = (),
    head: str = "AutoModel",
    dtype: str = "float32",
    **changed: Any,
) -> Path:
    """Save random weights and a tokenizer that ends texts.

    Norms are drawn around their neutral value, biases around zero.

    Args:
        directory: Where to.
        name: One of ``DECODERS``.
        modules: Those of sentence-transformers.
        pooling: Settings of the second; the last token by default.
        dense: Settings of those called ``Dense``.
        head: The class to save it as; one with a head gives weights a prefix.
        dtype: Of the stored weights.
        changed: Configuration that differs from the decoder's.
    """
    kind, config = DECODERS[name]
    neutral = 0.0 if kind.startswith("gemma") else 1.0
    config = {**config, **changed}
    save_weights(directory, kind, config, head=head, dtype=dtype, neutral=neutral)
    (directory / "tokenizer.json").write_text(ending_tokenizer(), encoding="utf-8")
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": END}
    write_json(directory / "tokenizer_config.json", options)
    save_modules(directory, modules, pooling or LAST_TOKEN, dense)
    return directory


@functools.cache
def ending_tokenizer() -> str:
    """Return a tokenizer of Qwen's kind that puts a token behind each text, serialised."""
    tokenizer = Tokenizer.from_str(tokenizer_json())
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, END_OF_TEXT)]
    )
    return str(tokenizer.to_str())
