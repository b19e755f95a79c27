"""How GGUF files say that layers have short convolutions, and llama.cpp's names for their weights.

Layers that have them have no heads of keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from rbee_export.checkpoint.config import DecoderConfig, ShortConvolution
from rbee_export.checkpoint.hf_delta_net import MOST_TAPS
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import CheckpointError, UnsupportedModel

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "conv_in": "shortconv.in_proj",
        "conv_filters": "shortconv.conv",
        "conv_o": "shortconv.out_proj",
        "final_norm": "token_embd_norm",
    }
)

_KEY = "attention.head_count_kv"


def heads_of_keys(number: Numbers, layers: int, default: int) -> int:
    """Return how many heads of keys layers have, those that have some.

    Args:
        number: The metadata.
        layers: How many layers there are.
        default: How many heads there are where the metadata are silent.

    Raises:
        CheckpointError: No number says so.
        UnsupportedModel: They have different numbers.
    """
    if not isinstance(number.settings.get(_KEY), list):
        return number.whole(_KEY, default)
    counts = {count for count in number.list_of(_KEY, layers) or () if count}
    if len(counts) > 1:
        raise UnsupportedModel(
            f"{number.source}: {number.prefix}{_KEY} differs from layer to layer"
        )
    return Numbers(number.source, {_KEY: max(counts, default=0)}, number.prefix).whole(_KEY)


def with_convolutions(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Return the configuration of a decoder that attends in layers with heads of keys alone.

    Raises:
        CheckpointError: The metadata contradict themselves.
    """
    taps = number.count("shortconv.l_cache", MOST_TAPS)
    net = ShortConvolution(c.hidden, taps, layers_without_heads(c, number))
    return replace(c, qk_norm="head", mixer=net)


def layers_without_heads(c: DecoderConfig, number: Numbers) -> frozenset[int]:
    """Return the layers that have no heads of keys.

    Raises:
        CheckpointError: All have some.
    """
    heads = number.settings.get(_KEY)
    counts = number.list_of(_KEY, c.layers) if isinstance(heads, list) else None
    layers = frozenset(i for i, count in enumerate(counts or ()) if not count)
    if not layers:
        raise CheckpointError(f"{number.source}: {number.prefix}{_KEY} is zero in no layer")
    return layers
