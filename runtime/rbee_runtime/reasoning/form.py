"""How a model marks what it thinks before it answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

SWITCHES: Final = ("enable_thinking", "thinking")
"""What chat templates call the variable that has the model think or not."""


class Stage(Enum):
    """How far a prompt leads into the reasoning that follows it.

    ``AHEAD``: the model may begin some. ``BEGUN``: the prompt began it, as that of DeepSeek-R1
    does. ``OVER``: the prompt has it already, mostly an empty one, so that the model answers.
    """

    AHEAD = auto()
    BEGUN = auto()
    OVER = auto()


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How the reasoning of one completion is told from its answer.

    Attributes:
        opening: What begins reasoning.
        closing: What ends it.
        stage: Where the completion begins.
        direct: What an answer begins with that comes without reasoning, if anything.
    """

    opening: str
    closing: str
    stage: Stage
    direct: str = ""


@dataclass(frozen=True, slots=True)
class ReasoningForm:
    """What stands around a model's reasoning, such as ``<think>`` and ``</think>``.

    Attributes:
        opening: What begins it.
        closing: What ends it.
        shown: Of these, the special tokens: a completion's text has their names all the same.
        direct: What an answer begins with that comes without reasoning, if anything; ``closing``
            then ends with it.
    """

    opening: str
    closing: str
    shown: frozenset[int] = frozenset()
    direct: str = ""

    def after(self, prompt: str) -> Reasoning:
        """Return how reasoning is told that follows a prompt.

        Args:
            prompt: A rendered chat that asks for the next message.
        """
        end = prompt.rstrip()
        stage = Stage.AHEAD
        if end.endswith(self.opening):
            stage = Stage.BEGUN
        elif end.endswith(self.direct or self.closing):
            stage = Stage.OVER
        return Reasoning(self.opening, self.closing, stage, self.direct)
