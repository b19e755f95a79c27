"""How GGUF files say that layers have gated DeltaNets, and llama.cpp's names for their weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType

from rbee_export.checkpoint.config import DecoderConfig, DeltaNet
from rbee_export.checkpoint.hf_delta_net import MOST_HEADS, MOST_TAPS, MOST_WIDE
from rbee_export.checkpoint.layout import OfHeads, Stored, rows_of_heads
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import CheckpointError

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "mlp_norm": "post_attention_norm.weight",
        "q": "attn_q.weight",
        "q_gate": "attn_q.weight",
        **{f"delta_{part}": "attn_qkv.weight" for part in "qkv"},
        "delta_z": "attn_gate.weight",
        "delta_b": "ssm_beta.weight",
        "delta_a": "ssm_alpha.weight",
        "delta_conv": "ssm_conv1d.weight",
        "delta_decay": "ssm_a",
        "delta_step": "ssm_dt.bias",
        "delta_norm": "ssm_norm.weight",
        "delta_o": "ssm_out.weight",
    }
)
_BOTH = "ssm_ba.weight"
"""Where it is there, in the place of ``ssm_beta`` and ``ssm_alpha``."""
_OF_HEADS: Mapping[str, OfHeads] = MappingProxyType(
    {"attn_q.weight": "q", "attn_qkv.weight": "qkv", _BOTH: "ba"}
)


def with_delta_net(c: DecoderConfig, number: Numbers, *, tiled: bool) -> DecoderConfig:
    """Return the configuration of a decoder that attends in some layers only, behind gates.

    Args:
        c: The configuration of one that attends in all.
        number: The metadata.
        tiled: Whether heads of values that share one of keys are apart.

    Raises:
        CheckpointError: The metadata contradict themselves.
    """
    every = number.count("full_attention_interval", c.layers, 4)
    key_heads = number.count("ssm.group_count", MOST_HEADS)
    value_heads = number.count("ssm.time_step_rank", MOST_HEADS)
    width = number.whole("ssm.inner_size")
    if value_heads % key_heads or width % value_heads or every < 2:
        raise CheckpointError(
            f"{number.source}: {number.prefix}ssm.inner_size, time_step_rank and group_count, or "
            "full_attention_interval, contradict one another"
        )
    net = DeltaNet(
        key_heads=key_heads,
        value_heads=value_heads,
        key_dim=number.count("ssm.state_size", MOST_WIDE),
        value_dim=width // value_heads,
        taps=number.count("ssm.conv_kernel", MOST_TAPS),
        layers=frozenset(i for i in range(c.layers) if (i + 1) % every),
        tiled=tiled,
    )
    return replace(c, qk_norm="head", output_gate=True, mixer=net)


def locate_beside(
    at: str, short: str, c: DecoderConfig, net: DeltaNet, stored: Collection[str]
) -> Stored | None:
    """Return where a weight is whose name other models do not have, or have for something else.

    Args:
        at: What the names of the layer's tensors begin with.
        short: The weight's short name.
        c: The model's configuration.
        net: Its DeltaNets.
        stored: The names that there are.
    """
    name = _NAMES.get(short)
    if name is None:
        return None
    if short in ("delta_b", "delta_a") and at + _BOTH in stored:
        name = _BOTH
    if name not in _OF_HEADS:
        return Stored(at + name)
    rows, group = rows_of_heads(_OF_HEADS[name], short, c, net)
    return Stored(at + name, rows, group=group)
