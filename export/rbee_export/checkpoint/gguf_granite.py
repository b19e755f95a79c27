"""How llama.cpp lays Granite out: its metadata, and its names for the weights of state spaces.

Layers that have state spaces have no heads of keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from rbee_export.checkpoint.config import DecoderConfig, Mamba2
from rbee_export.checkpoint.gguf_short_convolution import layers_without_heads
from rbee_export.checkpoint.hf_delta_net import MOST_HEADS, MOST_TAPS, MOST_WIDE
from rbee_export.checkpoint.hf_windows import rotated
from rbee_export.checkpoint.layout import Stored, rows_of_mamba
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import CheckpointError, UnsupportedModel

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "mamba_in": "ssm_in.weight",
        "mamba_dt": "ssm_in.weight",
        "mamba_conv": "ssm_conv1d.weight",
        "mamba_conv_bias": "ssm_conv1d.bias",
        "mamba_decay": "ssm_a",
        "mamba_step": "ssm_dt.bias",
        "mamba_skip": "ssm_d",
        "mamba_norm": "ssm_norm.weight",
        "mamba_o": "ssm_out.weight",
    }
)

VECTORS = (".mamba_decay", ".mamba_skip", ".mamba_norm")
"""What files have as matrices of one row or column."""


def granite(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Everything is scaled; a hybrid's layers that attend have no positions."""
    if number.settings.get("rope.scaling.finetuned") is False:
        c = rotated(c, [False] * c.layers)
    if not number.whole("expert_count", 0):
        # Granite 4 calls its only MLP one beside experts.
        shared = number.whole("expert_shared_feed_forward_length", c.intermediate)
        c = replace(c, intermediate=shared)
    return replace(
        c,
        embedding_scale=number.maybe("embedding_scale") or 1.0,
        residual_scale=number.maybe("residual_scale") or 1.0,
        attention_scale=number.maybe("attention.scale"),
        logits_scale=1.0 / number.factor("logit_scale", 1.0),
    )


def granite_hybrid(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Layers without heads of keys have state spaces.

    Raises:
        CheckpointError: The metadata contradict themselves.
        UnsupportedModel: They ask for something that is not known here.
    """
    if number.whole("ssm.group_count", 1) != 1:
        raise UnsupportedModel(
            f"{number.source}: {number.prefix}ssm.group_count other than 1 is not supported"
        )
    heads, width = number.count("ssm.time_step_rank", MOST_HEADS), number.whole("ssm.inner_size")
    if width % heads or width < 1:
        raise CheckpointError(
            f"{number.source}: {number.prefix}ssm.inner_size and time_step_rank contradict one "
            "another"
        )
    net = Mamba2(
        heads=heads,
        head_dim=width // heads,
        state_dim=number.count("ssm.state_size", MOST_WIDE),
        taps=number.count("ssm.conv_kernel", MOST_TAPS),
        layers=layers_without_heads(c, number),
    )
    return replace(granite(c, number), mixer=net)


def locate_mamba(at: str, short: str, suffix: str, net: Mamba2) -> Stored | None:
    """Return where a weight of a state space is; ``None`` for one of something else.

    Args:
        at: What the names of the layer's tensors begin with.
        short: The weight's short name.
        suffix: ``weight`` or ``bias``.
        net: The state spaces.
    """
    name = _NAMES.get(f"{short}_bias" if suffix == "bias" else short)
    return None if name is None else Stored(at + name, rows_of_mamba(short, net))
