"""Every family: small checkpoints of it, and the peculiarities that must matter to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gpu_check import family_configs
from gpu_check.family_configs import CONTEXT, ORIGINAL_CONTEXT, WINDOW, YARN, long_rope

from .brief_families import BRIEF_FAMILIES
from .family import (
    EVERY_BIAS,
    QK_NORM,
    QKV_BIAS,
    Family,
    Off,
    attributes,
    bypassed,
    settings,
    zeroed,
)
from .tiny_tokenizer import END_OF_TEXT, IM_END, IM_START, VOCAB

BASE: Mapping[str, Any] = {
    **family_configs.BASE,
    "vocab_size": VOCAB,
    "bos_token_id": IM_START,
    "eos_token_id": [IM_END, END_OF_TEXT],
    "pad_token_id": END_OF_TEXT,
    # Far wider than models start with, so that attention attends and the best token stands out.
    "initializer_range": 0.2,
}


def checked(
    name: str,
    off: Mapping[str, Off] = MappingProxyType({}),
    *,
    left_out: Sequence[str] = (),
    gguf: bool = True,
    renamed: Mapping[str, str] = MappingProxyType({}),
    **changed: Any,
) -> Family:
    """Return the family of a model that is also checked on a GPU, with what is changed of it."""
    config = {**family_configs.CONFIGS[name], **changed}
    return Family(config.pop("model_type"), config, off, left_out, gguf, renamed)


GEMMA2_OFF: Mapping[str, Off] = {
    "attention cap": settings(attn_logit_softcapping=None),
    "final cap": settings(final_logit_softcapping=None),
    "windows": settings(layer_types=["full_attention"] * 4),
    "alternation": settings(layer_types=["full_attention", "sliding_attention"] * 2),
    "query scale": settings(query_pre_attn_scalar=16),
    "attention's norm": bypassed("post_attention_layernorm"),
    "mlp's norm": bypassed("post_feedforward_layernorm"),
    "tanh of gelu": settings(hidden_activation="gelu"),
}
GEMMA3_OFF: Mapping[str, Off] = {
    **QK_NORM,
    "windows": settings(layer_types=["full_attention"] * 7),
    "local base": settings(rope_local_base_freq=1e6),
    "query scale": settings(query_pre_attn_scalar=16),
}
PHI3_MINI_4: Mapping[str, Any] = {
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
    "partial_rotary_factor": 0.75,
    "original_max_position_embeddings": ORIGINAL_CONTEXT,
    "sliding_window": 8 * CONTEXT,
    "rope_scaling": long_rope(24),
    "initializer_range": 0.15,
}

DELTA_NET: Mapping[str, Any] = {
    "num_hidden_layers": 4,
    "head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 32,
    # What little the first tokens read is brought to length 1, with what was rounded of it.
    "initializer_range": 0.1,
}

SHORT_CONVOLUTIONS: Mapping[str, Any] = {
    "num_hidden_layers": 4,
    "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    "rope_theta": 1e6,
}

GRANITE: Mapping[str, Any] = {
    "tie_word_embeddings": True,
    "embedding_multiplier": 4.0,
    "attention_multiplier": 0.4,
    "residual_multiplier": 0.6,
    "logits_scaling": 2.0,
    "shared_intermediate_size": 64,
}
MAMBA: Mapping[str, Any] = {
    "num_hidden_layers": 4,
    "layer_types": ["mamba", "attention", "mamba", "mamba"],
    "position_embedding_type": "nope",
    "mamba_n_heads": 4,
    "mamba_d_state": 16,
    # How transformers goes through a text, which takes the square of it.
    "mamba_chunk_size": 32,
}

GPT_OSS_YARN = {**YARN, "truncate": False}

FAMILIES: Mapping[str, Family] = {
    "llama": checked("llama"),
    "llama-tied": Family("llama", {"tie_word_embeddings": True, "head_dim": 32}),
    "llama-3": checked("llama-3", {"scaling": settings(rope_scaling=None)}),
    "llama-biases": Family("llama", {"attention_bias": True, "mlp_bias": True}, EVERY_BIAS),
    "mistral": checked("mistral", {"window": settings(sliding_window=None)}, gguf=False),
    "mistral-nemo": checked("mistral", sliding_window=None),
    "qwen2": checked("qwen2", QKV_BIAS),
    "qwen2-yarn": checked(
        "qwen2-yarn",
        {
            "scaling": settings(rope_scaling=None),
            "attention factor": settings(rope_scaling={**YARN, "attention_factor": 1.0}),
        },
    ),
    "qwen2-windows": Family(
        "qwen2",
        {
            "num_hidden_layers": 4,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 2,
        },
        {
            "windows": settings(layer_types=["full_attention"] * 4),
            "first layers without": settings(layer_types=["sliding_attention"] * 4),
        },
        left_out=("layer_types",),
        gguf=False,
    ),
    "qwen3": checked("qwen3", QK_NORM),
    "phi": checked(
        "phi",
        {
            **QKV_BIAS,
            "o bias": zeroed(r"dense\.bias$"),
            "up bias": zeroed(r"fc1\.bias$"),
            "down bias": zeroed(r"fc2\.bias$"),
            "norm bias": zeroed(r"input_layernorm\.bias$"),
            "final norm bias": zeroed(r"final_layernorm\.bias$"),
            "head bias": zeroed(r"lm_head\.bias$"),
            "partial rotary": settings(partial_rotary_factor=1.0),
            "tanh of gelu": settings(hidden_act="gelu"),
        },
        initializer_range=0.15,
    ),
    "phi3": checked("phi3", {"window": settings(sliding_window=None)}),
    "phi3-longrope": checked(
        "phi3-longrope",
        {
            "scaling": settings(rope_scaling=None),
            "long factors": settings(
                rope_scaling={**long_rope(8), "long_factor": long_rope(8)["short_factor"]}
            ),
            "attention factor": settings(rope_scaling={**long_rope(8), "attention_factor": 1.0}),
        },
    ),
    "phi3-mini-4": Family("phi3", PHI3_MINI_4, {"scaling": settings(rope_scaling=None)}),
    "gemma": checked("gemma", {"tanh of gelu": settings(hidden_act="gelu")}),
    "gemma2": checked("gemma2", GEMMA2_OFF, left_out=("layer_types",)),
    # The largest Gemma 2 scales queries by something else than the width of a head. GGUF does
    # not say so: llama.cpp goes by the number of layers.
    "gemma2-27b": checked(
        "gemma2",
        {"query scale": settings(query_pre_attn_scalar=32)},
        gguf=False,
        query_pre_attn_scalar=12,
    ),
    "gemma3": checked(
        "gemma3_text",
        {**GEMMA3_OFF, "global scaling": settings(rope_scaling=None)},
        left_out=("layer_types",),
        model_type="gemma3",
    ),
    "gemma3-renamed": checked(
        "gemma3_text",
        renamed={
            "language_model.model.": "model.language_model.",
            "language_model.lm_head": "lm_head",
            "vision_tower.": "model.vision_tower.",
            "multi_modal_projector.": "model.multi_modal_projector.",
        },
        model_type="gemma3",
    ),
    "gemma3-text": checked("gemma3_text", GEMMA3_OFF, rope_scaling=None),
    "smollm3": checked(
        "smollm3",
        {
            "no rope": settings(no_rope_layers=[1] * 5),
            "rope elsewhere": settings(no_rope_layers=[0] * 5),
        },
        left_out=("layer_types",),
    ),
    "granite": checked(
        "granite",
        {
            "embedding scale": settings(embedding_multiplier=1.0),
            "attention scale": settings(attention_multiplier=0.25),
            "residual scale": settings(residual_multiplier=1.0),
            "logit scale": settings(logits_scaling=1.0),
        },
    ),
    "olmo2": checked(
        "olmo2",
        {
            **QK_NORM,
            "attention's norm": bypassed("post_attention_layernorm"),
            "mlp's norm": bypassed("post_feedforward_layernorm"),
        },
    ),
    "mixtral": Family(
        "mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "rope_theta": 1e6}
    ),
    "qwen2-moe": Family(
        "qwen2_moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 64,
        },
        {
            **QKV_BIAS,
            "shared expert": zeroed(r"shared_expert\.down_proj"),
            "shared expert's router": zeroed(r"shared_expert_gate"),
            "sum of weights": settings(norm_topk_prob=True),
        },
    ),
    "qwen3-moe": Family(
        "qwen3_moe",
        {
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            "head_dim": 32,
        },
        {**QK_NORM, "sum of weights": settings(norm_topk_prob=False)},
    ),
    "qwen3-moe-mixed": Family(
        "qwen3_moe",
        {
            "num_hidden_layers": 5,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [2, 3],
        },
        {"sum of weights": settings(norm_topk_prob=True)},
        gguf=False,
    ),
    "olmoe": Family(
        "olmoe",
        {"num_experts": 8, "num_experts_per_tok": 4},
        {**QK_NORM, "sum of weights": settings(norm_topk_prob=True)},
    ),
    "granite-moe": Family(
        "granitemoe",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "tie_word_embeddings": True,
            "embedding_multiplier": 4.0,
            "attention_multiplier": 0.4,
            "residual_multiplier": 0.6,
            "logits_scaling": 2.0,
        },
    ),
    "gpt-oss": Family(
        "gpt_oss",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 32,
            "sliding_window": WINDOW,
            "rope_scaling": GPT_OSS_YARN,
        },
        {
            **{f"{name} bias": zeroed(rf"{name}_proj\.bias$") for name in "qkvo"},
            "sinks": attributes(sinks=-1e9),
            "windows": settings(layer_types=["full_attention"] * 2),
            "alternation": settings(layer_types=["full_attention", "sliding_attention"]),
            "scaling": settings(rope_scaling=None),
            "bounds that are no whole pairs": settings(
                rope_scaling={**GPT_OSS_YARN, "truncate": True}
            ),
            "router bias": zeroed(r"router\.bias$"),
            "gate and up bias": zeroed("gate_up_proj_bias$"),
            "down bias": zeroed("down_proj_bias$"),
            "clamps": attributes(limit=1e9),
            "steepness": attributes(alpha=1.0),
        },
        left_out=("layer_types",),
    ),
    "olmo2-grouped": Family("olmo2", off=QK_NORM),
    "qwen3-next": Family(
        "qwen3_next",
        {
            **DELTA_NET,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 64,
        },
        {
            **QK_NORM,
            "partial rotary": settings(partial_rotary_factor=1.0),
            "decay": zeroed("A_log"),
            "step": zeroed("dt_bias"),
            "shared expert": zeroed(r"shared_expert\.down_proj"),
            "sum of weights": settings(norm_topk_prob=False),
        },
        left_out=("layer_types",),
    ),
    "qwen3-next-dense": Family("qwen3_next", {**DELTA_NET, "mlp_only_layers": [0, 1, 2, 3]}),
    "granite-moe-shared": Family(
        "granitemoeshared",
        {**GRANITE, "num_local_experts": 4, "num_experts_per_tok": 2},
        {"shared": zeroed(r"shared_mlp\.output_linear")},
        precisions=(),
        blocks=False,
    ),
    "granite-4": Family(
        "granitemoehybrid",
        {**GRANITE, **MAMBA, "num_local_experts": 4, "num_experts_per_tok": 2},
        {
            "shared": zeroed(r"shared_mlp\.output_linear"),
            "filters": zeroed(r"conv1d\.weight"),
            "conv bias": zeroed(r"conv1d\.bias"),
            "decay": zeroed("A_log"),
            "step": zeroed("dt_bias"),
            "skip": zeroed(r"mamba\.D"),
            "no positions": settings(position_embedding_type="rope"),
        },
    ),
    "granite-4-dense": Family(
        "granitemoehybrid",
        {**GRANITE, **MAMBA, "num_local_experts": 0},
        precisions=(),
        blocks=False,
    ),
    "granite-4-micro": Family(
        "granitemoehybrid",
        {
            **GRANITE,
            "num_local_experts": 0,
            "layer_types": ["attention"] * 2,
            "position_embedding_type": "rope",
        },
        {"positions": settings(position_embedding_type="nope")},
        precisions=(),
        blocks=False,
    ),
    "lfm2": Family(
        "lfm2",
        {
            **SHORT_CONVOLUTIONS,
            # Two thirds of it, in whole multiples.
            "intermediate_size": 128,
            "block_multiple_of": 32,
            "tie_word_embeddings": True,
        },
        {
            "q norm": bypassed("q_layernorm"),
            "k norm": bypassed("k_layernorm"),
            "filters": zeroed(r"conv\.conv"),
        },
    ),
    "lfm2-moe": Family(
        "lfm2_moe",
        {
            **SHORT_CONVOLUTIONS,
            "conv_L_cache": 4,
            "num_dense_layers": 1,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "tie_word_embeddings": True,
        },
        {
            "what experts are chosen by": zeroed("expert_bias"),
            "sum of weights": settings(norm_topk_prob=False),
        },
    ),
    **BRIEF_FAMILIES,
}
"""Every family and what its members differ in, by the name tests show."""

FOR_GPUS: Mapping[str, Family] = {
    name: family for name, family in FAMILIES.items() if family.for_gpus
}
"""Those that may be compiled for GPUs."""
