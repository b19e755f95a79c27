"""Events of a streamed answer of the Messages API, as its clients read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from typing_extensions import TypedDict

from rbee_service.anthropic.answer import BlockBody, MessageBody, MessageStop, MessageUsageBody
from rbee_service.anthropic.errors import AnthropicErrorBody
from rbee_service.compact_json import json_bytes


class MessageStartEvent(TypedDict):
    """The answer begins."""

    type: Literal["message_start"]
    message: MessageBody


class BlockStartEvent(TypedDict):
    """A block begins."""

    type: Literal["content_block_start"]
    index: int
    content_block: BlockBody


class TextAdded(TypedDict):
    """More of what the model says."""

    type: Literal["text_delta"]
    text: str


class ThinkingAdded(TypedDict):
    """More of what it thinks."""

    type: Literal["thinking_delta"]
    thinking: str


class SignatureAdded(TypedDict):
    """What ends what it thinks."""

    type: Literal["signature_delta"]
    signature: str


class InputAdded(TypedDict):
    """More of what it calls a tool with."""

    type: Literal["input_json_delta"]
    partial_json: str


BlockAdded: TypeAlias = TextAdded | ThinkingAdded | SignatureAdded | InputAdded


class BlockDeltaEvent(TypedDict):
    """A block goes on."""

    type: Literal["content_block_delta"]
    index: int
    delta: BlockAdded


class BlockStopEvent(TypedDict):
    """A block is whole."""

    type: Literal["content_block_stop"]
    index: int


class MessageEnd(TypedDict):
    """Why an answer ended."""

    stop_reason: MessageStop
    stop_sequence: str | None


class MessageDeltaEvent(TypedDict):
    """What becomes of the answer as a whole."""

    type: Literal["message_delta"]
    delta: MessageEnd
    usage: MessageUsageBody


class MessageStopEvent(TypedDict):
    """The answer is whole."""

    type: Literal["message_stop"]


class PingEvent(TypedDict):
    """The connection lives."""

    type: Literal["ping"]


EVENTS: Final = (
    MessageStartEvent,
    BlockStartEvent,
    BlockDeltaEvent,
    BlockStopEvent,
    MessageDeltaEvent,
    MessageStopEvent,
    PingEvent,
    AnthropicErrorBody,
)
"""The shapes of all events of a stream."""


def encode_message_event(event: Mapping[str, Any]) -> bytes:
    """Return the bytes of an event, which is named by its type."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json_bytes(event))


PING: Final = encode_message_event({"type": "ping"})
