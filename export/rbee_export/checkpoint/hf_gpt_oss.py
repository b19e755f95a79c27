"""How ``transformers`` lays gpt-oss out: its configuration, and its names for weights.

``gate_up_proj`` is ``[experts, hidden, 2 * intermediate]``, inputs first, columns of gate and of
its other projection by turns. In 4 bits, as published, it has outputs first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType

from rbee_export.checkpoint.config import DecoderConfig
from rbee_export.checkpoint.hf_experts import with_experts
from rbee_export.checkpoint.hf_windows import windowed
from rbee_export.checkpoint.layout import Stored
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import UnsupportedModel

FAMILY = "gpt_oss"

BLOCKS, SCALES = "_blocks", "_scales"
"""What the names of the two tensors end with that 4-bit matrices are in."""

LIMIT = 7.0
"""What clamps the experts, which ``transformers`` has no setting for."""

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "sinks": "self_attn.sinks",
        "router": "mlp.router",
        **dict.fromkeys(("expert_gate", "expert_up"), "mlp.experts.gate_up_proj"),
        "expert_down": "mlp.experts.down_proj",
    }
)
_BY_TURNS = {"expert_gate": 0, "expert_up": 1}


def gpt_oss(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """All layers have sinks, biases and clamped experts; every second has a window.

    Raises:
        UnsupportedModel: The experts are clamped by another number.
    """
    if number.real("swiglu_limit", LIMIT) != LIMIT:
        raise UnsupportedModel(f"{number.source}: a swiglu_limit other than 7 is not supported")
    biased = bool(number.settings.get("attention_bias", True))
    attention = tuple(replace(a, sinks=True) for a in c.attention)
    c = replace(c, attention=attention, qkv_bias=biased, o_bias=biased)
    c = with_experts(windowed(c, number, lambda layer: layer % 2 == 0), number)
    assert c.experts is not None
    return replace(c, experts=replace(c.experts, clamped=True))


def locate(
    layer: str, short: str, suffix: str, c: DecoderConfig, stored: Collection[str]
) -> Stored | None:
    """Return where a weight of the experts or the sinks is; ``None`` for one of another.

    Args:
        layer: What names of its layer begin with.
        short: The weight's canonical name within it.
        suffix: ``weight`` or ``bias``.
        c: The configuration.
        stored: Names of the tensors.
    """
    if short == "sinks":
        return Stored(layer + NAMES[short])
    if not short.startswith("expert_") or c.experts is None:
        return None
    width = c.experts.intermediate
    rows = slice(_BY_TURNS[short], 2 * width, 2) if short in _BY_TURNS else None
    name, count = layer + NAMES[short], c.experts.count
    if suffix == "bias":
        return Stored(f"{name}_bias", rows, experts=count)
    if name + BLOCKS in stored:
        return Stored(name + BLOCKS, rows, experts=count)
    return Stored(name, rows, experts=count, inputs_first=True)
