"""How ``transformers`` lays Granite 4 out: its configuration, and its names for weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from rbee_export.checkpoint.config import DecoderConfig, Mamba2
from rbee_export.checkpoint.hf_delta_net import MOST_HEADS, MOST_TAPS, MOST_WIDE
from rbee_export.checkpoint.hf_experts import GRANITE, with_experts
from rbee_export.checkpoint.hf_layer_kinds import ATTENDS, layers_of
from rbee_export.checkpoint.hf_windows import rotated
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import CheckpointError, UnsupportedModel

FUSED = "shared_mlp.input_linear"
"""Gate and the other projection of the MLP that every token gets."""

GRANITE_SHARED: Mapping[str, str] = MappingProxyType(
    {
        **GRANITE,
        **dict.fromkeys(("gate", "up", "shared_gate", "shared_up"), FUSED),
        **dict.fromkeys(("down", "shared_down"), "shared_mlp.output_linear"),
    }
)
GRANITE_HYBRID: Mapping[str, str] = MappingProxyType(
    {
        **GRANITE_SHARED,
        **dict.fromkeys(("mamba_in", "mamba_dt"), "mamba.in_proj"),
        "mamba_conv": "mamba.conv1d",
        "mamba_decay": "mamba.A_log",
        "mamba_step": "mamba.dt_bias",
        "mamba_skip": "mamba.D",
        "mamba_norm": "mamba.norm",
        "mamba_o": "mamba.out_proj",
    }
)

_MAMBA = "linear_attention"
_NEWER: Mapping[str, str] = MappingProxyType({"mamba": _MAMBA, "attention": ATTENDS})
"""What later versions call the kinds of layers."""

PARAMETERS = frozenset({"mamba.A_log", "mamba.dt_bias", "mamba.D"})
"""What is no module with a ``weight``, but one itself."""


def with_shared_mlp(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Return the configuration of a decoder with experts beside an MLP, or with that alone."""
    shared = number.whole("shared_intermediate_size", 1024)
    if not number.whole("num_local_experts", 8):
        return replace(c, intermediate=shared)
    c = with_experts(c, number)
    assert c.experts is not None
    return replace(c, experts=replace(c.experts, shared=shared, shared_weighed=False))


def with_mamba(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Return that of one in which some layers have state spaces, and others attend.

    Raises:
        CheckpointError: It contradicts itself.
        UnsupportedModel: It asks for something that is not known here.
    """
    if number.settings.get("position_embedding_type") != "rope":
        c = rotated(c, [False] * c.layers)
    kinds = number.settings.get("layer_types")
    if isinstance(kinds, list):
        kinds = [_NEWER.get(kind, kind) if isinstance(kind, str) else kind for kind in kinds]
        number = replace(number, settings={**number.settings, "layer_types": kinds})
    if kinds == [ATTENDS] * c.layers:
        return c
    served = {"mamba_n_groups": 1, "mamba_conv_bias": True, "mamba_proj_bias": False}
    for key, known in served.items():
        if number.settings.get(key, known) != known:
            raise UnsupportedModel(f"{number.source}: {key} other than {known} is not supported")
    width = number.count("mamba_expand", MOST_HEADS, 2) * c.hidden
    heads = number.count("mamba_n_heads", MOST_HEADS, 128)
    if width % heads:
        raise CheckpointError(
            f"{number.source}: mamba_n_heads {heads} does not divide a width of {width}"
        )
    net = Mamba2(
        heads=heads,
        head_dim=width // heads,
        state_dim=number.count("mamba_d_state", MOST_WIDE, 256),
        taps=number.count("mamba_d_conv", MOST_TAPS, 4),
        layers=layers_of(_MAMBA, c, number, [_MAMBA] * c.layers),
    )
    return replace(c, mixer=net)
