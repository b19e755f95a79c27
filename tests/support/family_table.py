"""Every family: small checkpoints of it, and the peculiarities that must matter to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from gpu_check import family_configs
from gpu_check.family_configs import CONTEXT, LLAMA3, ORIGINAL_CONTEXT, WINDOW, YARN, long_rope

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


@dataclass(frozen=True, slots=True)
class Off:
    """How to turn one peculiarity of a model off; what it computes must then change.

    Attributes:
        settings: Configuration to change.
        zeroed: Pattern of parameters to set to zero.
        bypassed: Pattern of modules that return what they are given.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    zeroed: str | None = None
    bypassed: str | None = None


def zeroed(pattern: str) -> Off:
    return Off(zeroed=pattern)


def bypassed(pattern: str) -> Off:
    return Off(bypassed=pattern)


def settings(**changed: Any) -> Off:
    return Off(settings=changed)


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of checkpoint.

    Attributes:
        model_type: As in ``config.json``.
        config: What differs from ``BASE``.
        off: By name, how to turn each of its peculiarities off.
        left_out: Keys that ``transformers`` writes and older checkpoints do not have.
        gguf: Whether a GGUF file can say all of this.
        renamed: Prefixes of tensors to replace, where checkpoints come with other names.
        precisions: At which its fidelity is measured, besides ``fp32``.
        blocks: Whether it is measured from a GGUF file's blocks.
    """

    model_type: str
    config: Mapping[str, Any] = field(default_factory=dict)
    off: Mapping[str, Off] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    gguf: bool = True
    renamed: Mapping[str, str] = field(default_factory=dict)
    precisions: Sequence[str] = ("fp16", "bf16", "int8", "int4")
    blocks: bool = True

    @property
    def experts(self) -> bool:
        """Whether its layers have experts, which run on CPUs alone."""
        return not {"num_experts", "num_local_experts"}.isdisjoint(self.config)


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


def brief(
    model_type: str,
    config: Mapping[str, Any],
    off: Mapping[str, Off] = MappingProxyType({}),
    *,
    gguf: bool = True,
    rounded: bool = False,
    blocks: bool = False,
    left_out: Sequence[str] = (),
) -> Family:
    """Return a family that is compared at ``fp32``, and where it is ``rounded`` at ``int4``.

    What its products are made of is no other than in families that are compared at all precisions.
    """
    precisions = ("int4",) if rounded else ()
    return Family(model_type, config, off, left_out, gguf, precisions=precisions, blocks=blocks)


QKV_BIAS = {f"{name} bias": zeroed(rf"{name}_proj\.bias$") for name in "qkv"}
QK_NORM = {"q norm": bypassed("q_norm"), "k norm": bypassed("k_norm")}
EVERY_BIAS = {
    f"{name} bias": zeroed(rf"{name}_proj\.bias$") for name in ("q", "k", "v", "o", "gate", "up")
} | {"down bias": zeroed(r"down_proj\.bias$")}
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

ALTERNATING = ["sliding_attention", "full_attention"] * 2
MINISTRAL3_ROPE: Mapping[str, Any] = {
    **YARN,
    "beta_fast": 16.0,
    "beta_slow": 2.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.6,
    "llama_4_scaling_beta": 0.8,
}
MINISTRAL3: Mapping[str, Any] = {
    "model_type": "ministral3",
    "head_dim": 32,
    "sliding_window": None,
    "rope_theta": 1e6,
    "rope_scaling": MINISTRAL3_ROPE,
}

HUNYUAN_ROPE: Mapping[str, Any] = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}
STABLELM: Mapping[str, Any] = {
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "partial_rotary_factor": 0.25,
}

FAMILIES: Mapping[str, Family] = {
    "llama": checked("llama"),
    "llama-tied": Family("llama", {"tie_word_embeddings": True, "head_dim": 32}),
    "llama-3": checked("llama-3", {"scaling": settings(rope_scaling=None)}),
    "llama-biases": Family("llama", {"attention_bias": True, "mlp_bias": True}, EVERY_BIAS),
    "mistral": checked("mistral", {"window": settings(sliding_window=None)}, gguf=False),
    "mistral-nemo": checked("mistral", sliding_window=None),
    "mistral-small": brief("mistral3", {"head_dim": 32, "sliding_window": None}),
    "ministral": brief(
        "ministral",
        {
            "num_hidden_layers": 4,
            "layer_types": ALTERNATING,
            "sliding_window": WINDOW,
            "head_dim": 32,
        },
        {"windows": settings(layer_types=["full_attention"] * 4)},
        gguf=False,
    ),
    "ministral-3": brief(
        "mistral3",
        MINISTRAL3,
        {
            "scaling": settings(rope_scaling={**MINISTRAL3_ROPE, "factor": 1.0}),
            "mscale": settings(rope_scaling={**MINISTRAL3_ROPE, "mscale": None}),
            "temperature": settings(rope_scaling={**MINISTRAL3_ROPE, "llama_4_scaling_beta": 0.0}),
        },
        rounded=True,
    ),
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
    "olmo3": brief(
        "olmo3",
        {
            "num_hidden_layers": 4,
            "sliding_window": WINDOW,
            "layer_types": ALTERNATING,
            "rope_theta": 5e5,
            "rope_scaling": {**YARN, "attention_factor": 1.1},
        },
        {
            **QK_NORM,
            "windows": settings(layer_types=["full_attention"] * 4),
            "scaling": settings(rope_scaling={"rope_type": "default"}),
        },
    ),
    "exaone4": brief(
        "exaone4",
        {
            "num_hidden_layers": 4,
            "head_dim": 32,
            "sliding_window": WINDOW,
            "sliding_window_pattern": "LLLG",
            "layer_types": [*["sliding_attention"] * 3, "full_attention"],
            "rope_theta": 1e6,
            "rope_scaling": LLAMA3,
        },
        {
            **QK_NORM,
            "windows": settings(sliding_window=CONTEXT),
            "no rope": settings(layer_types=["sliding_attention"] * 4, sliding_window=CONTEXT),
        },
    ),
    "exaone4-small": brief(
        "exaone4",
        {
            "sliding_window": None,
            "layer_types": ["full_attention"] * 2,
            "tie_word_embeddings": True,
            "head_dim": 32,
        },
    ),
    "seed-oss": brief(
        "seed_oss",
        {"attention_bias": True, "attention_out_bias": True, "head_dim": 32},
        {**QKV_BIAS, "o bias": zeroed(r"o_proj\.bias$")},
    ),
    "arcee": brief(
        "arcee",
        {"rope_scaling": YARN},
        {"square": settings(hidden_act="relu"), "scaling": settings(rope_scaling=None)},
        blocks=True,
        rounded=True,
    ),
    "ernie4.5": brief("ernie4_5", {"use_bias": True, "head_dim": 32}, EVERY_BIAS),
    "glm": brief("glm", {"head_dim": 32}, {"partial rotary": settings(partial_rotary_factor=1.0)}),
    "glm4": brief(
        "glm4",
        {"head_dim": 32, "attention_bias": True},
        {
            **QKV_BIAS,
            "partial rotary": settings(partial_rotary_factor=1.0),
            "attention's norm": bypassed("post_self_attn_layernorm"),
            "mlp's norm": bypassed("post_mlp_layernorm"),
        },
        blocks=True,
        rounded=True,
    ),
    "hunyuan": brief(
        "hunyuan_v1_dense",
        {"head_dim": 32, "rope_scaling": HUNYUAN_ROPE, "tie_word_embeddings": True},
        {
            "q norm": bypassed("query_layernorm"),
            "k norm": bypassed("key_layernorm"),
            "alpha": settings(rope_scaling={**HUNYUAN_ROPE, "alpha": 10.0}),
        },
        rounded=True,
    ),
    "helium": brief("helium", {"head_dim": 16, "attention_bias": True}, QKV_BIAS, gguf=False),
    "cohere": brief(
        "cohere",
        {"logit_scale": 0.5, "tie_word_embeddings": True},
        {"logit scale": settings(logit_scale=1.0)},
        rounded=True,
    ),
    "cohere2": brief(
        "cohere2",
        {
            "num_hidden_layers": 4,
            "sliding_window": WINDOW,
            "logit_scale": 0.5,
            "tie_word_embeddings": True,
        },
        {
            "windows": settings(sliding_window=CONTEXT),
            "no rope": settings(layer_types=["sliding_attention"] * 4, sliding_window=CONTEXT),
        },
        left_out=("layer_types",),
    ),
    "starcoder2": brief(
        "starcoder2",
        {"tie_word_embeddings": True},
        {
            **QKV_BIAS,
            "o bias": zeroed(r"o_proj\.bias$"),
            "up bias": zeroed(r"c_fc\.bias$"),
            "down bias": zeroed(r"c_proj\.bias$"),
            "tanh of gelu": settings(hidden_act="gelu"),
        },
    ),
    "starcoder2-window": brief("starcoder2", {"sliding_window": WINDOW}, gguf=False),
    "stablelm": brief("stablelm", {**STABLELM, "use_qkv_bias": True}, QKV_BIAS),
    "stablelm-parallel": brief(
        "stablelm",
        {**STABLELM, "use_parallel_residual": True},
    ),
    "nemotron": brief(
        "nemotron",
        {"head_dim": 32},
        {
            "square": settings(hidden_act="relu"),
            "partial rotary": settings(partial_rotary_factor=1.0),
            "norm bias": zeroed(r"input_layernorm\.bias$"),
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
    "olmo2-grouped": Family("olmo2", off=QK_NORM),
}
"""Every family and what its members differ in, by the name tests show."""

FOR_GPUS: Mapping[str, Family] = {
    name: family for name, family in FAMILIES.items() if not family.experts
}
"""Those that may be compiled for GPUs."""
