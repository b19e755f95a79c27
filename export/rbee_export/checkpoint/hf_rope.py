"""The rotary embedding of a ``config.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rbee_export.checkpoint.numbers import Numbers
from rbee_export.checkpoint.rope import Llama3Scaling, LongRope, Rope, Yarn, yarn_magnitude
from rbee_export.errors import CheckpointError, UnsupportedModel

_HUNYUAN = "hunyuan_v1_dense"
"""The only type of models that reads ``alpha``."""


def read_rope(
    file: Path,
    settings: Mapping[str, Any],
    *,
    head_dim: int,
    theta: float,
    context_length: int,
    share: float = 1.0,
    kind: str = "full_attention",
) -> Rope:
    """Read the rotary embedding of ``config.json``'s settings.

    Args:
        file: The file, to name in errors.
        settings: Its content.
        head_dim: Width of one head.
        theta: Base where the file is silent.
        context_length: Positions the model was made for.
        share: Part of each head that is rotated where the file is silent.
        kind: The kind of layer meant, where each has an embedding of its own.

    Raises:
        CheckpointError: Parameters are missing or of the wrong type.
        UnsupportedModel: The scaling is not known here.
    """
    # Newer configurations nest theta among the parameters; older ones keep it outside.
    options = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if isinstance(options, dict) and isinstance(options.get(kind), dict):
        options = options[kind]
    if not isinstance(options, dict):
        raise CheckpointError(f"{file}: its rope parameters are not an object")
    number, outer = Numbers(str(file), options), Numbers(str(file), settings)
    theta = number.above(1, "rope_theta", outer.above(1, "rope_theta", theta))
    share = number.real("partial_rotary_factor", outer.real("partial_rotary_factor", share))
    if not 0 < share <= 1:
        raise CheckpointError(f"{file}: partial_rotary_factor is {share:g}; it is a share")
    dims = int(head_dim * share)
    match options.get("rope_type", options.get("type", "default")):
        case "default" | "mrope":
            # Of texts, which have one position a token, what turns by three is no other.
            return Rope(theta, dims)
        case "linear":
            return Rope(theta, dims, number.factor("factor"))
        case "llama3":
            return Rope(theta, dims, _llama3(number))
        case "yarn":
            return Rope(theta, dims, _yarn(number, context_length))
        case "dynamic" if number.maybe("alpha") and settings.get("model_type") == _HUNYUAN:
            # Not dynamic at all: the base is stretched once and for all.
            stretch = number.factor("alpha") ** (dims / max(dims - 2, 1))
            return Rope(theta * stretch, dims)
        case "longrope" | "su":
            scaling = _long(number, outer, dims, context_length)
            return Rope(theta, dims, scaling)
        case other:
            raise UnsupportedModel(f"{file.parent}: rope scaling {other!r} is not supported")


def _llama3(number: Numbers) -> Llama3Scaling:
    high = number.factor("high_freq_factor")
    if high == number.factor("low_freq_factor"):
        raise CheckpointError(f"{number.source}: high_freq_factor is low_freq_factor")
    return Llama3Scaling(
        factor=number.factor("factor"),
        low_freq_factor=number.factor("low_freq_factor"),
        high_freq_factor=high,
        original_context=number.positions("original_max_position_embeddings"),
    )


def _yarn(number: Numbers, context_length: int) -> Yarn:
    factor = number.factor("factor")
    magnitude = number.maybe("attention_factor")
    if magnitude is None and number.maybe("mscale") and number.maybe("mscale_all_dim"):
        # What DeepSeek scales, and what of it is scaled elsewhere.
        mscale, elsewhere = number.factor("mscale"), number.factor("mscale_all_dim")
        magnitude = yarn_magnitude(factor, mscale) / yarn_magnitude(factor, elsewhere)
    return Yarn(
        factor=factor,
        original_context=number.positions("original_max_position_embeddings", context_length),
        beta_fast=number.factor("beta_fast", 32.0),
        beta_slow=number.factor("beta_slow", 1.0),
        magnitude=magnitude,
        truncate=number.settings.get("truncate") is not False,
    )


def _long(number: Numbers, outer: Numbers, dims: int, context_length: int) -> LongRope:
    original = number.positions(
        "original_max_position_embeddings",
        outer.positions("original_max_position_embeddings", context_length),
    )
    if original < 2:
        raise CheckpointError(f"{outer.source}: original_max_position_embeddings is {original}")
    short = number.list_of("short_factor", dims // 2)
    long = number.list_of("long_factor", dims // 2)
    if short is None or long is None or not all((*short, *long)):
        raise CheckpointError(f"{outer.source}: short_factor or long_factor is missing or zero")
    factor = number.real("factor", context_length / original)
    magnitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return LongRope(short, long, original, number.real("attention_factor", magnitude))
