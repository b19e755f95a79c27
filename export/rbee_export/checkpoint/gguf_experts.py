"""How GGUF files say that layers have experts, and llama.cpp's names for their weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType

from rbee_export.checkpoint.config import DecoderConfig, Experts
from rbee_export.checkpoint.hf_experts import MOST_EXPERTS
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import CheckpointError, UnsupportedModel

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "router": "ffn_gate_inp",
        "choice": "exp_probs_b",
        "expert_gate": "ffn_gate_exps",
        "expert_up": "ffn_up_exps",
        "expert_down": "ffn_down_exps",
        "shared_gate": "ffn_gate_shexp",
        "shared_up": "ffn_up_shexp",
        "shared_down": "ffn_down_shexp",
        "shared_router": "ffn_gate_inp_shexp",
    }
)

_SOFTMAX, _SIGMOID = 1, 2
"""Of ``expert_gating_func``."""


def with_experts(
    c: DecoderConfig,
    number: Numbers,
    stored: Collection[str],
    *,
    normalized: bool,
    shared: bool = False,
    clamped: bool = False,
    sigmoid: bool = False,
) -> DecoderConfig:
    """Return a configuration whose layers all have experts, or all but the first few.

    Args:
        c: The configuration without them.
        number: The metadata.
        stored: Names of the tensors.
        normalized: Whether weights are divided by their sum where the metadata are silent.
        shared: Whether every token gets another expert besides.
        clamped: Whether they have biases and are clamped.
        sigmoid: Whether their weights are sigmoids.

    Raises:
        CheckpointError: The metadata contradict themselves.
        UnsupportedModel: They ask for something that is not known here.
    """
    if "blk.0.ffn_gate.0.weight" in stored:
        raise UnsupportedModel(
            f"{number.source}: holds each expert in a tensor of its own, as files before April "
            "2024 do; convert the model again"
        )
    gating = _SIGMOID if sigmoid else _SOFTMAX
    for key, known in (("expert_gating_func", gating), ("expert_weights_scale", 1)):
        if number.real(key, known) not in (0, known):
            raise UnsupportedModel(f"{number.source}: {number.prefix}{key} is not supported")
    count = number.count("expert_count", MOST_EXPERTS)
    active = number.count("expert_used_count", count)
    dense = number.whole("leading_dense_block_count", 0)
    if not 0 <= dense < c.layers:
        raise CheckpointError(
            f"{number.source}: {number.prefix}leading_dense_block_count is not some of the layers"
        )
    # The first files of Qwen2 do not say how wide the experts are.
    narrow = c.intermediate // active if shared else c.intermediate
    experts = Experts(
        count,
        active,
        number.whole("expert_feed_forward_length", narrow),
        normalized=bool(number.settings.get("expert_weights_norm", normalized)),
        layers=frozenset(range(dense, c.layers)),
        # Granite's is not weighed, and is there where the metadata say so.
        shared=number.whole("expert_shared_feed_forward_length", c.intermediate if shared else 0),
        shared_weighed=shared,
        clamped=clamped,
        sigmoid=sigmoid,
    )
    return replace(c, experts=experts)
