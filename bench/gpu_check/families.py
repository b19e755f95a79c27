"""A small model of every family, each with what sets the family apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rbee_export.checkpoint import DecoderConfig
from rbee_export.checkpoint.hf_layout import read_config

VOCAB = 384
_WINDOW = 40
_CONTEXT = 1024
_SHORT = 128
"""Positions that models with scaled frequencies were first made for."""

_BASE: Mapping[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": _CONTEXT,
    "tie_word_embeddings": False,
}
_GEMMA: Mapping[str, Any] = {
    "head_dim": 32,
    "tie_word_embeddings": True,
    "hidden_act": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 32,
}
_LONG = {
    "type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [1.0 + 1.5 * i for i in range(8)],
}
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"num_hidden_layers": 3},
    "llama-3": {
        "model_type": "llama",
        "rope_theta": 5e5,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": _SHORT,
        },
    },
    "mistral": {"sliding_window": _WINDOW, "head_dim": 32},
    "qwen2": {"tie_word_embeddings": True, "rope_theta": 1e6},
    "qwen2-yarn": {
        "model_type": "qwen2",
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": _SHORT,
        },
    },
    "qwen3": {"head_dim": 32},
    "phi": {
        "hidden_size": 160,
        "intermediate_size": 640,
        "num_attention_heads": 2,
        "partial_rotary_factor": 0.4,
        "hidden_act": "gelu_new",
    },
    "phi3": {"sliding_window": _WINDOW},
    "phi3-longrope": {
        "model_type": "phi3",
        "original_max_position_embeddings": _SHORT,
        "rope_scaling": _LONG,
    },
    "gemma": _GEMMA,
    "gemma2": {
        **_GEMMA,
        "num_hidden_layers": 4,
        "sliding_window": _WINDOW,
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 4.0,
    },
    "gemma3_text": {
        **_GEMMA,
        "num_hidden_layers": 7,
        "sliding_window": _WINDOW,
        "rope_theta": 1e6,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "smollm3": {"num_hidden_layers": 5, "tie_word_embeddings": True},
    "granite": {
        "tie_word_embeddings": True,
        "embedding_multiplier": 4.0,
        "attention_multiplier": 0.4,
        "residual_multiplier": 0.6,
        "logits_scaling": 2.0,
    },
    "olmo2": {"num_key_value_heads": 4},
}

FAMILIES: Mapping[str, DecoderConfig] = MappingProxyType(
    {
        name: read_config(Path(name) / "config.json", {**_BASE, "model_type": name, **settings})
        for name, settings in _SETTINGS.items()
    }
)
"""By name, the hyper-parameters of a model that a step of takes no time."""
