"""What llama.cpp's converter writes of a configuration: metadata, and tensors of frequencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gguf

from .gguf_delta_nets import metadata as delta_metadata
from .gguf_experts import metadata as expert_metadata

LAYER_NORMS: Mapping[str, str] = {
    "phi2": "layer_norm_eps",
    "command-r": "layer_norm_eps",
    "cohere2": "layer_norm_eps",
    "starcoder2": "norm_epsilon",
    "stablelm": "layer_norm_eps",
    "nemotron": "norm_eps",
}
"""What the configuration calls that of layer norms, by architecture."""


def metadata(architecture: str, c: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model's metadata say of its configuration ``c``."""
    heads, hidden = c["num_attention_heads"], c["hidden_size"]
    granite = architecture in ("granite", "granitemoe", "granitehybrid")
    scaling = c.get("rope_scaling") or {}
    keys: dict[str, Any] = {
        "block_count": c["num_hidden_layers"],
        "context_length": c["max_position_embeddings"],
        "embedding_length": hidden,
        "feed_forward_length": c["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": c["num_key_value_heads"],
    }
    if architecture in LAYER_NORMS:
        keys["attention.layer_norm_epsilon"] = float(c[LAYER_NORMS[architecture]])
    else:
        epsilon = c["norm_eps"] if architecture.startswith("lfm2") else c["rms_norm_eps"]
        keys["attention.layer_norm_rms_epsilon"] = float(epsilon)
    if architecture not in ("phi2", "gemma", "gemma2"):
        keys["rope.freq_base"] = float(c["rope_theta"])
    if architecture in ("phi2", "phi3"):
        keys["rope.dimension_count"] = int(c["partial_rotary_factor"] * hidden) // heads
    elif c.get("head_dim") is not None and not granite:
        keys["attention.key_length"] = keys["attention.value_length"] = c["head_dim"]
    if granite or architecture in ("llama", "mistral3", "smollm3"):
        keys["vocab_size"] = c["vocab_size"]
        keys["rope.dimension_count"] = c.get("head_dim") or hidden // heads
    if scaling.get("rope_type") == "linear":
        keys["rope.scaling.type"] = "linear"
        keys["rope.scaling.factor"] = float(scaling["factor"])
    if scaling.get("rope_type") == "yarn":
        keys["rope.scaling.type"] = "yarn"
        keys["rope.scaling.factor"] = float(scaling["factor"])
        keys["rope.scaling.original_context_length"] = scaling["original_max_position_embeddings"]
        if "attention_factor" in scaling:
            keys["rope.scaling.yarn_attn_factor"] = float(scaling["attention_factor"])
        for key in ("beta_fast", "beta_slow"):
            if key in scaling:
                keys[f"rope.scaling.yarn_{key}"] = float(scaling[key])
    if architecture == "mistral3":
        keys["rope.scaling.yarn_log_multiplier"] = float(scaling["mscale_all_dim"])
        keys["attention.temperature_scale"] = float(scaling["llama_4_scaling_beta"])
    if architecture == "phi3":
        original = c["original_max_position_embeddings"]
        keys["rope.scaling.original_context_length"] = original
        keys["attention.sliding_window"] = c["sliding_window"] or 0
        if scaling:
            stretch = c["max_position_embeddings"] / original
            attention = math.sqrt(1 + math.log(stretch) / math.log(original))
            keys["rope.scaling.attn_factor"] = attention
    if architecture in ("chatglm", "glm4", "stablelm", "nemotron"):
        width = c.get("head_dim") or hidden // heads
        keys["rope.dimension_count"] = int(c["partial_rotary_factor"] * width)
    if "mrope_section" in scaling:
        keys["rope.dimension_sections"] = [*scaling["mrope_section"], 0]
    if architecture == "hunyuan-dense":
        width = c["head_dim"]
        keys["rope.freq_base"] *= scaling["alpha"] ** (width / (width - 2))
        keys |= {"rope.scaling.type": "none", "rope.scaling.factor": 1.0}
    if architecture in ("exaone4", "olmo2") and c.get("sliding_window"):
        kinds = c.get("layer_types") or [*["sliding_attention"] * 3, "full_attention"]
        keys["attention.sliding_window"] = c["sliding_window"]
        keys["attention.sliding_window_pattern"] = [k == "sliding_attention" for k in kinds]
    if architecture in ("command-r", "cohere2"):
        keys["logit_scale"] = float(c["logit_scale"])
        keys["rope.scaling.type"] = "none"
    if architecture == "stablelm":
        keys["use_parallel_residual"] = c["use_parallel_residual"]
    if architecture in ("gemma2", "gemma3", "cohere2", "gpt-oss"):
        keys["attention.sliding_window"] = c["sliding_window"]
    if architecture == "gemma2":
        keys["attn_logit_softcapping"] = c["attn_logit_softcapping"]
        keys["final_logit_softcapping"] = c["final_logit_softcapping"]
    if architecture.startswith("lfm2") or architecture == "granitehybrid":
        keys["attention.head_count_kv"] = [
            c["num_key_value_heads"] * kind.endswith("attention") for kind in c["layer_types"]
        ]
    if architecture == "granitehybrid":
        keys |= {
            "ssm.conv_kernel": c["mamba_d_conv"],
            "ssm.state_size": c["mamba_d_state"],
            "ssm.group_count": c["mamba_n_groups"],
            "ssm.inner_size": c["mamba_expand"] * hidden,
            "ssm.time_step_rank": c["mamba_n_heads"],
            "rope.scaling.finetuned": False,
            "context_length": 1 << 20,
        }
    if architecture.startswith("lfm2"):
        keys["shortconv.l_cache"] = c["conv_L_cache"]
        keys["vocab_size"] = c["vocab_size"]
    if architecture == "lfm2":
        multiple = c["block_multiple_of"]
        keys["feed_forward_length"] = -(-(2 * c["intermediate_size"] // 3) // multiple) * multiple
    if granite:
        keys["attention.scale"] = float(c["attention_multiplier"])
        keys["embedding_scale"] = float(c["embedding_multiplier"])
        keys["residual_scale"] = float(c["residual_multiplier"])
        keys["logit_scale"] = float(c["logits_scaling"])
    keys |= expert_metadata(architecture, c)
    keys |= delta_metadata(architecture, c)
    return {
        "general.type": "model",
        "general.name": "tiny",
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        **{f"{architecture}.{key}": value for key, value in keys.items()},
    }


def rope_tensors(architecture: str, c: Mapping[str, Any]) -> dict[str, Sequence[float]]:
    """Return the tensors that scale rotary frequencies, by name."""
    scaling = c.get("rope_scaling") or {}
    if architecture == "phi3" and scaling:
        return {
            "rope_factors_long": scaling["long_factor"],
            "rope_factors_short": scaling["short_factor"],
        }
    if scaling.get("rope_type") == "llama3":
        width = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
        return {"rope_freqs": llama3_divisors(width, c["rope_theta"], scaling)}
    return {}


def llama3_divisors(width: int, theta: float, scaling: Mapping[str, Any]) -> list[float]:
    """Return how much Llama 3's scheme stretches each wavelength."""
    low, high, factor = (scaling[key] for key in ("low_freq_factor", "high_freq_factor", "factor"))
    divisors = []
    for exponent in range(0, width, 2):
        turns = scaling["original_max_position_embeddings"] * theta ** (-exponent / width)
        kept = min(max((turns / (2 * math.pi) - low) / (high - low), 0.0), 1.0)
        divisors.append(1 / (kept + (1 - kept) / factor))
    return divisors
