"""Families that are what others are but for a few settings: small checkpoints of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gpu_check import family_configs
from gpu_check.family_configs import CONTEXT, HUNYUAN, MINISTRAL3, WINDOW

from .family import EVERY_BIAS, QK_NORM, QKV_BIAS, Family, Off, bypassed, settings, zeroed


def brief(
    name: str,
    off: Mapping[str, Off] = MappingProxyType({}),
    *,
    within: str | None = None,
    gguf: bool = True,
    rounded: bool = False,
    left_out: Sequence[str] = (),
    **changed: Any,
) -> Family:
    """Return the family of a model that is also checked on a GPU, with what is changed of it.

    What its products are made of is no other than in families that are compared at all precisions.

    Args:
        name: The model.
        off: How to turn each of its peculiarities off.
        within: Type of a model that it is a part of, beside a vision model.
        gguf: Whether a GGUF file can say all of this.
        rounded: Compare it at ``int4`` as well, and from blocks of a GGUF file.
        left_out: Keys that older checkpoints do not have.
        changed: Configuration that differs from the model's.
    """
    config = {**family_configs.CONFIGS[name], **changed}
    kind = within or config.pop("model_type")
    precisions = ("int4",) if rounded else ()
    return Family(kind, config, off, left_out, gguf, precisions=precisions, blocks=rounded)


BRIEF_FAMILIES: Mapping[str, Family] = {
    "mistral-small": brief("mistral", within="mistral3", sliding_window=None),
    "ministral": brief(
        "ministral", {"windows": settings(layer_types=["full_attention"] * 4)}, gguf=False
    ),
    "ministral-3": brief(
        "ministral3",
        {
            "scaling": settings(rope_scaling={**MINISTRAL3, "factor": 1.0}),
            "mscale": settings(rope_scaling={**MINISTRAL3, "mscale": None}),
            "growth": settings(rope_scaling={**MINISTRAL3, "llama_4_scaling_beta": 0.0}),
        },
        within="mistral3",
        rounded=True,
    ),
    "qwen2-vl": brief("qwen2_vl_text", within="qwen2_vl"),
    "qwen2.5-vl": brief("qwen2_5_vl_text", within="qwen2_5_vl"),
    "qwen3-vl": brief("qwen3_vl_text", within="qwen3_vl"),
    "olmo3": brief(
        "olmo3",
        {
            **QK_NORM,
            "windows": settings(layer_types=["full_attention"] * 4),
            "scaling": settings(rope_scaling={"rope_type": "default"}),
        },
    ),
    "exaone4": brief(
        "exaone4",
        {
            **QK_NORM,
            "windows": settings(sliding_window=CONTEXT),
            "no rope": settings(layer_types=["sliding_attention"] * 4, sliding_window=CONTEXT),
        },
    ),
    "exaone4-small": brief(
        "exaone4",
        num_hidden_layers=2,
        layer_types=["full_attention"] * 2,
        sliding_window=None,
        tie_word_embeddings=True,
        rope_scaling=None,
    ),
    "seed-oss": brief("seed_oss", {**QKV_BIAS, "o bias": zeroed(r"o_proj\.bias$")}),
    "arcee": brief(
        "arcee",
        {"square": settings(hidden_act="relu"), "scaling": settings(rope_scaling=None)},
        rounded=True,
    ),
    "ernie4.5": brief("ernie4_5", EVERY_BIAS),
    "glm": brief("glm", {"partial rotary": settings(partial_rotary_factor=1.0)}),
    "glm4": brief(
        "glm4",
        {
            **QKV_BIAS,
            "partial rotary": settings(partial_rotary_factor=1.0),
            "attention's norm": bypassed("post_self_attn_layernorm"),
            "mlp's norm": bypassed("post_mlp_layernorm"),
        },
        rounded=True,
    ),
    "hunyuan": brief(
        "hunyuan_v1_dense",
        {
            "q norm": bypassed("query_layernorm"),
            "k norm": bypassed("key_layernorm"),
            "alpha": settings(rope_scaling={**HUNYUAN, "alpha": 10.0}),
        },
        rounded=True,
    ),
    "helium": brief("helium", QKV_BIAS, gguf=False),
    "cohere": brief("cohere", {"logit scale": settings(logit_scale=1.0)}, rounded=True),
    "cohere2": brief(
        "cohere2",
        {
            "windows": settings(sliding_window=CONTEXT),
            "no rope": settings(layer_types=["sliding_attention"] * 4, sliding_window=CONTEXT),
        },
        left_out=("layer_types",),
    ),
    "starcoder2": brief(
        "starcoder2",
        {
            **QKV_BIAS,
            "o bias": zeroed(r"o_proj\.bias$"),
            "up bias": zeroed(r"c_fc\.bias$"),
            "down bias": zeroed(r"c_proj\.bias$"),
            "tanh of gelu": settings(hidden_act="gelu"),
        },
    ),
    "starcoder2-window": brief("starcoder2", gguf=False, sliding_window=WINDOW),
    "stablelm": brief("stablelm", QKV_BIAS),
    "stablelm-parallel": brief("stablelm", use_parallel_residual=True, use_qkv_bias=False),
    "nemotron": brief(
        "nemotron",
        {
            "square": settings(hidden_act="relu"),
            "partial rotary": settings(partial_rotary_factor=1.0),
            "norm bias": zeroed(r"input_layernorm\.bias$"),
        },
    ),
}
"""By the name tests show."""
