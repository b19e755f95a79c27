"""Which layers a ``config.json`` gives something else than attention."""

from __future__ import annotations

from collections.abc import Sequence

from rbee_export.checkpoint.config import DecoderConfig
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import CheckpointError, UnsupportedModel

ATTENDS = "full_attention"


def layers_of(
    kind: str, c: DecoderConfig, number: Numbers, default: Sequence[str]
) -> frozenset[int]:
    """Return the layers of a kind, where all others attend.

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
    kinds = list(default) if kinds is None else kinds
    if not isinstance(kinds, list) or len(kinds) != c.layers:
        raise CheckpointError(f"{number.source}: layer_types does not list {c.layers} layers")
    for one in kinds:
        if one not in (kind, ATTENDS):
            raise UnsupportedModel(f"{number.source}: layer_types has {str(one)[:40]!r}")
    layers = frozenset(i for i, one in enumerate(kinds) if one == kind)
    if not 0 < len(layers) < c.layers:
        raise UnsupportedModel(f"{number.source}: layer_types has no {ATTENDS if layers else kind}")
    return layers
