"""What a model thinks before it answers, as clients of the OpenAI API are told of it."""

from __future__ import annotations

from rbee_runtime.reasoning import Reasoning, ReasoningReader


class ReasoningTeller:
    """Tells reasoning from the answer after it, while both come.

    Args:
        reasoning: How it is told.
    """

    def __init__(self, reasoning: Reasoning) -> None:
        self._reader = ReasoningReader(reasoning)
        self._tokens: int | None = None
        self._thoughts: list[str] = []

    @property
    def text(self) -> str:
        """All the reasoning."""
        return "".join(self._thoughts)

    @property
    def is_over(self) -> bool:
        """Whether what comes now is the answer."""
        return self._reader.is_over

    @property
    def was_found(self) -> bool:
        """Whether there was any reasoning, be it empty."""
        return self._reader.was_found

    def push(self, text: str, tokens: int) -> tuple[str, str]:
        """Take some text.

        Args:
            text: It.
            tokens: How many there are by now.

        Returns:
            What is added to the reasoning, and what to the answer.
        """
        thought, answer = self._reader.push(text)
        if self._tokens is None and self._reader.is_over:
            self._tokens = tokens
        self._thoughts.append(thought)
        return thought, answer

    def flush(self) -> tuple[str, str]:
        """Return what was held back, at the end."""
        thought, answer = self._reader.flush()
        self._thoughts.append(thought)
        return thought, answer

    def tokens_of(self, tokens: int) -> int:
        """Return how many of all tokens were reasoning, once the last has come."""
        if not self._reader.was_found:
            return 0
        return tokens if self._tokens is None else self._tokens
