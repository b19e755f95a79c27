"""Answers of the Messages API in the shape that its clients read."""

from __future__ import annotations

from typing import Any, Final, Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

from rbee_service.inference import Account

CALL_PREFIX: Final = "toolu_"
"""What ids of calls begin with. Chat templates see the rest: some insist on its length."""

MessageStop: TypeAlias = Literal[
    "end_turn", "max_tokens", "model_context_window_exceeded", "stop_sequence", "tool_use"
]
"""Why an answer ended."""


class TextBlockBody(TypedDict):
    """What the model said."""

    type: Literal["text"]
    text: str


class ThinkingBlockBody(TypedDict):
    """What the model thought.

    Attributes:
        signature: The same of all: nothing is signed.
    """

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlockBody(TypedDict):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


BlockBody: TypeAlias = TextBlockBody | ThinkingBlockBody | ToolUseBlockBody


class MessageTokensBody(TypedDict):
    """What is known of the tokens of an answer.

    Attributes:
        thinking_tokens: Those of what the model thought first, markers included.
    """

    thinking_tokens: int


class MessageUsageBody(TypedDict):
    """A count of tokens.

    Attributes:
        input_tokens: Those of the prompt that had to be computed.
        cache_creation_input_tokens: None are told apart from those.
        cache_read_input_tokens: The others of the prompt, which had been computed before.
        output_tokens: Those of the answer.
    """

    input_tokens: int
    cache_creation_input_tokens: Literal[0]
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: NotRequired[MessageTokensBody]


class MessageBody(TypedDict):
    """An answer, or what there is of it before it comes."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[BlockBody]
    stop_reason: MessageStop | None
    stop_sequence: str | None
    usage: MessageUsageBody


class TokensBody(TypedDict):
    """How long a prompt is."""

    input_tokens: int


def message_usage(account: Account) -> MessageUsageBody:
    """Return what an answer took."""
    usage: MessageUsageBody = {
        "input_tokens": account.tokens_in - account.tokens_reused,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": account.tokens_reused,
        "output_tokens": account.tokens_out,
    }
    if account.reasoning is not None:
        usage["output_tokens_details"] = {"thinking_tokens": account.reasoning}
    return usage
