"""What an answer of the Responses API follows, item by item, as its clients send it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from rbee_service.openai.messages import (
    AssistantMessage,
    CallArguments,
    CalledFunction,
    CallId,
    FunctionName,
    Message,
    MessageCall,
    PlainMessage,
    ToolMessage,
)
from rbee_service.openai.requests import MOST_MESSAGES
from rbee_service.openai.unserved import Part


class InputText(Part):
    """Some text.

    Attributes:
        type: Whose.
        text: It.
        annotations: Not looked at, as all that follow: what comes back of an answer.
        logprobs: Of its tokens.
        parsed: What OpenAI's client made of it.
    """

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Any = None
    logprobs: Any = None
    parsed: Any = None


class InputThought(Part):
    """Some of what the model thought.

    Attributes:
        type: Whether it is that itself, or a summary.
        text: It.
    """

    type: Literal["reasoning_text", "summary_text"]
    text: str


def _form(given: Any) -> str | None:
    match given:
        case str():
            return "a-text"
        case list():
            return "a-list"
    return None


Texts: TypeAlias = Annotated[
    Annotated[str, Tag("a-text")] | Annotated[list[InputText], Tag("a-list")],
    Discriminator(
        _form,
        custom_error_type="texts",
        custom_error_message="it must be a string or an array of parts",
    ),
]
"""Text, which may come in parts."""


class _Returned(Part):
    """What every item may have because it comes back of an answer.

    Attributes:
        id: Not looked at.
        status: Not looked at.
    """

    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class InputMessage(_Returned):
    """What somebody said.

    Attributes:
        type: Says so; may be left out.
        role: Who.
        content: What.
        phase: Not looked at.
    """

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Texts
    phase: str | None = None


class InputCall(_Returned):
    """What the model called.

    Attributes:
        type: Says so.
        call_id: What the item with its result calls it.
        name: Of the function.
        arguments: A JSON object.
        parsed_arguments: Not looked at: what OpenAI's client made of them.
    """

    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: CallArguments
    parsed_arguments: Any = None


class InputResult(_Returned):
    """What came of a call.

    Attributes:
        type: Says so.
        call_id: Which call.
        output: What came of it.
        name: Of the function, for templates that ask; else it is that of the call.
    """

    type: Literal["function_call_output"]
    call_id: CallId
    output: Texts
    name: FunctionName | None = None


class InputReasoning(_Returned):
    """What the model thought before it answered, for templates that read it.

    Attributes:
        type: Says so.
        content: It.
        summary: What is taken for it where it is not there.
        encrypted_content: Not looked at.
    """

    type: Literal["reasoning"]
    content: list[InputThought] = Field(default_factory=list)
    summary: list[InputThought] = Field(default_factory=list)
    encrypted_content: str | None = None

    @property
    def told(self) -> str:
        """What of it can be read."""
        return _joined(self.content or self.summary)


_TAGS: Final = {
    "message": "message-item",
    "function_call": "call-item",
    "function_call_output": "result-item",
    "reasoning": "reasoning-item",
}


def _tag(given: Any) -> str | None:
    kind = given.get("type", "message") if isinstance(given, dict) else None
    return _TAGS.get(kind) if isinstance(kind, str) else None


Item: TypeAlias = Annotated[
    Annotated[InputMessage, Tag("message-item")]
    | Annotated[InputCall, Tag("call-item")]
    | Annotated[InputResult, Tag("result-item")]
    | Annotated[InputReasoning, Tag("reasoning-item")],
    Discriminator(
        _tag,
        custom_error_type="item",
        custom_error_message=(
            "only items of type message, function_call, function_call_output and reasoning "
            "are served"
        ),
    ),
]
"""One of what an answer follows."""


# To tell of every fault of a body of a megabyte takes seconds: of a long array, the first is told.
Input: TypeAlias = Annotated[
    Annotated[str, Field(min_length=1), Tag("a-text")]
    | Annotated[
        list[Item], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True), Tag("a-list")
    ],
    Discriminator(
        _form,
        custom_error_type="input",
        custom_error_message="it must be a string or an array of items",
    ),
]
"""What an answer follows."""


def to_messages(instructions: str | None, given: str | Sequence[Item]) -> list[Message]:
    """Return a chat that says the same.

    Items of the model that follow one another are one message of it, as templates want them. So are
    the instructions and the system messages that come first: many take one, at the beginning.

    Args:
        instructions: What precedes all.
        given: What the user said, or all that was said.
    """
    if isinstance(given, str):
        given = [InputMessage(role="user", content=given)]
    first = list(takewhile(_is_system, given))
    texts = [instructions] if instructions else []
    texts += [_joined(item.content) for item in first if isinstance(item, InputMessage)]
    messages: list[Message] = []
    if texts:
        messages.append(PlainMessage.model_construct(role="system", content="\n\n".join(texts)))
    messages += _messages(given[len(first) :])
    return messages


def _is_system(item: Item) -> bool:
    return isinstance(item, InputMessage) and item.role in {"system", "developer"}


@dataclass(slots=True)
class _Turn:
    """What the model thought, said and called at once."""

    thoughts: list[str] = field(default_factory=list)
    said: str | None = None
    calls: list[MessageCall] = field(default_factory=list)

    def message(self) -> AssistantMessage:
        return AssistantMessage.model_construct(
            role="assistant",
            content=self.said,
            reasoning_content="\n\n".join(self.thoughts) or None,
            tool_calls=self.calls,
        )


def _messages(items: Iterable[Item]) -> Iterable[Message]:
    turn: _Turn | None = None
    for item in items:
        if isinstance(item, InputReasoning) and not item.told:
            continue
        own = isinstance(item, InputCall | InputReasoning) or (
            isinstance(item, InputMessage) and item.role == "assistant"
        )
        if turn is not None and not (own and _goes_on(turn, item)):
            yield turn.message()
            turn = None
        match item:
            case InputReasoning():
                turn = turn or _Turn()
                turn.thoughts.append(item.told)
            case InputCall():
                function = CalledFunction.model_construct(name=item.name, arguments=item.arguments)
                call = MessageCall.model_construct(
                    id=item.call_id, type="function", function=function
                )
                turn = turn or _Turn()
                turn.calls.append(call)
            case InputMessage(role="assistant"):
                turn = turn or _Turn()
                turn.said = _joined(item.content)
            case InputMessage():
                yield PlainMessage.model_construct(role=item.role, content=_joined(item.content))
            case InputResult():
                yield ToolMessage.model_construct(
                    role="tool",
                    content=_joined(item.output),
                    tool_call_id=item.call_id,
                    name=item.name,
                )
    if turn is not None:
        yield turn.message()


def _goes_on(turn: _Turn, item: Item) -> bool:
    """Return whether a turn has room for an item of the model."""
    match item:
        case InputReasoning():
            return turn.said is None and not turn.calls
        case InputMessage():
            return turn.said is None
    return True


def _joined(texts: str | Sequence[InputText] | Sequence[InputThought]) -> str:
    return texts if isinstance(texts, str) else "".join(part.text for part in texts)
