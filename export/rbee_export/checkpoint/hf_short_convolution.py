"""How ``transformers`` lays LFM2 out: its configuration, and its names for weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from rbee_export.checkpoint.config import DecoderConfig, Experts, ShortConvolution
from rbee_export.checkpoint.hf_delta_net import MOST_TAPS
from rbee_export.checkpoint.hf_experts import MOST_EXPERTS
from rbee_export.checkpoint.hf_layer_kinds import ATTENDS, layers_of
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import CheckpointError, UnsupportedModel

LFM2: Mapping[str, str] = MappingProxyType(
    {
        "attention_norm": "operator_norm",
        "q_norm": "self_attn.q_layernorm",
        "k_norm": "self_attn.k_layernorm",
        "o": "self_attn.out_proj",
        "conv_in": "conv.in_proj",
        "conv_filters": "conv.conv",
        "conv_o": "conv.out_proj",
        "mlp_norm": "ffn_norm",
        "gate": "feed_forward.w1",
        "up": "feed_forward.w3",
        "down": "feed_forward.w2",
        "final_norm": "embedding_norm",
    }
)
LFM2_MOE: Mapping[str, str] = MappingProxyType(
    {
        **LFM2,
        "router": "feed_forward.gate",
        "choice": "feed_forward.expert_bias",
        "expert_gate": "feed_forward.experts.{}.w1",
        "expert_up": "feed_forward.experts.{}.w3",
        "expert_down": "feed_forward.experts.{}.w2",
    }
)
SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "norm_eps": "rms_norm_eps",
        "theta": "rope_theta",
        "block_ff_dim": "intermediate_size",
        "tie_embedding": "tie_word_embeddings",
    }
)
"""What other models call what its settings are called, which prevail."""

PARAMETERS = frozenset({"feed_forward.expert_bias"})
"""What is no module with a ``weight`` or a ``bias``, but one itself."""


def lfm2(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Most layers have short convolutions; MLPs may be narrower than it is said."""
    c = _with_convolutions(c, number)
    if not number.settings.get("block_auto_adjust_ff_dim", True):
        return c
    multiple = number.count("block_multiple_of", 1 << 20, 256)
    width = int(number.real("block_ffn_dim_multiplier", 1.0) * int(2 * c.intermediate / 3))
    return replace(c, intermediate=-(-width // multiple) * multiple)


def lfm2_moe(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """The same, and all layers but the first few have experts.

    Raises:
        CheckpointError: It contradicts itself.
        UnsupportedModel: It asks for something that is not known here.
    """
    c = _with_convolutions(c, number)
    if number.real("routed_scaling_factor", 1.0) != 1:
        raise UnsupportedModel(
            f"{number.source}: a routed_scaling_factor other than 1 is not supported"
        )
    if not number.settings.get("use_expert_bias", True):
        raise UnsupportedModel(f"{number.source}: use_expert_bias has to be true")
    dense = number.whole("num_dense_layers", 2)
    if not 0 <= dense < c.layers:
        raise CheckpointError(f"{number.source}: num_dense_layers is not some of the layers")
    count = number.count("num_experts", MOST_EXPERTS, 32)
    experts = Experts(
        count,
        number.count("num_experts_per_tok", count, min(4, count)),
        number.whole("moe_intermediate_size"),
        normalized=bool(number.settings.get("norm_topk_prob", True)),
        layers=frozenset(range(dense, c.layers)),
        sigmoid=True,
    )
    return replace(c, experts=experts)


def _with_convolutions(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    if number.settings.get("conv_bias"):
        raise UnsupportedModel(f"{number.source}: conv_bias is not supported")
    # The first of them name the layers that attend.
    attends = number.settings.get("full_attn_idxs")
    listed = attends if isinstance(attends, list) else range(c.layers)
    default = [ATTENDS if i in listed else "conv" for i in range(c.layers)]
    taps = number.count("conv_L_cache", MOST_TAPS, 3)
    net = ShortConvolution(c.hidden, taps, layers_of("conv", c, number, default))
    return replace(c, qk_norm="head", norm_epsilon=number.real("rms_norm_eps", 1e-5), mixer=net)
