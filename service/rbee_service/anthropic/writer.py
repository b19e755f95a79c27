"""Writes an answer of the Messages API, event by event or whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from pydantic_core import from_json

from rbee_service.anthropic.answer import (
    CALL_PREFIX,
    BlockBody,
    MessageBody,
    MessageStop,
    message_usage,
)
from rbee_service.events import Output, StopReason, TokenOutput
from rbee_service.inference import Account
from rbee_service.openai.answer_teller import AnswerTeller
from rbee_service.openai.prompt import WrittenChat
from rbee_service.openai.tool_answers import AnswerDelta

MessageEvent: TypeAlias = dict[str, Any]
"""Something that a client is told while its answer comes."""

_SIGNATURE: Final = "unsigned"
"""Clients give it back, and some take a thought without one for none."""

_FIELDS: Final = {"text": "text", "thinking": "thinking", "tool_use": "partial_json"}
_DELTAS: Final = {
    "text": "text_delta",
    "thinking": "thinking_delta",
    "tool_use": "input_json_delta",
}


@dataclass(slots=True)
class _Block:
    """A block as far as it came.

    Attributes:
        kind: Its type.
        head: What else there is of it when it begins.
        texts: What was added.
    """

    kind: Literal["text", "thinking", "tool_use"]
    head: dict[str, Any]
    texts: list[str] = field(default_factory=list)

    def begun(self) -> dict[str, Any]:
        """Return it as it begins."""
        return {"type": self.kind, **self.head}

    def whole(self) -> BlockBody:
        """Return it as it is."""
        text = "".join(self.texts)
        match self.kind:
            case "text":
                return {"type": "text", "text": text}
            case "thinking":
                return {"type": "thinking", "thinking": text, "signature": _SIGNATURE}
        head = self.head
        called = _input(text or "{}")
        return {"type": "tool_use", "id": head["id"], "name": head["name"], "input": called}


def _input(text: str) -> dict[str, Any]:
    """Return what a tool is called with: of a call that was cut off, what there is."""
    try:
        given: dict[str, Any] = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        # It has half of a surrogate pair, which Python reads, or is deeper than either does.
        try:
            given = json.loads(text)
        except (ValueError, RecursionError):
            given = {}
    return given


class MessageWriter:
    """Puts an answer together as it comes.

    Args:
        name: What it is called.
        model: Reference of the model that answers.
        prompt_tokens: Of what it answers.
        max_tokens: How many new ones were asked for.
        shows_thinking: Whether it is told what the model thought.
        chat: What the model was asked.
    """

    def __init__(
        self,
        name: str,
        model: str,
        prompt_tokens: int,
        max_tokens: int,
        chat: WrittenChat,
        *,
        shows_thinking: bool,
    ) -> None:
        self._name = name
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._max_tokens = max_tokens
        self._shows_thinking = shows_thinking
        self._answer = AnswerTeller(chat)
        self._blocks: list[_Block] = []

    def first(self) -> list[MessageEvent]:
        """Return the events that come before all."""
        # How much of the prompt is known already shows when it is read.
        account = Account(self._prompt_tokens, 0, 0, StopReason.EOS)
        message = self._message([], None, account)
        return [{"type": "message_start", "message": message}, {"type": "ping"}]

    def add(self, told: Output[TokenOutput]) -> list[MessageEvent]:
        """Return the events of some text: none while it may become a marker or a call."""
        deltas = self._answer.push(told.output.t, told.items)
        return [event for delta in deltas for event in self._add(delta)]

    def end(self, stop: StopReason) -> list[MessageEvent]:
        """Return the events of what was held back, and of the end of the last block."""
        deltas = self._answer.flush(stop)
        events = [event for delta in deltas for event in self._add(delta)]
        return [*events, *self._end_of_block()]

    def last(self, account: Account) -> list[MessageEvent]:
        """Return the events that come after all.

        Args:
            account: What the engine says of it.
        """
        account = self._answer.completed(account)
        end = {"stop_reason": self._stop(account), "stop_sequence": account.stop_sequence}
        return [
            {"type": "message_delta", "delta": end, "usage": message_usage(account)},
            {"type": "message_stop"},
        ]

    def whole(self, account: Account) -> MessageBody:
        """Return all of it; for the argument see :meth:`last`."""
        account = self._answer.completed(account)
        blocks = [block.whole() for block in self._blocks]
        return self._message(blocks, self._stop(account), account)

    def _add(self, delta: AnswerDelta) -> Iterator[MessageEvent]:
        if "reasoning_content" in delta:
            yield from self._add_text("thinking", delta["reasoning_content"])
        if "content" in delta:
            yield from self._add_text("text", delta["content"])
        for call in delta.get("tool_calls", ()):
            function = call["function"]
            if "id" in call:
                called = {"id": CALL_PREFIX + call["id"], "name": function["name"], "input": {}}
                yield from self._begin(_Block("tool_use", called))
            if function["arguments"]:
                yield from self._add_to_last(function["arguments"])

    def _add_text(self, kind: Literal["text", "thinking"], text: str) -> Iterator[MessageEvent]:
        if not self._blocks or self._blocks[-1].kind != kind:
            head = {"text": ""} if kind == "text" else {"thinking": "", "signature": ""}
            yield from self._begin(_Block(kind, head))
        if kind == "text" or self._shows_thinking:
            yield from self._add_to_last(text)

    def _begin(self, block: _Block) -> Iterator[MessageEvent]:
        yield from self._end_of_block()
        self._blocks.append(block)
        yield self._of_last("content_block_start", content_block=block.begun())

    def _add_to_last(self, text: str) -> Iterator[MessageEvent]:
        last = self._blocks[-1]
        last.texts.append(text)
        delta = {"type": _DELTAS[last.kind], _FIELDS[last.kind]: text}
        yield self._of_last("content_block_delta", delta=delta)

    def _end_of_block(self) -> Iterator[MessageEvent]:
        if not self._blocks:
            return
        if self._blocks[-1].kind == "thinking":
            delta = {"type": "signature_delta", "signature": _SIGNATURE}
            yield self._of_last("content_block_delta", delta=delta)
        yield self._of_last("content_block_stop")

    def _of_last(self, kind: str, **members: object) -> MessageEvent:
        return {"type": kind, "index": len(self._blocks) - 1, **members}

    def _stop(self, account: Account) -> MessageStop:
        match account.stop:
            case StopReason.MAX_TOKENS if account.tokens_out < self._max_tokens:
                return "model_context_window_exceeded"
            case StopReason.MAX_TOKENS:
                return "max_tokens"
            case StopReason.STOP_SEQUENCE:
                return "stop_sequence"
        calls = self._answer.calls
        called = calls is not None and calls.finish_reason(account.stop) == "tool_calls"
        return "tool_use" if called else "end_turn"

    def _message(
        self, blocks: list[BlockBody], stop: MessageStop | None, account: Account
    ) -> MessageBody:
        return {
            "id": self._name,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": blocks,
            "stop_reason": stop,
            "stop_sequence": account.stop_sequence,
            "usage": message_usage(account),
        }
