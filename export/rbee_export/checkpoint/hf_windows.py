"""Which layers a ``config.json`` gives a window, and what they do without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rbee_export.checkpoint.config import DecoderConfig
from rbee_export.checkpoint.hf_layer_kinds import layers_listed
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import CheckpointError


def every_but(period: int) -> Callable[[int], bool]:
    """Return what holds for all layers but every one of a period; for none if that is zero."""
    return lambda layer: period > 0 and (layer + 1) % period != 0


def sliding(c: DecoderConfig, number: Numbers, default: Callable[[int], bool]) -> tuple[bool, ...]:
    """Return which layers have a window: those listed, or those for which ``default`` holds."""
    kinds = number.settings.get("layer_types")
    if kinds is None:
        return tuple(default(layer) for layer in range(c.layers))
    return which_slide(kinds, c.layers, number)


def which_slide(kinds: object, layers: int, number: Numbers) -> tuple[bool, ...]:
    """Return which layers have a window by what ``layer_types`` lists.

    Raises:
        CheckpointError: It is no list of as many layers as there are.
        UnsupportedModel: It has a kind of layer that has neither a window nor all positions.
    """
    slides = layers_listed("sliding_attention", kinds, layers, number)
    return tuple(layer in slides for layer in range(layers))


def windowed(c: DecoderConfig, number: Numbers, default: Callable[[int], bool]) -> DecoderConfig:
    """Limit the layers that have a window to the latest positions."""
    if number.settings.get("sliding_window") is None:
        return c
    window = number.whole("sliding_window")
    if window < 1:
        raise CheckpointError(f"{number.source}: sliding_window is {window}")
    if not c.causal:
        # Half of it lies before a token, half behind.
        window = window // 2 + 1
    if window >= c.context_length:
        return c
    attention = tuple(
        replace(a, window=window) if slides else a
        for a, slides in zip(c.attention, sliding(c, number, default), strict=True)
    )
    return replace(c, attention=attention)


def rotated(c: DecoderConfig, layers: Sequence[bool]) -> DecoderConfig:
    """Leave the rotary embedding to those layers for which ``layers`` says so."""
    attention = tuple(
        a if turns else replace(a, rope=None) for a, turns in zip(c.attention, layers, strict=True)
    )
    return replace(c, attention=attention)


def windows_alone_rotate(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Give layers their windows, and leave the rotary embedding to them where there are any."""
    if number.settings.get("sliding_window") is None:
        return c
    listed = number.settings.get("layer_types") is not None
    # Beside a list it may be a word, such as LLLG.
    period = 4 if listed else number.whole("sliding_window_pattern", 4)
    slides = sliding(c, number, every_but(period))
    return windowed(rotated(c, slides), number, slides.__getitem__)
