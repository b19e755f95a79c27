"""The families that ``transformers`` knows: what each ``model_type`` makes of a plain decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rbee_export.checkpoint.config import DecoderConfig
from rbee_export.checkpoint.hf_experts import (
    GRANITE,
    MIXTRAL,
    QWEN,
    with_experts,
    with_narrow_experts,
    without_clipping,
)
from rbee_export.checkpoint.hf_rope import read_rope
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import CheckpointError, UnsupportedModel

_POST_NORMS = {
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
_PHI = {"o": "self_attn.dense", "up": "mlp.fc1", "down": "mlp.fc2"}
FUSED: Mapping[str, str] = {
    **dict.fromkeys(("q", "k", "v"), "self_attn.qkv_proj"),
    **dict.fromkeys(("gate", "up"), "mlp.gate_up_proj"),
}
_SILUS = ("silu", "swish")
_GELUS = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")


@dataclass(frozen=True, slots=True)
class Family:
    """One ``model_type``.

    Attributes:
        knobs: Turns the plain decoder's configuration into this family's.
        names: Names of weights that differ from Llama's.
        tied: Whether the embedding is the output projection where the configuration is silent.
        norm_offset: What a stored norm weight lacks.
        theta: Rotary base where the configuration is silent.
        rotary_share: Part of each head that is rotated where the configuration is silent.
        activations: Names the configuration may give to the family's activation.
    """

    knobs: Callable[[DecoderConfig, Numbers], DecoderConfig]
    names: Mapping[str, str] = field(default_factory=dict)
    tied: bool = False
    norm_offset: float = 0.0
    theta: float = 10000.0
    rotary_share: float = 1.0
    activations: tuple[str, ...] = _SILUS


def _sliding(c: DecoderConfig, number: Numbers, default: Callable[[int], bool]) -> tuple[bool, ...]:
    """Return which layers have a window: those listed, or those for which ``default`` holds."""
    kinds = number.settings.get("layer_types")
    if kinds is None:
        return tuple(default(layer) for layer in range(c.layers))
    if not isinstance(kinds, list) or len(kinds) != c.layers:
        raise CheckpointError(f"{number.source}: layer_types does not list {c.layers} layers")
    return tuple(kind == "sliding_attention" for kind in kinds)


def _windowed(c: DecoderConfig, number: Numbers, default: Callable[[int], bool]) -> DecoderConfig:
    """Limit the layers that have a window to the latest positions."""
    if number.settings.get("sliding_window") is None:
        return c
    window = number.whole("sliding_window")
    if window < 1:
        raise CheckpointError(f"{number.source}: sliding_window is {window}")
    if not c.causal:
        # Half of it lies before a token, half behind.
        window = window // 2 + 1
    if window >= c.context_length:
        return c
    attention = tuple(
        replace(a, window=window) if slides else a
        for a, slides in zip(c.attention, _sliding(c, number, default), strict=True)
    )
    return replace(c, attention=attention)


def _llama(c: DecoderConfig, _: Numbers) -> DecoderConfig:
    return c


def _mistral(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    return _windowed(c, number, lambda _: True)


def _qwen2(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    c = replace(c, qkv_bias=True, o_bias=False)
    return _qwen_window(c, number)


def _qwen3(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    return _qwen_window(replace(c, qk_norm="head"), number)


def _qwen_window(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    if not number.settings.get("use_sliding_window"):
        return c
    full = number.whole("max_window_layers", 28)
    return _windowed(c, number, lambda layer: layer >= full)


def _phi(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    if number.settings.get("qk_layernorm"):
        raise UnsupportedModel(f"{number.source}: qk_layernorm is not supported for phi")
    return replace(
        c,
        norm="layer",
        norm_epsilon=number.real("layer_norm_eps", 1e-5),
        parallel=True,
        activation="gelu_tanh",
        gated=False,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        head_bias=True,
    )


def _gemma(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    return replace(
        c,
        activation="gelu_tanh",
        embedding_scale=math.sqrt(number.factor("hidden_size")),
        overflows_fp16=True,
    )


def _capped_gemma(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    return replace(
        _gemma(c, number),
        post_norm=True,
        attention_scale=number.factor("query_pre_attn_scalar", c.head_dim) ** -0.5,
        attention_cap=number.maybe("attn_logit_softcapping"),
        logits_cap=number.maybe("final_logit_softcapping"),
    )


def _gemma2(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    return _windowed(_capped_gemma(c, number), number, lambda layer: layer % 2 == 0)


def _gemma3(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    every = max(number.whole("sliding_window_pattern", 6), 1)
    both_ways = bool(number.settings.get("use_bidirectional_attention"))
    c = replace(_capped_gemma(c, number), qk_norm="head", causal=not both_ways)
    slides = _sliding(c, number, lambda layer: (layer + 1) % every != 0)
    local = read_rope(
        Path(number.source),
        _local_rope(number),
        head_dim=c.head_dim,
        theta=10000.0,
        context_length=c.context_length,
        kind="sliding_attention",
    )
    attention = tuple(
        replace(a, rope=local) if slid else a for a, slid in zip(c.attention, slides, strict=True)
    )
    return _windowed(replace(c, attention=attention), number, slides.__getitem__)


def _local_rope(number: Numbers) -> dict[str, Any]:
    """Return the settings of the rotary embedding of Gemma 3's windowed layers."""
    nested = number.settings.get("rope_parameters")
    if isinstance(nested, dict) and "sliding_attention" in nested:
        return {"rope_parameters": nested}
    return {"rope_theta": number.real("rope_local_base_freq", 10000.0)}


