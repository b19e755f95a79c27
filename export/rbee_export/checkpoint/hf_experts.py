"""How ``transformers`` says that layers have experts, and its names for their weights.

``{}`` in a name is the number of an expert. Where a name has none, one tensor has a dimension more,
for the experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from rbee_export.checkpoint.config import DecoderConfig, Experts
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import CheckpointError, UnsupportedModel

MOST_EXPERTS = 1024
"""In a layer; no model has so many."""

MIXTRAL: Mapping[str, str] = MappingProxyType(
    {
        "router": "block_sparse_moe.gate",
        "expert_gate": "block_sparse_moe.experts.{}.w1",
        "expert_up": "block_sparse_moe.experts.{}.w3",
        "expert_down": "block_sparse_moe.experts.{}.w2",
    }
)
QWEN: Mapping[str, str] = MappingProxyType(
    {
        "router": "mlp.gate",
        "expert_gate": "mlp.experts.{}.gate_proj",
        "expert_up": "mlp.experts.{}.up_proj",
        "expert_down": "mlp.experts.{}.down_proj",
        "shared_gate": "mlp.shared_expert.gate_proj",
        "shared_up": "mlp.shared_expert.up_proj",
        "shared_down": "mlp.shared_expert.down_proj",
        "shared_router": "mlp.shared_expert_gate",
    }
)
QWEN_STACKED: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("expert_gate", "expert_up"), "mlp.experts.gate_up_proj"),
        "expert_down": "mlp.experts.down_proj",
    }
)
"""Names without ``.weight`` of what later checkpoints may have instead: all experts in one."""
GRANITE: Mapping[str, str] = MappingProxyType(
    {
        "router": "block_sparse_moe.router.layer",
        **dict.fromkeys(("expert_gate", "expert_up"), "block_sparse_moe.input_linear"),
        "expert_down": "block_sparse_moe.output_linear",
    }
)


def with_experts(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Return the configuration of Mixtral's kin: every layer has experts, as wide as an MLP."""
    count = number.count("num_local_experts", MOST_EXPERTS)
    experts = Experts(
        count,
        number.count("num_experts_per_tok", count),
        c.intermediate,
        normalized=True,
        layers=frozenset(range(c.layers)),
    )
    return replace(c, experts=experts)


def with_narrow_experts(
    c: DecoderConfig, number: Numbers, *, shared: bool = False
) -> DecoderConfig:
    """Return the configuration of Qwen's kin: some layers have experts, narrower than an MLP.

    Args:
        c: The configuration without them.
        number: The settings.
        shared: Whether every token gets another expert besides.
    """
    count = number.count("num_experts", MOST_EXPERTS)
    layers = _sparse_layers(c, number)
    experts = Experts(
        count,
        number.count("num_experts_per_tok", count),
        number.whole("moe_intermediate_size", c.intermediate),
        normalized=bool(number.settings.get("norm_topk_prob")),
        layers=layers,
        shared=number.whole("shared_expert_intermediate_size") if shared else 0,
    )
    return replace(c, experts=experts if layers else None)


def without_clipping(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Refuse what clips queries, keys and values.

    Raises:
        UnsupportedModel: The settings ask for it.
    """
    if number.settings.get("clip_qkv") is not None:
        raise UnsupportedModel(f"{number.source}: clip_qkv is not supported")
    return c


def _sparse_layers(c: DecoderConfig, number: Numbers) -> frozenset[int]:
    dense = number.settings.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(isinstance(layer, int) for layer in dense):
        raise CheckpointError(f"{number.source}: mlp_only_layers is no list of layers")
    every = number.count("decoder_sparse_step", c.layers, 1)
    return frozenset(i for i in range(c.layers) if (i + 1) % every == 0).difference(dense)
