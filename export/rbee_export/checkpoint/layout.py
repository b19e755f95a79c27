"""Where a checkpoint keeps the weight of a canonical name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rbee_export.checkpoint.config import DecoderConfig, DeltaNet, Mamba2
from rbee_export.errors import CheckpointError

OfHeads = Literal["q", "qkvz", "qkv", "ba"]
"""What a tensor has of each head, of a DeltaNet or, with its gate, of queries."""

_LAYER_NAME = re.compile(r"layers\.(\d+)\.(\w+)")


@dataclass(frozen=True, slots=True)
class Stored:
    """A weight's place.

    Attributes:
        name: The tensor that holds it; those that do, where it has ``{}`` in the place of a number.
        rows: Which of its rows, where several weights share it; ``None`` for all.
        order: Which of those rows comes where; ``None`` as they are.
        add: What has to be added to its values.
        experts: How many experts it has rows of, ``rows`` of each: in tensors numbered from 0, or
            in one that has a dimension more.
        logarithm: The negative of its values' exponential is what counts.
        group: Rows of each of the parts into which the tensor falls, those of heads, of every one
            of which ``rows`` are taken; ``None`` where it is one.
        inputs_first: It is a matrix whose columns are rows of the tensor, and the other way round.
    """

    name: str
    rows: slice | None = None
    order: NDArray[np.intp] | None = None
    add: float = 0.0
    experts: int | None = None
    logarithm: bool = False
    group: int | None = None
    inputs_first: bool = False

    def check_stack(self, path: Path, shape: Sequence[int]) -> None:
        """Raise a ``CheckpointError`` unless the shape is ``[experts, rows, columns]``."""
        if len(shape) != 3 or shape[0] != self.experts:
            raise CheckpointError(
                f"{path}: tensor {self.name} does not hold the matrices of {self.experts} experts"
            )


def split_name(name: str) -> tuple[int | None, str, str]:
    """Return layer, weight and suffix (``weight`` or ``bias``) of a canonical name."""
    name, suffix = (name[:-5], "bias") if name.endswith("_bias") else (name, "weight")
    match = _LAYER_NAME.fullmatch(name)
    return (None, name, suffix) if match is None else (int(match[1]), match[2], suffix)


def rows_of(name: str, c: DecoderConfig) -> slice:
    """Return the rows of a weight in the tensor that it shares, by the weight's short name.

    Queries, keys and values share one; the MLP's gate and its other projection share another, and
    so do an expert's, and those of the MLP beside experts.
    """
    q, kv, width = c.q_width, c.kv_width, c.intermediate
    narrow = 0 if c.experts is None else c.experts.intermediate
    shared = 0 if c.experts is None else c.experts.shared
    return {
        "q": slice(0, q),
        "k": slice(q, q + kv),
        "v": slice(q + kv, q + 2 * kv),
        "gate": slice(0, width),
        "up": slice(width, 2 * width),
        "expert_gate": slice(0, narrow),
        "expert_up": slice(narrow, 2 * narrow),
        "shared_gate": slice(0, shared),
        "shared_up": slice(shared, 2 * shared),
    }[name]


def rows_of_heads(kind: OfHeads, name: str, c: DecoderConfig, net: DeltaNet) -> tuple[slice, int]:
    """Return the rows of a weight in each part of a tensor of several, and how many a part has.

    A part is a head of queries, or one of keys with the heads of values that share it; or all of
    them, where queries, keys and values stand one after another.

    Args:
        kind: What the tensor has.
        name: The weight's short name.
        c: The model's configuration.
        net: Its DeltaNets.
    """
    shared = net.value_heads // net.key_heads
    values = shared * net.value_dim
    sizes = {
        "q": {"q": c.head_dim, "q_gate": c.head_dim},
        "qkvz": {
            **{"delta_q": net.key_dim, "delta_k": net.key_dim},
            **{"delta_v": values, "delta_z": values},
        },
        "qkv": {
            **{"delta_q": net.key_width, "delta_k": net.key_width},
            "delta_v": net.value_width,
        },
        "ba": {"delta_b": shared, "delta_a": shared},
    }[kind]
    ends = dict(zip(sizes, accumulate(sizes.values()), strict=True))
    return slice(ends[name] - sizes[name], ends[name]), sum(sizes.values())


def rows_of_mamba(name: str, net: Mamba2) -> slice | None:
    """Return the rows of a weight in a state space's projection; ``None`` for one by itself."""
    wide = net.width + net.channels
    rows = {"mamba_in": slice(0, wide), "mamba_dt": slice(wide, wide + net.heads)}
    return rows.get(name)


def halves_order(heads: int, head_dim: int, rotated: int) -> NDArray[np.intp]:
    """Return the order of rows of q or k that were stored with rotary pairs together.

    They hold each head's rotary pairs next to each other (0, 1), (2, 3) …; the model definition
    rotates the first half of what is rotated against its second.

    Args:
        heads: How many heads there are.
        head_dim: Width of one.
        rotated: Leading rows of each that are rotated.
    """
    own = np.arange(head_dim)
    own[:rotated] = own[:rotated].reshape(-1, 2).T.reshape(-1)
    return np.ascontiguousarray(np.arange(heads)[:, None] * head_dim + own).reshape(-1)


def rotary_order(name: str, c: DecoderConfig) -> NDArray[np.intp] | None:
    """Return that order for a weight, by its short name; ``None`` for one that is not rotated."""
    if name not in ("q", "k"):
        return None
    rotated = max((a.rope.dims for a in c.attention if a.rope is not None), default=0)
    return halves_order(c.heads if name == "q" else c.kv_heads, c.head_dim, rotated)
