"""What a decoder's configuration may ask for."""

from __future__ import annotations

from rbee_export.checkpoint.config import DecoderConfig, DeltaNet, Mamba2
from rbee_export.errors import CheckpointError, UnsupportedModel

_LONGEST_CONTEXT = 1 << 21
"""Positions whose rotary tables still fit into memory."""


def check_decoder(name: str, c: DecoderConfig) -> None:
    """Refuse what the graph could be built from, but not run.

    Args:
        name: The checkpoint's.
        c: Its configuration.

    Raises:
        CheckpointError: A number of it is none that a model has.
        UnsupportedModel: The attention operator does not do it.
    """
    sizes = [c.layers, c.hidden, c.intermediate, c.heads, c.kv_heads, c.head_dim, c.vocab]
    if c.mixer is not None and c.mixer.taps < 2:
        raise UnsupportedModel(f"{name}: a convolution of one token is not supported")
    if isinstance(c.mixer, DeltaNet):
        sizes += [c.mixer.key_dim, c.mixer.value_dim]
    if isinstance(c.mixer, Mamba2):
        sizes += [c.mixer.head_dim]
    if c.experts is not None:
        sizes += [c.experts.intermediate, c.experts.shared + 1]
    if min(*sizes, c.context_length) < 1:
        raise CheckpointError(f"{name}: a dimension of its configuration is below 1")
    if c.heads % c.kv_heads:
        raise CheckpointError(f"{name}: {c.heads} query heads cannot share {c.kv_heads} key heads")
    if c.context_length > _LONGEST_CONTEXT or max(c.head_dim, c.heads) > 4096:
        raise CheckpointError(
            f"{name}: a context of {c.context_length}, or {c.heads} heads of "
            f"{c.head_dim}, is no model's"
        )
    if c.temperature is not None and c.long_rope_from is not None:
        raise UnsupportedModel(
            f"{name}: queries that grow with their position are not supported beside two sets of "
            "rotary frequencies"
        )
    if c.head_dim % 16:
        raise UnsupportedModel(
            f"{name}: head dimension {c.head_dim} is not a multiple of 16, "
            "which the attention operator needs"
        )
    if any(a.rope is not None and a.rope.dims % 16 for a in c.attention):
        raise UnsupportedModel(
            f"{name}: the rotated part of a head is not a multiple of 16 wide, "
            "which the attention operator needs"
        )
