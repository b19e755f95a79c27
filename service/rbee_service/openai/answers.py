"""Completions in the shapes that clients of the OpenAI API read; keys in the order of that API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NotRequired

from typing_extensions import TypedDict

from rbee_service.compact_json import Parts, json_array, json_bytes, json_object
from rbee_service.events import End, StopReason
from rbee_service.inference import Account
from rbee_service.openai.answer_teller import AnswerTeller
from rbee_service.openai.logprobs import ChatLogprobs, TextLogprobs
from rbee_service.openai.tool_answers import (
    AnswerDelta,
    AnsweredCall,
    CallDelta,
    FinishReason,
)
from rbee_service.openai.usage import Usage, usage_of


class AnswerMessage(TypedDict):
    """What the model says in a chat.

    Attributes:
        reasoning_content: What it thought first; ``None`` if nothing. Only where its chat template
            or its vocabulary knows of reasoning.
    """

    role: Literal["assistant"]
    content: str | None
    reasoning_content: NotRequired[str | None]
    refusal: None
    tool_calls: NotRequired[list[AnsweredCall]]


class ChatChoice(TypedDict):
    """An answer to a chat."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class TextChoice(TypedDict):
    """A continuation of a text."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletionBody(TypedDict):
    """An answer to a chat that is not streamed."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextCompletionBody(TypedDict):
    """A continuation of a text that is not streamed."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class Delta(TypedDict):
    """What is added to the answer to a chat."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str | None]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[CallDelta]]


class ChatChunkChoice(TypedDict):
    """Some of an answer to a chat."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class TextChunkChoice(TypedDict):
    """Some of a continuation of a text."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class ChatChunkBody(TypedDict):
    """An event of a streamed answer to a chat."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]


class TextChunkBody(TypedDict):
    """An event of a streamed continuation of a text."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChunkChoice]
    usage: NotRequired[Usage | None]


class ModelBody(TypedDict):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelsBody(TypedDict):
    """The models that are served."""

    object: Literal["list"]
    data: list[ModelBody]


@dataclass(frozen=True, slots=True)
class Envelope:
    """What all chunks of an answer have in common.

    Attributes:
        id: Name of the completion.
        created: Unix time in seconds.
        model: Reference of the model.
        chat: Whether it answers a chat, or continues a text.
        index: Which of several choices it tells of.
        predicted: Whether it is told what came of a prediction.
    """

    id: str
    created: int
    model: str
    chat: bool
    index: int = 0
    predicted: bool = False

    def whole(self, choices: Iterable[Parts], account: Account) -> Iterator[bytes | bytearray]:
        """Yield an answer that is not streamed, as JSON.

        Args:
            choices: Each as :meth:`choice` yields it.
            account: What they took together.
        """
        kind = "chat.completion" if self.chat else "text_completion"
        answer = {name: [json_bytes(value)] for name, value in self._around(kind, []).items()}
        counted = [json_bytes(usage_of(account, predicted=self.predicted))]
        return json_object(answer | {"choices": json_array(choices), "usage": counted})

    def choice(
        self,
        text: str,
        stop: StopReason,
        answer: AnswerTeller | None = None,
        logprobs: Parts = (b"null",),
    ) -> Iterator[bytes | bytearray]:
        """Yield one of the choices of such an answer, as JSON.

        Args:
            text: All that was said, reasoning left out.
            stop: Why it ended.
            answer: Told of it all, in a chat.
            logprobs: Of its tokens, as JSON.
        """
        reason: str = finish_reason(stop)
        said: dict[str, object] = {"text": text}
        if answer is not None:
            message: dict[str, object] = {"role": "assistant", "content": text}
            calls, reasoning = answer.calls, answer.reasoning
            if reasoning is not None:
                message["reasoning_content"] = reasoning.text or None
            message["refusal"] = None
            if calls is not None:
                reason = calls.finish_reason(stop)
                message["content"] = calls.content
            if reasoning is not None and not reasoning.is_over:
                message["content"] = None
            if calls is not None and calls.calls:
                message["tool_calls"] = calls.calls
            said = {"message": message}
        told = {name: [json_bytes(value)] for name, value in ({"index": self.index} | said).items()}
        return json_object(told | {"logprobs": logprobs, "finish_reason": [json_bytes(reason)]})

    def first(self, content: Literal[""] | None = "") -> dict[str, object]:
        """Return the chunk that begins an answer to a chat.

        Args:
            content: ``None`` if it calls functions and has no text.
        """
        return self._chunk({"role": "assistant", "content": content})

    def piece(self, text: str, logprobs: object | None = None) -> dict[str, object]:
        """Return a chunk with text."""
        return self._chunk({"content": text}, text, logprobs=logprobs)

    def delta(self, delta: AnswerDelta, logprobs: object | None = None) -> dict[str, object]:
        """Return a chunk with some of an answer that may have more than text."""
        return self._chunk(delta, logprobs=logprobs)

    def last(
        self, ended: End, answer: AnswerTeller | None = None, logprobs: object | None = None
    ) -> dict[str, object]:
        """Return the chunk that says why it ended."""
        calls = None if answer is None else answer.calls
        told = finish_reason if calls is None else calls.finish_reason
        return self._chunk({}, "", told(ended.stop_reason), logprobs)

    def count(self, account: Account) -> dict[str, object]:
        """Return the chunk that counts the tokens."""
        counted = usage_of(account, predicted=self.predicted)
        return self._around(self._stream_kind, []) | {"usage": counted}

    @property
    def _stream_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _chunk(
        self,
        delta: Mapping[str, object],
        text: str = "",
        reason: str | None = None,
        logprobs: object | None = None,
    ) -> dict[str, object]:
        choice: dict[str, object] = {"index": self.index}
        if self.chat:
            choice["delta"] = delta
        else:
            choice["text"] = text
        choice |= {"logprobs": logprobs, "finish_reason": reason}
        return self._around(self._stream_kind, [choice])

    def _around(self, kind: str, choices: list[dict[str, object]]) -> dict[str, object]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def finish_reason(stop: StopReason) -> str:
    """Return OpenAI's word for why a completion ended that was not cancelled."""
    return "length" if stop is StopReason.MAX_TOKENS else "stop"
