"""Events of a streamed answer of the Responses API, as its clients read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from typing_extensions import TypedDict

from rbee_service.compact_json import Parts, json_bytes
from rbee_service.openai.logprobs import ContentLogprob
from rbee_service.openai.responses.answer import (
    OutputItem,
    OutputTextBody,
    ReasoningTextBody,
    ResponseBody,
)


@dataclass(frozen=True, slots=True)
class ResponseEvent:
    """Something that a client is told while its answer comes.

    Attributes:
        kind: What.
        members: The rest of it.
        written: What of the rest is JSON already: texts are told several times, and with their
            tokens they may be long.
    """

    kind: str
    members: Mapping[str, object]
    written: Mapping[str, list[bytes | bytearray]] = field(default_factory=dict)

    def encode(self, number: int) -> list[bytes | bytearray]:
        """Return the bytes of the event, in parts.

        Args:
            number: How many events precede it.
        """
        members = {"type": self.kind, "sequence_number": number, **self.members}
        data = written_object(members, self.written)
        return [b"event: %b\ndata: " % self.kind.encode(), *data, b"\n\n"]


def written_object(
    members: Mapping[str, object], written: Mapping[str, Parts]
) -> list[bytes | bytearray]:
    """Return an object as JSON, some of whose members are that already.

    Args:
        members: At least one.
        written: Those that are.
    """
    told: list[bytes | bytearray] = [json_bytes(members)[:-1]]
    for name, parts in written.items():
        told += [b"," + json_bytes(name) + b":", *parts]
    return [*told, b"}"]


class LifecycleEvent(TypedDict):
    """How far the response has come."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    sequence_number: int
    response: ResponseBody


class ItemEvent(TypedDict):
    """An item begins or is whole."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: int
    output_index: int
    item: OutputItem


class PartEvent(TypedDict):
    """A part of an item begins or is whole."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: OutputTextBody | ReasoningTextBody


class TextDeltaEvent(TypedDict):
    """What is added to what the model says."""

    type: Literal["response.output_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[ContentLogprob]


class TextDoneEvent(TypedDict):
    """All that the model said in a part."""

    type: Literal["response.output_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[ContentLogprob]


class ReasoningDeltaEvent(TypedDict):
    """What is added to what the model thinks."""

    type: Literal["response.reasoning_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str


class ReasoningDoneEvent(TypedDict):
    """All that the model thought."""

    type: Literal["response.reasoning_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str


class ArgumentsDeltaEvent(TypedDict):
    """What is added to the arguments of a call."""

    type: Literal["response.function_call_arguments.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class ArgumentsDoneEvent(TypedDict):
    """All the arguments of a call."""

    type: Literal["response.function_call_arguments.done"]
    sequence_number: int
    item_id: str
    output_index: int
    name: str
    arguments: str


EVENTS: Final = (
    LifecycleEvent,
    ItemEvent,
    PartEvent,
    TextDeltaEvent,
    TextDoneEvent,
    ReasoningDeltaEvent,
    ReasoningDoneEvent,
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
)
"""The shapes of all events of a stream."""
