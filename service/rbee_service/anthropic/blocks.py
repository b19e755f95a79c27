"""What an answer of the Messages API follows, block by block, as its clients send it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from rbee_service.anthropic.part import AnthropicPart, CachedPart
from rbee_service.openai.messages import CallId

ToolName: TypeAlias = Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,128}$")]

_MOST_BLOCKS: Final = 2048


class TextBlock(CachedPart):
    """Some text.

    Attributes:
        type: Says so.
        text: It.
    """

    type: Literal["text"]
    text: str


def _form(given: Any) -> str | None:
    match given:
        case str():
            return "a-text"
        case list():
            return "a-list"
    return None


def _text(given: Any) -> Any:
    if isinstance(given, dict) and given.get("type") != "text":
        raise PydanticCustomError("block", "only blocks of type text are served here")
    return given


AText: TypeAlias = Annotated[str, Tag("a-text")]
BY_FORM: Final = Discriminator(
    _form,
    custom_error_type="content",
    custom_error_message="it must be a string or an array of blocks",
)
# To tell of every fault of a body of a megabyte takes seconds: of a long array, the first is told.
FEW: Final = Field(max_length=_MOST_BLOCKS, fail_fast=True)

Texts: TypeAlias = Annotated[
    AText | Annotated[list[Annotated[TextBlock, BeforeValidator(_text)]], FEW, Tag("a-list")],
    BY_FORM,
]
"""Text, which may come in blocks."""


def joined(texts: str | Sequence[TextBlock]) -> str:
    """Return what is said in blocks, each a paragraph."""
    return texts if isinstance(texts, str) else "\n\n".join(block.text for block in texts)


class ToolResultBlock(CachedPart):
    """What came of a call.

    Attributes:
        type: Says so.
        tool_use_id: Which call.
        content: What came of it.
        is_error: Whether it failed, which the model is told in a word.
    """

    type: Literal["tool_result"]
    tool_use_id: CallId
    content: Texts = ""
    is_error: bool = False

    @property
    def told(self) -> str:
        """What the model is told of it."""
        text = joined(self.content)
        return f"Error: {text}" if self.is_error else text


class ToolUseBlock(CachedPart):
    """What the model called.

    Attributes:
        type: Says so.
        id: What the block with its result calls it.
        name: Of the tool.
        input: What it was called with.
        caller: Not looked at: who called it, which can be the model alone.
    """

    type: Literal["tool_use"]
    id: CallId
    name: ToolName
    input: dict[str, Any]
    caller: dict[str, Any] | None = None


class ThinkingBlock(AnthropicPart):
    """What the model thought before it answered, for templates that read it.

    Attributes:
        type: Says so.
        thinking: It.
        signature: Not looked at.
    """

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(AnthropicPart):
    """What the model thought and nobody can read: it is left out.

    Attributes:
        type: Says so.
        data: Not looked at.
    """

    type: Literal["redacted_thinking"]
    data: str


def _by_type(tags: Mapping[str, str], served: str) -> Discriminator:
    """Return what tells blocks apart by their type.

    Args:
        tags: Of those that are served, by type.
        served: Their types, to be told of any other.
    """

    def tag(given: Any) -> str | None:
        kind = given.get("type") if isinstance(given, dict) else None
        return tags.get(kind) if isinstance(kind, str) else None

    return Discriminator(
        tag,
        custom_error_type="block",
        custom_error_message=f"only blocks of type {served} are served here",
    )


_TextTag: TypeAlias = Annotated[TextBlock, Tag("text-block")]

UserBlock: TypeAlias = Annotated[
    _TextTag | Annotated[ToolResultBlock, Tag("result-block")],
    _by_type({"text": "text-block", "tool_result": "result-block"}, "text and tool_result"),
]
"""Some of what the user says."""

ModelBlock: TypeAlias = Annotated[
    _TextTag
    | Annotated[ToolUseBlock, Tag("call-block")]
    | Annotated[ThinkingBlock, Tag("thinking-block")]
    | Annotated[RedactedThinkingBlock, Tag("redacted-block")],
    _by_type(
        {
            "text": "text-block",
            "tool_use": "call-block",
            "thinking": "thinking-block",
            "redacted_thinking": "redacted-block",
        },
        "text, tool_use, thinking and redacted_thinking",
    ),
]
"""Some of what the model says."""
