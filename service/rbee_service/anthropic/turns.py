"""Who said what in a chat of the Messages API, and the same in messages as chats have them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from rbee_service.anthropic.answer import CALL_PREFIX
from rbee_service.anthropic.blocks import (
    BY_FORM,
    FEW,
    AText,
    ModelBlock,
    TextBlock,
    Texts,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserBlock,
    joined,
)
from rbee_service.anthropic.part import AnthropicPart
from rbee_service.openai.messages import (
    AssistantMessage,
    CalledFunction,
    Message,
    MessageCall,
    PlainMessage,
    ToolMessage,
)
from rbee_service.openai.requests import MOST_MESSAGES


class UserTurn(AnthropicPart):
    """What the user says, and what came of calls.

    Attributes:
        role: The user's.
        content: What.
    """

    role: Literal["user"]
    content: Annotated[
        AText | Annotated[list[UserBlock], FEW, Tag("a-list")],
        BY_FORM,
    ]


class ModelTurn(AnthropicPart):
    """What the model thought, said and called.

    Attributes:
        role: The model's.
        content: What.
    """

    role: Literal["assistant"]
    content: Annotated[
        AText | Annotated[list[ModelBlock], FEW, Tag("a-list")],
        BY_FORM,
    ]


class SystemTurn(AnthropicPart):
    """What the model is told besides.

    Attributes:
        role: Whose it is.
        content: What.
    """

    role: Literal["system"]
    content: Texts


def _tag(given: Any) -> str | None:
    role = given.get("role") if isinstance(given, dict) else None
    return f"{role}-turn" if role in ("user", "assistant", "system") else None


Turn: TypeAlias = Annotated[
    Annotated[UserTurn, Tag("user-turn")]
    | Annotated[ModelTurn, Tag("assistant-turn")]
    | Annotated[SystemTurn, Tag("system-turn")],
    Discriminator(
        _tag,
        custom_error_type="role",
        custom_error_message="its role must be user, assistant or system",
    ),
]
Turns: TypeAlias = Annotated[
    list[Turn], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
]
"""All that was said so far."""


def to_messages(
    system: str | Sequence[TextBlock], turns: Sequence[Turn], *, keeps_system: bool
) -> list[Message]:
    """Return a chat that says the same.

    What one says in a row is one message, as templates want it. So are the system prompt and the
    system's turns that come first: many take one, at the beginning.

    Args:
        system: What precedes all.
        turns: What was said.
        keeps_system: Whether what the system says later is its own, or else the user's.
    """
    first = list(takewhile(lambda turn: isinstance(turn, SystemTurn), turns))
    texts = [joined(system), *(joined(one.content) for one in first if isinstance(one, SystemTurn))]
    told = "\n\n".join(filter(None, texts))
    messages: list[Message] = [_plain("system", told)] if told else []
    so_far = _SoFar()
    for turn in turns[len(first) :]:
        match turn:
            case ModelTurn():
                messages += so_far.user_is_done()
                so_far.take(turn)
            case SystemTurn() if keeps_system:
                messages += so_far.done()
                messages.append(_plain("system", joined(turn.content)))
            case _:
                messages += so_far.model_is_done()
                for block in _blocks(turn.content):
                    if isinstance(block, ToolResultBlock):
                        messages += so_far.user_is_done()
                        messages.append(_result(block))
                    elif isinstance(block, TextBlock):
                        so_far.said.append(block.text)
    return [*messages, *so_far.done()]


@dataclass(slots=True)
class _SoFar:
    """What one says in a row, as far as it was read.

    Attributes:
        said: By the user.
        model: Whether the model said something.
        thoughts: What it thought.
        texts: What it said.
        calls: What it called.
    """

    said: list[str] = field(default_factory=list)
    model: bool = False
    thoughts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    calls: list[MessageCall] = field(default_factory=list)

    def take(self, turn: ModelTurn) -> None:
        """Add what the model says."""
        self.model = True
        for block in _blocks(turn.content):
            match block:
                case TextBlock():
                    self.texts.append(block.text)
                case ThinkingBlock(thinking=thought) if thought:
                    self.thoughts.append(thought)
                case ToolUseBlock():
                    self.calls.append(_call(block))

    def user_is_done(self) -> Iterator[Message]:
        """Yield what the user said."""
        if self.said:
            yield _plain("user", "\n\n".join(self.said))
            self.said = []

    def model_is_done(self) -> Iterator[Message]:
        """Yield what the model said."""
        if self.model:
            yield AssistantMessage.model_construct(
                role="assistant",
                content="\n\n".join(self.texts) or None,
                reasoning_content="\n\n".join(self.thoughts) or None,
                tool_calls=self.calls,
            )
            self.model, self.thoughts, self.texts, self.calls = False, [], [], []

    def done(self) -> Iterator[Message]:
        """Yield what either said: there is only one who did."""
        yield from self.user_is_done()
        yield from self.model_is_done()


def _blocks(content: str | Sequence[Any]) -> Iterable[Any]:
    return [TextBlock.model_construct(text=content)] if isinstance(content, str) else content


def _plain(role: Literal["system", "user"], text: str) -> PlainMessage:
    return PlainMessage.model_construct(role=role, content=text)


def _call(block: ToolUseBlock) -> MessageCall:
    arguments = json.dumps(block.input, ensure_ascii=False)
    function = CalledFunction.model_construct(name=block.name, arguments=arguments)
    return MessageCall.model_construct(
        id=block.id.removeprefix(CALL_PREFIX), type="function", function=function
    )


def _result(block: ToolResultBlock) -> ToolMessage:
    return ToolMessage.model_construct(
        role="tool",
        content=block.told,
        tool_call_id=block.tool_use_id.removeprefix(CALL_PREFIX),
    )
