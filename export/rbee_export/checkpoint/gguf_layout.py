"""How llama.cpp lays each family out: a GGUF file's metadata, and its names for weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from rbee_export.checkpoint.config import Attention, DecoderConfig, DeltaNet, Mamba2
from rbee_export.checkpoint.gguf_delta_net import locate_beside
from rbee_export.checkpoint.gguf_experts import NAMES as EXPERT_NAMES
from rbee_export.checkpoint.gguf_experts import with_experts
from rbee_export.checkpoint.gguf_families import (
    ARCHITECTURES,
    NAMES,
    PAIRS_TOGETHER,
    architecture_of,
)
from rbee_export.checkpoint.gguf_granite import locate_mamba
from rbee_export.checkpoint.gguf_header import StoredTensor
from rbee_export.checkpoint.gguf_short_convolution import heads_of_keys
from rbee_export.checkpoint.layout import Stored, rotary_order, rows_of, split_name
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.checkpoint.rope import LongRope, Rope, Yarn, yarn_magnitude
from rbee_export.errors import CheckpointError, UnsupportedModel, shown

Tensors = Mapping[str, StoredTensor]

_OUTER = {"embedding": "token_embd", "final_norm": "output_norm", "lm_head": "output"}
_INNER = {
    "attention_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "sinks": "attn_sinks",
    "o": "attn_output",
    "attention_post_norm": "post_attention_norm",
    "mlp_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "mlp_post_norm": "post_ffw_norm",
    **EXPERT_NAMES,
}
_OF_EXPERTS = ("expert_gate", "expert_up", "expert_down")

_EMBEDDERS = (
    *("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert"),
    *("neo-bert", "eurobert", "gemma-embedding"),
)
"""Architectures of encoders."""


def read_config(path: Path, fields: Mapping[str, object], tensors: Tensors) -> DecoderConfig:
    """Read a GGUF file's metadata.

    Raises:
        CheckpointError: They contradict themselves or the tensors.
        UnsupportedModel: The architecture, or something it asks for, is not known here.
    """
    name = fields.get("general.architecture")
    if name in _EMBEDDERS:
        raise UnsupportedModel(
            f"{path}: {name} is an embedding model, which is not read from GGUF; "
            "give its directory of safetensors"
        )
    if fields.get(f"{name}.pooling_type") or fields.get(f"{name}.attention.causal") is False:
        raise UnsupportedModel(
            f"{path}: this {shown(name)} embeds texts, which is not read from GGUF; "
            "give its directory of safetensors"
        )
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UnsupportedModel(
            f"{path}: architecture {shown(name)} is not supported; docs/export.md lists what is"
        )
    prefix = f"{name}."
    own = {key.removeprefix(prefix): v for key, v in fields.items() if key.startswith(prefix)}
    number = Numbers(str(path), own, prefix)
    architecture = architecture_of(name, number)
    # Layers that predict several tokens at once come last, and are left out.
    layers = number.layers("block_count") - number.whole("nextn_predict_layers", 0)
    if not 0 < layers <= number.layers("block_count"):
        raise CheckpointError(f"{path}: {prefix}nextn_predict_layers is not some of the layers")
    heads = number.whole("attention.head_count")
    hidden = number.whole("embedding_length")
    head_dim = number.whole("attention.key_length", hidden // max(heads, 1))
    if number.whole("attention.value_length", head_dim) != head_dim:
        raise UnsupportedModel(f"{path}: values of another width than keys are not supported")
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{path}: tensor token_embd.weight is missing or no matrix")
    narrow = number.whole("expert_feed_forward_length", 0)
    epsilon = number.maybe("attention.layer_norm_rms_epsilon")
    rope = _rope(path, number, tensors, head_dim)
    plain = DecoderConfig(
        family=architecture.family,
        layers=layers,
        hidden=hidden,
        intermediate=number.whole("feed_forward_length", narrow or None),
        heads=heads,
        kv_heads=heads_of_keys(number, layers, heads),
        head_dim=head_dim,
        vocab=int(embedding.shape[1]),
        context_length=number.whole("context_length"),
        norm_epsilon=epsilon or number.real("attention.layer_norm_epsilon"),
        attention=(Attention(rope),) * layers,
        tied_embedding="output.weight" not in tensors,
        qkv_bias="blk.0.attn_q.bias" in tensors or "blk.0.attn_qkv.bias" in tensors,
        o_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_up.bias" in tensors,
        head_bias="output.bias" in tensors,
    )
    config = architecture.knobs(plain, number)
    if architecture.normalized is None:
        return config
    return with_experts(
        config,
        number,
        tensors,
        normalized=architecture.normalized,
        shared=architecture.shared,
        clamped=architecture.clamped,
        sigmoid=architecture.sigmoid,
    )


def locate(name: str, c: DecoderConfig, stored: Collection[str]) -> Stored:
    """Return where the weight of a canonical name is kept, among the names that there are."""
    layer, short, suffix = split_name(name)
    own = NAMES.get(c.family, {})
    if layer is None:
        return Stored(f"{({**_OUTER, **own})[short]}.{suffix}")
    at = f"blk.{layer}."
    if isinstance(c.mixer, DeltaNet):
        place = locate_beside(at, short, c, c.mixer, stored)
        if place is not None:
            return place
    if isinstance(c.mixer, Mamba2):
        place = locate_mamba(at, short, suffix, c.mixer)
        if place is not None:
            return place
    order = rotary_order(short, c) if c.family in PAIRS_TOGETHER else None
    if short in ("q", "k", "v") and f"{at}attn_qkv.{suffix}" in stored:
        return Stored(f"{at}attn_qkv.{suffix}", rows_of(short, c), order)
    if short in ("gate", "up") and c.gated and f"{at}ffn_gate.{suffix}" not in stored:
        return Stored(f"{at}ffn_up.{suffix}", rows_of(short, c))
    if short in _OF_EXPERTS and c.experts is not None:
        fused = f"{at}ffn_gate_up_exps.{suffix}"
        if fused in stored and short != "expert_down":
            return Stored(fused, rows_of(short, c), experts=c.experts.count)
        return Stored(f"{at}{_INNER[short]}.{suffix}", experts=c.experts.count)
    return Stored(f"{at}{({**_INNER, **own})[short]}.{suffix}", order=order)


def _rope(path: Path, number: Numbers, tensors: Tensors, head_dim: int) -> Rope:
    theta = number.above(1, "rope.freq_base", 10000.0)
    dims = number.whole("rope.dimension_count", head_dim)
    if not 0 < dims <= head_dim:
        raise CheckpointError(f"{path}: rope.dimension_count is {dims}, of a head of {head_dim}")
    kind = number.settings.get("rope.scaling.type", "none")
    short = _divisors(path, tensors, "rope_factors_short.weight", dims)
    long = _divisors(path, tensors, "rope_factors_long.weight", dims)
    if short is not None and long is not None:
        magnitude = number.real("rope.scaling.attn_factor", 1.0)
        original = number.positions("rope.scaling.original_context_length")
        return Rope(theta, dims, LongRope(short, long, original, magnitude))
    divisors = _divisors(path, tensors, "rope_freqs.weight", dims)
    match kind:
        case "none":
            return Rope(theta, dims, divisors=divisors)
        case "linear":
            return Rope(theta, dims, number.factor("rope.scaling.factor"), divisors)
        case "yarn":
            return Rope(theta, dims, _yarn(number), divisors)
        case _:
            raise UnsupportedModel(f"{path}: rope scaling {kind!r} is not supported")


def _yarn(number: Numbers) -> Yarn:
    factor = number.factor("rope.scaling.factor")
    magnitude = number.maybe("rope.scaling.yarn_attn_factor")
    if number.maybe("rope.scaling.yarn_log_multiplier"):
        elsewhere = number.factor("rope.scaling.yarn_log_multiplier")
        magnitude = yarn_magnitude(factor) / yarn_magnitude(factor, elsewhere)
    return Yarn(
        factor,
        number.positions("rope.scaling.original_context_length"),
        number.factor("rope.scaling.yarn_beta_fast", 32.0),
        number.factor("rope.scaling.yarn_beta_slow", 1.0),
        magnitude,
    )


def _divisors(path: Path, tensors: Tensors, name: str, dims: int) -> tuple[float, ...] | None:
    tensor = tensors.get(name)
    if tensor is None:
        return None
    if tensor.data.shape != (dims // 2,) or tensor.tensor_type != 0 or not np.all(tensor.data):
        raise CheckpointError(f"{path}: {name} does not hold {dims // 2} numbers other than zero")
    return tuple(float(divisor) for divisor in tensor.data)
