"""What each family that ``transformers`` knows makes of a plain decoder's configuration."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from rbee_export.checkpoint.config import DecoderConfig
from rbee_export.checkpoint.hf_delta_net import with_delta_net
from rbee_export.checkpoint.hf_experts import with_experts, with_narrow_experts, without_clipping
from rbee_export.checkpoint.hf_granite_hybrid import with_mamba, with_shared_mlp
from rbee_export.checkpoint.hf_rope import read_rope
from rbee_export.checkpoint.hf_windows import (
    every_but,
    rotated,
    sliding,
    windowed,
    windows_alone_rotate,
)
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.checkpoint.rope import Rope
from rbee_export.checkpoint.temperature import Temperature
from rbee_export.errors import UnsupportedModel


def llama(c: DecoderConfig, _: Numbers) -> DecoderConfig:
    """Return it as it is."""
    return c


def mistral(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """All layers have a window, unless it says which."""
    return windowed(c, number, lambda _: True)


def ministral3(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Queries grow with their position."""
    return mistral(replace(c, temperature=_temperature(c, number)), number)


def _temperature(c: DecoderConfig, number: Numbers) -> Temperature | None:
    # Beside the rotary parameters, whose original context it is counted in.
    nested = number.settings.get("rope_parameters") or number.settings.get("rope_scaling") or {}
    rope = Numbers(number.source, nested)
    beta = rope.maybe("llama_4_scaling_beta")
    if beta is None:
        return None
    return Temperature(beta, rope.positions("original_max_position_embeddings", c.context_length))


