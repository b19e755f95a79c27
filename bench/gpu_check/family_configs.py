"""What ``config.json`` says of a small model of every family, with what sets the family apart.

The tests make checkpoints of the same models.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

VOCAB = 384
WINDOW = 40
CONTEXT = 1024
ORIGINAL_CONTEXT = 128
"""Positions that models with scaled frequencies were first made for."""

BASE: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
    }
)
"""What they have in common, where they do not say otherwise."""

LLAMA3: Mapping[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL_CONTEXT,
}
YARN: Mapping[str, Any] = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": ORIGINAL_CONTEXT,
}
MINISTRAL3: Mapping[str, Any] = {
    **YARN,
    "beta_fast": 16.0,
    "beta_slow": 2.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.6,
    "llama_4_scaling_beta": 0.8,
}
HUNYUAN: Mapping[str, Any] = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}
_ALTERNATING = ["sliding_attention", "full_attention"] * 2


def _of_sections(*sizes: int) -> dict[str, Any]:
    """Return the rotary embedding of a model that sees, each part for one of three positions."""
    return {"rope_type": "default", "mrope_section": list(sizes)}


def long_rope(pairs: int) -> dict[str, Any]:
    """Return Phi-3's scaling of so many frequencies."""
    return {
        "type": "longrope",
        "short_factor": [1.0 + 0.1 * i for i in range(pairs)],
        "long_factor": [1.0 + 1.5 * i for i in range(pairs)],
    }


_GEMMA: Mapping[str, Any] = {"head_dim": 32, "tie_word_embeddings": True}
_LATER_GEMMA: Mapping[str, Any] = {
    **_GEMMA,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 32,
    "sliding_window": WINDOW,
}

CONFIGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "llama": {"model_type": "llama", "num_hidden_layers": 3},
        "llama-3": {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": LLAMA3},
        "mistral": {"model_type": "mistral", "sliding_window": WINDOW, "head_dim": 32},
        "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True, "rope_theta": 1e6},
        "qwen2-yarn": {"model_type": "qwen2", "rope_scaling": YARN},
        "qwen2_vl_text": {"model_type": "qwen2_vl_text", "rope_scaling": _of_sections(2, 3, 3)},
        "qwen2_5_vl_text": {"model_type": "qwen2_5_vl_text", "rope_scaling": _of_sections(2, 3, 3)},
        "qwen3": {"model_type": "qwen3", "head_dim": 32},
        "qwen3_vl_text": {
            "model_type": "qwen3_vl_text",
            "head_dim": 32,
            "rope_scaling": _of_sections(6, 5, 5),
        },
        "phi": {
            "model_type": "phi",
            "hidden_size": 160,
            "intermediate_size": 640,
            "num_attention_heads": 2,
            "partial_rotary_factor": 0.4,
            "hidden_act": "gelu_new",
        },
        "phi3": {
            "model_type": "phi3",
            "sliding_window": WINDOW,
            "original_max_position_embeddings": CONTEXT,
        },
        "phi3-longrope": {
            "model_type": "phi3",
            "original_max_position_embeddings": ORIGINAL_CONTEXT,
            "rope_scaling": long_rope(8),
        },
        "gemma": {"model_type": "gemma", **_GEMMA, "hidden_act": "gelu_pytorch_tanh"},
        "gemma2": {
            "model_type": "gemma2",
            **_LATER_GEMMA,
            "num_hidden_layers": 4,
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 4.0,
        },
        "gemma3_text": {
            "model_type": "gemma3_text",
            **_LATER_GEMMA,
            "num_hidden_layers": 7,
            "rope_theta": 1e6,
            "rope_local_base_freq": 10000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        "smollm3": {"model_type": "smollm3", "num_hidden_layers": 5, "tie_word_embeddings": True},
        "granite": {
            "model_type": "granite",
            "tie_word_embeddings": True,
            "embedding_multiplier": 4.0,
            "attention_multiplier": 0.4,
            "residual_multiplier": 0.6,
            "logits_scaling": 2.0,
        },
        "olmo2": {"model_type": "olmo2", "num_key_value_heads": 4},
        "ministral": {
            "model_type": "ministral",
            "num_hidden_layers": 4,
            "layer_types": _ALTERNATING,
            "sliding_window": WINDOW,
            "head_dim": 32,
        },
        "ministral3": {
            "model_type": "ministral3",
            "head_dim": 32,
            "sliding_window": None,
            "rope_theta": 1e6,
            "rope_scaling": MINISTRAL3,
        },
        "olmo3": {
            "model_type": "olmo3",
            "num_hidden_layers": 4,
            "layer_types": _ALTERNATING,
            "sliding_window": WINDOW,
            "rope_theta": 5e5,
            "rope_scaling": {**YARN, "attention_factor": 1.1},
        },
        "exaone4": {
            "model_type": "exaone4",
            "num_hidden_layers": 4,
            "layer_types": [*["sliding_attention"] * 3, "full_attention"],
            "sliding_window": WINDOW,
            "sliding_window_pattern": "LLLG",
            "head_dim": 32,
            "rope_theta": 1e6,
            "rope_scaling": LLAMA3,
        },
        "seed_oss": {
            "model_type": "seed_oss",
            "head_dim": 32,
            "attention_bias": True,
            "attention_out_bias": True,
        },
        "arcee": {"model_type": "arcee", "rope_scaling": YARN},
        "ernie4_5": {"model_type": "ernie4_5", "head_dim": 32, "use_bias": True},
        "glm": {"model_type": "glm", "head_dim": 32},
        "glm4": {"model_type": "glm4", "head_dim": 32, "attention_bias": True},
        "hunyuan_v1_dense": {
            "model_type": "hunyuan_v1_dense",
            "head_dim": 32,
            "tie_word_embeddings": True,
            "rope_scaling": HUNYUAN,
        },
        "helium": {"model_type": "helium", "head_dim": 16, "attention_bias": True},
        "cohere": {"model_type": "cohere", "tie_word_embeddings": True, "logit_scale": 0.5},
        "cohere2": {
            "model_type": "cohere2",
            "num_hidden_layers": 4,
            "sliding_window": WINDOW,
            "tie_word_embeddings": True,
            "logit_scale": 0.5,
        },
        "starcoder2": {"model_type": "starcoder2", "tie_word_embeddings": True},
        "stablelm": {
            "model_type": "stablelm",
            "hidden_size": 128,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "partial_rotary_factor": 0.25,
            "use_qkv_bias": True,
        },
        "nemotron": {"model_type": "nemotron", "head_dim": 32},
    }
)
"""By name, what differs from :data:`BASE`."""

_WIDE: Mapping[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}

WIDE: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "llama-64": {"model_type": "llama", **_WIDE, "head_dim": 64},
        "llama-128": {"model_type": "llama", **_WIDE, "head_dim": 128},
        "gemma3_text-256": {
            **CONFIGS["gemma3_text"],
            **_WIDE,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
        },
    }
)
"""Alike, models as wide as real ones are: for these, GPUs have kernels of their own, of attention
that decodes and of products with weights in blocks. By heads of how many numbers.
"""
