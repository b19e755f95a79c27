"""How much memory a step takes beyond the weights. Pure: asks nothing of the machine."""

from __future__ import annotations

from rbee_runtime.artifact import TextManifest

_HIDING = 4
"""Numbers that it takes, for a pair of tokens, to hide what is out of a window's reach."""


def step_bytes(manifest: TextManifest, tokens: int, *, scores: bool) -> int:
    """Return about how many bytes a step over one text of so many tokens takes, rather more.

    Args:
        manifest: The model.
        tokens: Of the text.
        scores: Whether attention keeps those of all pairs of tokens: without native kernels.
    """
    shapes = manifest.shapes
    # What is there at a time: around a branch, inside it, and in order for attention.
    width = 4 * shapes.hidden + 2 * shapes.intermediate + shapes.attended + 2 * shapes.together
    pairs = (shapes.heads + _HIDING) * tokens if scores else 0
    element = 4 if manifest.computes_in == "float32" else 2
    # Memory is taken in larger and larger pieces, of which the last is not filled.
    return element * tokens * (width + pairs) * 5 // 4