def _smollm3(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    if number.settings.get("use_sliding_window"):
        c = _windowed(c, number, lambda _: False)
    every = number.whole("no_rope_layer_interval", 4)
    rotated = number.list_of("no_rope_layers", c.layers) or tuple(
        float((layer + 1) % max(every, 1) != 0) for layer in range(c.layers)
    )
    attention = tuple(
        a if turns else replace(a, rope=None) for a, turns in zip(c.attention, rotated, strict=True)
    )
    return replace(c, attention=attention)


def _granite(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    return replace(
        c,
        embedding_scale=number.real("embedding_multiplier", 1.0),
        residual_scale=number.real("residual_multiplier", 1.0),
        attention_scale=number.real("attention_multiplier", 1.0),
        logits_scale=1.0 / number.factor("logits_scaling", 1.0),
    )


def _olmo2(c: DecoderConfig, _: Numbers) -> DecoderConfig:
    return replace(c, pre_norm=False, post_norm=True, qk_norm="whole")


def _mixtral(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    return with_experts(_mistral(c, number), number)


def _qwen2_moe(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    if number.settings.get("use_sliding_window"):
        raise UnsupportedModel(f"{number.source}: use_sliding_window is not supported")
    c = replace(c, qkv_bias=bool(number.settings.get("qkv_bias", True)), o_bias=False)
    return with_narrow_experts(c, number, shared=True)


def _qwen3_moe(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    c = replace(c, qk_norm="head")
    if number.settings.get("use_sliding_window"):
        c = _windowed(c, number, lambda _: True)
    return with_narrow_experts(c, number)


def _olmoe(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    c = replace(without_clipping(c, number), qk_norm="whole")
    return with_narrow_experts(c, number)


def _granite_moe(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    return with_experts(_granite(c, number), number)


# The first Gemmas say ``gelu`` and mean its approximation.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": Family(_llama),
        "mistral": Family(_mistral),
        "qwen2": Family(_qwen2),
        "qwen3": Family(_qwen3),
        "phi": Family(_phi, _PHI, rotary_share=0.5, activations=_GELUS),
        "phi3": Family(_mistral, FUSED),
        "gemma": Family(_gemma, tied=True, norm_offset=1.0, activations=(*_GELUS, "gelu")),
        "gemma2": Family(_gemma2, _POST_NORMS, tied=True, norm_offset=1.0, activations=_GELUS),
        "gemma3_text": Family(
            _gemma3, _POST_NORMS, tied=True, norm_offset=1.0, theta=1e6, activations=_GELUS
        ),
        "smollm3": Family(_smollm3, tied=True, theta=2e6),
        "granite": Family(_granite),
        "olmo2": Family(_olmo2, _POST_NORMS),
        "mixtral": Family(_mixtral, MIXTRAL, theta=1e6),
        "qwen2_moe": Family(_qwen2_moe, QWEN),
        "qwen3_moe": Family(_qwen3_moe, QWEN),
        "olmoe": Family(_olmoe, QWEN),
        "granitemoe": Family(_granite_moe, GRANITE),
    }
)
"""What ``model_type`` may be, and what it means."""
