"""How many positions a traced graph is right for, and how many of them to try."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

SHORTEST = 320
"""Positions tried at least, where the model has as many: more than bfloat16 counts exactly."""

LONGEST = 4352
"""Positions tried at most: a window of 4,096, the widest in use, and some beyond."""

_BEYOND = 32
"""Positions tried beyond a window, so that it has slid."""

_LENGTHS = ("max_position_embeddings", "max_seq_len", "seq_length", "n_ctx")
"""Names configurations give to the context length, the commonest first."""

_WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")
"""Names they give to the positions a token can look back."""

_DEFAULT = 2048


@dataclass(frozen=True, slots=True)
class Context:
    """The positions of a traced graph.

    Attributes:
        length: Positions it can be used with.
        tried: Positions to try it with before it is.
        notes: What the user should know, a sentence each.
    """

    length: int
    tried: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, config: Any) -> Self:
        """Read a text model's configuration, as transformers makes it.

        A trace fixes what the model decides by the length of its input, so that the length ends
        where such a decision would fall, or where nobody looks whether it does.
        """
        length, notes = next((n for name in _LENGTHS if (n := size(config, name))), 0), []
        if not length:
            length = _DEFAULT
            notes.append(f"the configuration gives no context length: {length} is assumed")
        original = _long_rope_begins(config)
        if original is not None and original < length:
            length = original
            notes.append(
                f"the context is limited to {length}: there the model changes its rotary "
                "embedding, which a traced graph cannot"
            )
        windows = [n for name in _WINDOWS if (n := size(config, name)) and n < length]
        if unseen := [window for window in windows if window + _BEYOND > LONGEST]:
            length = min(unseen)
            notes.append(
                f"the context is limited to {length}, the attention's window: "
                f"the graph is not tried beyond {LONGEST} positions"
            )
        widest = max((window for window in windows if window < length), default=0)
        tried = min(length, max(SHORTEST, widest + _BEYOND))
        return cls(length, tried, tuple(notes))


def size(config: Any, name: str) -> int | None:
    """Return a configuration's value if it is a positive whole number."""
    value = getattr(config, name, None)
    return value if type(value) is int and value > 0 else None


def _long_rope_begins(config: Any) -> int | None:
    scaling = getattr(config, "rope_scaling", None)
    if not isinstance(scaling, Mapping):
        return None
    if scaling.get("rope_type", scaling.get("type")) not in ("longrope", "su"):
        return None
    inside = scaling.get("original_max_position_embeddings")
    outside = size(config, "original_max_position_embeddings")
    return outside or (inside if type(inside) is int and inside > 0 else None)
