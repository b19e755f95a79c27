"""Which layers a ``config.json`` gives something else than attention to all positions."""

from __future__ import annotations

from collections.abc import Sequence

from rbee_export.checkpoint.config import DecoderConfig
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import CheckpointError, UnsupportedModel, shown

ATTENDS = "full_attention"


def layers_listed(kind: str, kinds: object, layers: int, number: Numbers) -> frozenset[int]:
    """Return the layers that are of a kind, where all others attend.

    Args:
        kind: What ``layer_types`` calls it.
        kinds: What that is.
        layers: How many there are.
        number: The settings.

    Raises:
        CheckpointError: It is no list of as many layers as there are.
        UnsupportedModel: It has other kinds.
    """
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise CheckpointError(f"{number.source}: layer_types does not list {layers} layers")
    for one in kinds:
        if one not in (ATTENDS, kind):
            raise UnsupportedModel(
                f"{number.source}: layer_types has {shown(one)}; {ATTENDS} and {kind} are known"
            )
    return frozenset(layer for layer, one in enumerate(kinds) if one == kind)


def layers_of(
    kind: str, c: DecoderConfig, number: Numbers, default: Sequence[str]
) -> frozenset[int]:
    """Return the layers of a kind, where all others attend, in a model that has both.

    Args:
        kind: What ``layer_types`` calls it.
        c: The configuration.
        number: The settings.
        default: What they are where ``layer_types`` is missing.

    Raises:
        CheckpointError: It does not list the layers.
        UnsupportedModel: It lists others, or none of either kind.
    """
    kinds = number.settings.get("layer_types")
    layers = layers_listed(kind, list(default) if kinds is None else kinds, c.layers, number)
    if not 0 < len(layers) < c.layers:
        raise UnsupportedModel(f"{number.source}: layer_types has no {ATTENDS if layers else kind}")
    return layers
