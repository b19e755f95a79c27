"""What an answer to a chat tells while it comes: what is thought, what is said, what is called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rbee_service.events import StopReason
from rbee_service.inference import Account
from rbee_service.openai.prompt import WrittenChat
from rbee_service.openai.reasoning_answers import ReasoningTeller
from rbee_service.openai.tool_answers import AnswerDelta, CallTeller


class AnswerTeller:
    """Tells what is added to an answer by each piece of its text.

    Args:
        chat: What it answers.

    Attributes:
        reasoning: Knows all that was thought, where the model knows of reasoning.
        calls: Knows all that was called, where functions may be.
    """

    def __init__(self, chat: WrittenChat) -> None:
        self.reasoning = None if chat.reasoning is None else ReasoningTeller(chat.reasoning)
        self.calls = None if chat.calls is None else CallTeller(chat.calls)
        self._is_answering = chat.reasoning is None

    def push(self, text: str, tokens: int) -> Iterator[AnswerDelta]:
        """Yield what is added by some text: nothing while it may become a marker or a call.

        Args:
            text: It.
            tokens: How many there are by now.
        """
        if self.reasoning is None or self._is_answering:
            yield from self._answer(text)
        else:
            yield from self._think(*self.reasoning.push(text, tokens))

    def flush(self, stop: StopReason) -> Iterator[AnswerDelta]:
        """Yield what was held back, at the end."""
        if self.reasoning is not None:
            yield from self._think(*self.reasoning.flush())
        if self.calls is not None:
            yield from self.calls.flush(stop)

    def completed(self, account: Account) -> Account:
        """Return an account of the engine, with what it does not know, once the end has come."""
        if self.reasoning is None:
            return account
        return replace(account, reasoning=self.reasoning.tokens_of(account.tokens_out))

    def _think(self, thought: str, answer: str) -> Iterator[AnswerDelta]:
        if thought:
            yield {"reasoning_content": thought}
        if answer:
            self._is_answering = True
            yield from self._answer(answer)

    def _answer(self, text: str) -> Iterator[AnswerDelta]:
        if self.calls is None:
            yield {"content": text}
        else:
            yield from self.calls.push(text)
