"""How ``transformers`` says that layers have gated DeltaNets, and its names for their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from rbee_export.checkpoint.config import DecoderConfig, DeltaNet
from rbee_export.checkpoint.hf_experts import QWEN
from rbee_export.checkpoint.hf_layer_kinds import ATTENDS, layers_of
from rbee_export.checkpoint.layout import OfHeads
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import CheckpointError, UnsupportedModel

MOST_HEADS, MOST_WIDE, MOST_TAPS = 4096, 4096, 64
"""No model has so many."""

_COMMON = {
    "q_gate": "self_attn.q_proj",
    "delta_conv": "linear_attn.conv1d",
    "delta_decay": "linear_attn.A_log",
    "delta_step": "linear_attn.dt_bias",
    "delta_norm": "linear_attn.norm",
    "delta_o": "linear_attn.out_proj",
}
QWEN3_NEXT: Mapping[str, str] = MappingProxyType(
    {
        **QWEN,
        **_COMMON,
        **{f"delta_{part}": "linear_attn.in_proj_qkvz" for part in "qkvz"},
        **{f"delta_{part}": "linear_attn.in_proj_ba" for part in "ba"},
    }
)
QWEN3_5: Mapping[str, str] = MappingProxyType(
    {
        **_COMMON,
        **{f"delta_{part}": "linear_attn.in_proj_qkv" for part in "qkv"},
        **{f"delta_{part}": f"linear_attn.in_proj_{part}" for part in "zba"},
    }
)
QWEN3_5_MOE: Mapping[str, str] = MappingProxyType({**QWEN, **QWEN3_5})

PARAMETERS = frozenset({"linear_attn.A_log", "linear_attn.dt_bias"})
"""What is no module with a ``weight``, but one itself."""

OF_HEADS: Mapping[str, OfHeads] = MappingProxyType(
    {
        "self_attn.q_proj": "q",
        "linear_attn.in_proj_qkvz": "qkvz",
        "linear_attn.in_proj_qkv": "qkv",
        "linear_attn.in_proj_ba": "ba",
    }
)
"""Tensors that hold rows of several weights, most of them one head after another."""


def with_delta_net(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Return the configuration of a decoder that attends in some layers only, behind gates.

    Raises:
        CheckpointError: It contradicts itself.
        UnsupportedModel: It has biases.
    """
    if number.settings.get("attention_bias"):
        raise UnsupportedModel(f"{number.source}: attention_bias is not supported")
    net = DeltaNet(
        key_heads=number.count("linear_num_key_heads", MOST_HEADS, 16),
        value_heads=number.count("linear_num_value_heads", MOST_HEADS, 32),
        key_dim=number.count("linear_key_head_dim", MOST_WIDE, 128),
        value_dim=number.count("linear_value_head_dim", MOST_WIDE, 128),
        taps=number.count("linear_conv_kernel_dim", MOST_TAPS, 4),
        layers=_linear_layers(c, number),
    )
    if net.value_heads % net.key_heads:
        raise CheckpointError(
            f"{number.source}: {net.value_heads} heads of values cannot share {net.key_heads} of "
            "keys"
        )
    return replace(c, qk_norm="head", output_gate=True, mixer=net)


def _linear_layers(c: DecoderConfig, number: Numbers) -> frozenset[int]:
    kind, default = "linear_attention", []
    if number.settings.get("layer_types") is None:
        every = number.count("full_attention_interval", c.layers + 1, 4)
        default = [kind if (i + 1) % every else ATTENDS for i in range(c.layers)]
    return layers_of(kind, c, number, default)
