"""Engines and workers that guess no tokens, for whatever measures steps.

Guesses that come true make a completion's time depend on its text, and a small model repeats
itself. What they are worth is measured by itself: :mod:`rbee_bench.speculation`.
"""

from __future__ import annotations

from inspect import signature
from typing import Final, TypedDict

from rbee_runtime import Engine


class _Settings(TypedDict, total=False):
    draft_tokens: int


STEP_BY_STEP: Final[_Settings] = (
    {"draft_tokens": 0} if "draft_tokens" in signature(Engine.load).parameters else {}
)
"""What an engine is opened with. The gate measures revisions, too, that never guessed."""

STEP_BY_STEP_FLAGS: Final = ("--draft-tokens", "0")
"""What a worker is started with."""