def qwen2(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Queries, keys and values have biases; the upper layers may have a window."""
    c = replace(c, qkv_bias=True, o_bias=False)
    return _qwen_window(c, number)


def qwen3(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Heads of queries and keys are normalised."""
    return _qwen_window(replace(c, qk_norm="head"), number)


def _qwen_window(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    if not number.settings.get("use_sliding_window"):
        return c
    full = number.whole("max_window_layers", 28)
    return windowed(c, number, lambda layer: layer >= full)


def gemma(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """The embedding is scaled."""
    return replace(
        c,
        activation="gelu_tanh",
        embedding_scale=math.sqrt(number.factor("hidden_size")),
        overflows_fp16=True,
    )


def _capped_gemma(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    return replace(
        gemma(c, number),
        post_norm=True,
        attention_scale=number.factor("query_pre_attn_scalar", c.head_dim) ** -0.5,
        attention_cap=number.maybe("attn_logit_softcapping"),
        logits_cap=number.maybe("final_logit_softcapping"),
    )


def gemma2(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Every second layer has a window; scores and logits are capped."""
    return windowed(_capped_gemma(c, number), number, lambda layer: layer % 2 == 0)


def gemma3(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Layers with a window, five of six, have a rotary base of their own."""
    every = max(number.whole("sliding_window_pattern", 6), 1)
    both_ways = bool(number.settings.get("use_bidirectional_attention"))
    c = replace(_capped_gemma(c, number), qk_norm="head", causal=not both_ways)
    slides = sliding(c, number, lambda layer: (layer + 1) % every != 0)
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
    return windowed(replace(c, attention=attention), number, slides.__getitem__)


def _local_rope(number: Numbers) -> dict[str, Any]:
    """Return the settings of the rotary embedding of Gemma 3's windowed layers."""
    nested = number.settings.get("rope_parameters")
    if isinstance(nested, dict) and "sliding_attention" in nested:
        return {"rope_parameters": nested}
    return {"rope_theta": number.real("rope_local_base_freq", 10000.0)}


def smollm3(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Every fourth layer has no positions."""
    if number.settings.get("use_sliding_window"):
        c = windowed(c, number, lambda _: False)
    every = number.whole("no_rope_layer_interval", 4)
    rotates = number.list_of("no_rope_layers", c.layers) or tuple(
        float((layer + 1) % max(every, 1) != 0) for layer in range(c.layers)
    )
    return rotated(c, [bool(turns) for turns in rotates])


def granite(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Everything is scaled."""
    return replace(
        c,
        embedding_scale=number.real("embedding_multiplier", 1.0),
        residual_scale=number.real("residual_multiplier", 1.0),
        attention_scale=number.real("attention_multiplier", 1.0),
        logits_scale=1.0 / number.factor("logits_scaling", 1.0),
    )


def olmo2(c: DecoderConfig, _: Numbers) -> DecoderConfig:
    """Norms come after branches, and on the whole of queries and of keys."""
    return replace(c, pre_norm=False, post_norm=True, qk_norm="whole")


def olmo3(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Three of four layers have a window, and their rotary embedding is not scaled."""
    slides = sliding(c, number, every_but(4))
    attention = tuple(
        replace(a, rope=_unscaled(c, number)) if slid else a
        for a, slid in zip(c.attention, slides, strict=True)
    )
    return windowed(olmo2(replace(c, attention=attention), number), number, slides.__getitem__)


def _unscaled(c: DecoderConfig, number: Numbers) -> Rope:
    """Return the rotary embedding of windowed layers, which scaling is not for."""
    nested = number.settings.get("rope_parameters")
    own = nested if isinstance(nested, dict) and "sliding_attention" in nested else None
    theta = number.above(1, "rope_theta", 10000.0)
    return read_rope(
        Path(number.source),
        {"rope_parameters": own} if own else {},
        head_dim=c.head_dim,
        theta=theta,
        context_length=c.context_length,
        kind="sliding_attention",
    )


def exaone4(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Norms come after branches; where layers have a window, the others have no positions."""
    c = replace(c, pre_norm=False, post_norm=True, qk_norm="head")
    return windows_alone_rotate(c, number)


def seed_oss(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Queries, keys and values have biases, and the output projection where it is said."""
    return replace(
        c,
        qkv_bias=bool(number.settings.get("attention_bias", True)),
        o_bias=bool(number.settings.get("attention_out_bias")),
    )


def arcee(c: DecoderConfig, _: Numbers) -> DecoderConfig:
    """MLPs are plain, and square their activation."""
    return replace(c, activation="relu2", gated=False)


def ernie4_5(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """One setting gives every projection a bias."""
    biased = bool(number.settings.get("use_bias"))
    return replace(c, qkv_bias=biased, o_bias=biased, mlp_bias=biased)


def glm(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Queries, keys and values have biases."""
    biased = bool(number.settings.get("attention_bias", True))
    return replace(c, qkv_bias=biased, o_bias=False)


def glm4(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Branches end with a norm as well, which has them grow: llama.cpp sums them in float32."""
    return replace(glm(c, number), post_norm=True, overflows_fp16=True)


def hunyuan(c: DecoderConfig, _: Numbers) -> DecoderConfig:
    """Heads of queries and keys are normalised once they are rotated."""
    return replace(c, qk_norm="head", qk_norm_last=True)


def helium(c: DecoderConfig, _: Numbers) -> DecoderConfig:
    """The output projection of attention has no bias."""
    return replace(c, o_bias=False)


def mixtral(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """All layers have experts."""
    return with_experts(mistral(c, number), number)


def qwen2_moe(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Some layers have experts, and one more that every token gets."""
    if number.settings.get("use_sliding_window"):
        raise UnsupportedModel(f"{number.source}: use_sliding_window is not supported")
    c = replace(c, qkv_bias=bool(number.settings.get("qkv_bias", True)), o_bias=False)
    return with_narrow_experts(c, number, shared=True)


def qwen3_moe(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Some layers have experts."""
    c = replace(c, qk_norm="head")
    if number.settings.get("use_sliding_window"):
        c = windowed(c, number, lambda _: True)
    return with_narrow_experts(c, number)


def olmoe(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """All layers have experts."""
    c = replace(without_clipping(c, number), qk_norm="whole")
    return with_narrow_experts(c, number)


def granite_moe(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """All layers have experts; everything is scaled."""
    return with_experts(granite(c, number), number)


def granite_shared(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Beside the experts every token gets an MLP, or there is that alone."""
    return with_shared_mlp(granite(c, number), number)


def granite_hybrid(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """The same, and most layers have state spaces."""
    return with_mamba(granite_shared(c, number), number)


def qwen3_next(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Three of four layers have DeltaNets; most have experts, and one that every token gets."""
    c = with_delta_net(c, number)
    if number.settings.get("num_experts") == 0:
        return c
    known = {"norm_topk_prob": True, **number.settings}
    return with_narrow_experts(c, replace(number, settings=known), shared=True)
