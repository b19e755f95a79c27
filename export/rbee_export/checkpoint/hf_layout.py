"""How ``transformers`` lays each family out: its ``config.json``, and its names for weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rbee_export.checkpoint import hf_gpt_oss
from rbee_export.checkpoint.config import Attention, DecoderConfig, DeltaNet, Mamba2
from rbee_export.checkpoint.hf_delta_net import OF_HEADS, PARAMETERS
from rbee_export.checkpoint.hf_experts import GRANITE, QWEN_STACKED
from rbee_export.checkpoint.hf_families import FAMILIES, FUSED
from rbee_export.checkpoint.hf_granite_hybrid import FUSED as FUSED_GRANITE
from rbee_export.checkpoint.hf_granite_hybrid import PARAMETERS as MAMBA_PARAMETERS
from rbee_export.checkpoint.hf_rope import read_rope
from rbee_export.checkpoint.hf_short_convolution import PARAMETERS as LFM2_PARAMETERS
from rbee_export.checkpoint.layout import (
    Stored,
    rotary_order,
    rows_of,
    rows_of_heads,
    rows_of_mamba,
    split_name,
)
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import CheckpointError, UnsupportedModel, shown

_INNER = {
    "attention_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "o": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_SHARED = {*FUSED.values(), GRANITE["expert_gate"], QWEN_STACKED["expert_gate"], FUSED_GRANITE}
_PARAMETERS = PARAMETERS | LFM2_PARAMETERS | MAMBA_PARAMETERS
_OF_EXPERTS = ("expert_gate", "expert_up", "expert_down")
_STEMS = ("model.", "language_model.model.", "model.language_model.")
"""What names begin with; the longer ones where a vision model stands beside the decoder."""

_WRAPPERS: Mapping[str, Mapping[str, Any]] = {
    "gemma3": {"model_type": "gemma3_text", "vocab_size": 262208},
    "mistral3": {"model_type": "mistral"},
    "lfm2_vl": {"model_type": "lfm2"},
    **{
        kind: {"model_type": f"{kind}_text"}
        for kind in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen3_5_moe")
    },
}
"""Types with a decoder beside a vision model, and what its ``text_config`` may leave out."""


def read_config(file: Path, settings: Mapping[str, Any]) -> DecoderConfig:
    """Read a ``config.json``.

    Raises:
        CheckpointError: It contradicts itself.
        UnsupportedModel: The model type, or something it asks for, is not known here.
    """
    kind = settings.get("model_type")
    if kind is None:
        raise CheckpointError(f"{file}: has no model_type; is this a model directory?")
    if isinstance(kind, str) and kind in _WRAPPERS:
        settings = _of_text(settings, _WRAPPERS[kind])
        kind = settings["model_type"]
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UnsupportedModel(
            f"{file.parent}: model type {shown(kind)} is not supported; "
            "docs/export.md lists what is"
        )
    family = FAMILIES[kind]
    own = family.settings.items()
    settings = {**settings, **{name: settings[key] for key, name in own if key in settings}}
    number = Numbers(str(file), settings)
    heads, hidden = number.whole("num_attention_heads"), number.whole("hidden_size")
    layers = number.layers("num_hidden_layers")
    head_dim = number.whole("head_dim", hidden // max(heads, 1))
    context_length = number.whole("max_position_embeddings", 2048)
    narrow = number.whole("moe_intermediate_size", 0)
    rope = read_rope(
        file,
        settings,
        head_dim=head_dim,
        theta=family.theta,
        context_length=context_length,
        share=family.rotary_share,
    )
    plain = DecoderConfig(
        family=kind.removesuffix("_text"),
        layers=layers,
        hidden=hidden,
        intermediate=number.whole("intermediate_size", narrow or None),
        heads=heads,
        kv_heads=number.whole("num_key_value_heads", heads),
        head_dim=head_dim,
        vocab=number.whole("vocab_size"),
        context_length=context_length,
        norm_epsilon=number.real("rms_norm_eps", 1e-6),
        attention=(Attention(rope),) * layers,
        tied_embedding=bool(settings.get("tie_word_embeddings", family.tied)),
        qkv_bias=bool(settings.get("attention_bias")),
        o_bias=bool(settings.get("attention_bias")),
        mlp_bias=bool(settings.get("mlp_bias")),
    )
    config = family.knobs(plain, number)
    act = settings.get("hidden_activation") or settings.get("hidden_act", "silu")
    if act not in family.activations and "hidden_act" in settings:
        raise UnsupportedModel(f"{file.parent}: activation {act!r} is not supported for {kind}")
    return config


def _of_text(settings: Mapping[str, Any], known: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the settings of a model that also sees say of its decoder."""
    text = settings.get("text_config")
    if not isinstance(text, dict):
        # The first of them have it all in one.
        return {**settings, **known} if "hidden_size" in settings else settings
    outer = {key: settings[key] for key in ("tie_word_embeddings",) if key in settings}
    return {**known, **outer, **text}


def locate(name: str, c: DecoderConfig, stored: Collection[str]) -> Stored:
    """Return where the weight of a canonical name is kept, among the names that there are."""
    family = FAMILIES.get(c.family) or FAMILIES[f"{c.family}_text"]
    layer, short, suffix = split_name(name)
    stem = next((s for s in _STEMS if f"{s}embed_tokens.weight" in stored), _STEMS[0])
    offset = short.endswith("norm") and short != "delta_norm" and suffix == "weight"
    add = family.norm_offset if offset else 0.0
    if layer is None:
        final = family.names.get("final_norm", "norm")
        outer = {
            "embedding": f"{stem}embed_tokens",
            "final_norm": f"{stem}{final}",
            "lm_head": "language_model.lm_head" if stem == _STEMS[1] else "lm_head",
        }
        return Stored(f"{outer[short]}.{suffix}", add=add)
    if c.family == hf_gpt_oss.FAMILY:
        place = hf_gpt_oss.locate(f"{stem}layers.{layer}.", short, suffix, c, stored)
        if place is not None:
            return place
    inner, parameters = {**_INNER, **family.names}[short], _PARAMETERS
    if f"{stem}layers.{layer}.{QWEN_STACKED.get(short)}" in stored:
        inner = QWEN_STACKED[short]
        parameters |= {inner}
    rows = rows_of(short, c) if inner in _SHARED else None
    group = None
    if isinstance(c.mixer, Mamba2):
        rows = rows_of_mamba(short, c.mixer) or rows
    if isinstance(c.mixer, DeltaNet) and inner in OF_HEADS:
        rows, group = rows_of_heads(OF_HEADS[inner], short, c, c.mixer)
    experts = c.experts.count if c.experts and short in _OF_EXPERTS else None
    name = f"{stem}layers.{layer}.{inner}"
    if inner not in parameters:
        name = f"{name}.{suffix}"
    logarithm = short in ("delta_decay", "mamba_decay")
    order = rotary_order(short, c) if family.pairs_together else None
    return Stored(name, rows, order, add, experts, logarithm, group)
