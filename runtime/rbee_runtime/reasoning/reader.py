"""Telling what a model thinks from what it answers, in a completion that comes in pieces."""

from __future__ import annotations

from collections.abc import Callable

from rbee_runtime.reasoning.form import Reasoning, Stage


class ReasoningReader:
    """Parts a completion into reasoning and answer.

    Text is given out as soon as it can be no part of a marker. The markers are dropped, and so is
    the white space on their inner and outer sides. Only what a completion begins with is reasoning,
    once: a marker later on is text. Where the prompt began it and no end comes, all is reasoning.

    Args:
        reasoning: How it is told.

    Attributes:
        is_over: Whether what comes now is the answer.
        was_found: Whether there was any reasoning, be it empty.
    """

    def __init__(self, reasoning: Reasoning) -> None:
        self._opening, self._closing = reasoning.opening, reasoning.closing
        self._direct = reasoning.direct
        self._was_begun = reasoning.stage is Stage.BEGUN
        self._held = ""
        self._bare = True  # nothing of the reasoning but white space has come
        self.is_over = reasoning.stage is Stage.OVER
        self.was_found = self._was_begun
        self._read: Callable[[], tuple[str, str]] = self._read_opening
        if self.is_over:
            self._read = self._read_answer

    def push(self, text: str) -> tuple[str, str]:
        """Take a piece of the completion.

        Returns:
            What became certain by it, of the reasoning and of the answer that follows.
        """
        self._held += text
        return self._read()

    def flush(self) -> tuple[str, str]:
        """Return what was held back, at the end of the completion."""
        held, self._held = self._held, ""
        if self.is_over:
            return "", ""  # white space before an answer that did not come
        if self._read == self._read_opening and not self._was_begun:
            self.is_over = True
            return "", held
        return held.strip() if self._bare else held.rstrip(), ""

    def _read_opening(self) -> tuple[str, str]:
        begun = self._held.lstrip()
        if begun.startswith(self._opening):
            self._held = begun[len(self._opening) :]
            self.was_found = True
        elif self._direct and begun.startswith(self._direct):
            self._held = begun[len(self._direct) :]
            self.is_over = True
            self._read = self._read_gap
            return self._read()
        elif self._opening.startswith(begun) or self._direct.startswith(begun):
            return "", ""
        elif not self._was_begun:
            self.is_over = True
            self._read = self._read_answer
            return self._read()
        self._read = self._read_reasoning
        return self._read()

    def _read_reasoning(self) -> tuple[str, str]:
        held, closing = self._held, self._closing
        at = held.find(closing)
        if at >= 0:
            self._held = held[at + len(closing) :]
            self._read = self._read_gap
            self.is_over = True
            _, answer = self._read()
            return held[:at].strip() if self._bare else held[:at].rstrip(), answer
        kept = next(n for n in range(len(closing) - 1, -1, -1) if held.endswith(closing[:n]))
        certain = held[: len(held) - kept].rstrip()
        self._held = held[len(certain) :]
        if self._bare:
            certain = certain.lstrip()
            self._bare = not certain
        return certain, ""

    def _read_gap(self) -> tuple[str, str]:
        self._held = self._held.lstrip()
        if not self._held:
            return "", ""
        self._read = self._read_answer
        return self._read()

    def _read_answer(self) -> tuple[str, str]:
        answer, self._held = self._held, ""
        return "", answer
