"""The items of an answer of the Responses API, while they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rbee_runtime.logprobs import TokenLogprobs
from rbee_service.compact_json import json_bytes
from rbee_service.openai.logprobs import ChatLogprobsTeller
from rbee_service.openai.responses.answer import ItemStatus
from rbee_service.openai.responses.events import ResponseEvent, written_object


@dataclass(frozen=True, slots=True)
class TextForm:
    """What an item is called that has some text.

    Attributes:
        prefix: What its id begins with.
        events: What the names of the events of its text begin with.
        item: What the item has in any case.
        part: What the one part of its content has in any case.
        with_logprobs: Whether its tokens are told of.
    """

    prefix: str
    events: str
    item: Mapping[str, Any]
    part: Mapping[str, Any]
    with_logprobs: bool = False


SAID: Final = TextForm(
    "msg",
    "response.output_text",
    {"type": "message", "role": "assistant"},
    {"type": "output_text", "annotations": []},
    with_logprobs=True,
)
THOUGHT: Final = TextForm(
    "rs",
    "response.reasoning_text",
    {"type": "reasoning", "summary": []},
    {"type": "reasoning_text"},
)


class TextItem:
    """What the model says or thinks.

    Args:
        name: What its id ends with.
        index: Its place among the items.
        form: Which of the two.
        logprobs: Tells of the tokens of what is said, where that was asked for.

    Attributes:
        form: Which of the two.
        written: All of it as JSON, once it has ended.
    """

    def __init__(
        self, name: str, index: int, form: TextForm, logprobs: ChatLogprobsTeller | None = None
    ) -> None:
        self.form = form
        self.written: list[bytes | bytearray] = []
        self._id = f"{form.prefix}_{name}"
        self._index = {"output_index": index}
        self._place = {"item_id": self._id, "output_index": index, "content_index": 0}
        self._texts: list[str] = []
        self._teller = logprobs if form.with_logprobs else None
        self._logprobs = bytearray()

    def begin(self) -> Iterator[ResponseEvent]:
        """Yield the events that come before its text."""
        item = {"item": self._item("in_progress", [])}
        part = {"part": self._part("", b"")}
        yield ResponseEvent("response.output_item.added", self._index, item)
        yield ResponseEvent("response.content_part.added", self._place, part)

    def add(self, text: str, tokens: Sequence[TokenLogprobs]) -> Iterator[ResponseEvent]:
        """Yield the event of some more text.

        Args:
            text: It.
            tokens: Those that came with it.
        """
        self._texts.append(text)
        yield self._of_text("delta", {"delta": text}, self._tell(tokens))

    def end(
        self, status: ItemStatus, tokens: Sequence[TokenLogprobs] = ()
    ) -> Iterator[ResponseEvent]:
        """Yield the events that come after its text.

        Args:
            status: Whether it is whole.
            tokens: Those that came last and have no text.
        """
        self._tell(tokens)
        text = "".join(self._texts)
        part = self._part(text, self._logprobs)
        self.written = self._item(status, part)
        yield self._of_text("done", {"text": text}, self._logprobs)
        yield ResponseEvent("response.content_part.done", self._place, {"part": part})
        yield ResponseEvent("response.output_item.done", self._index, {"item": self.written})

    def _of_text(
        self, kind: str, members: Mapping[str, Any], logprobs: bytes | bytearray
    ) -> ResponseEvent:
        kind = f"{self.form.events}.{kind}"
        return ResponseEvent(kind, {**self._place, **members}, self._with(logprobs))

    def _tell(self, tokens: Sequence[TokenLogprobs]) -> bytes:
        """Return what is told of some tokens: the inside of an array of JSON."""
        if self._teller is None or not tokens:
            return b""
        told = json_bytes(self._teller.tell(tokens)["content"])[1:-1]
        self._logprobs += (b"," if self._logprobs else b"") + told
        return told

    def _part(self, text: str, logprobs: bytes | bytearray) -> list[bytes | bytearray]:
        return written_object({**self.form.part, "text": text}, self._with(logprobs))

    def _item(self, status: ItemStatus, part: list[bytes | bytearray]) -> list[bytes | bytearray]:
        members = {"id": self._id, **self.form.item, "status": status}
        return written_object(members, {"content": [b"[", *part, b"]"]})

    def _with(self, logprobs: bytes | bytearray) -> Mapping[str, list[bytes | bytearray]]:
        return {"logprobs": [b"[", logprobs, b"]"]} if self.form.with_logprobs else {}


class CallItem:
    """A call of a function.

    Args:
        name: What its id ends with.
        index: Its place among the items.
        call_id: What the item with its result is to call it.
        function: What is called.

    Attributes:
        written: All of it as JSON, once it has ended.
    """

    def __init__(self, name: str, index: int, call_id: str, function: str) -> None:
        self.written: list[bytes | bytearray] = []
        self._id = f"fc_{name}"
        self._index = {"output_index": index}
        self._place = {"item_id": self._id, "output_index": index}
        self._called = {"call_id": call_id, "name": function}
        self._arguments: list[str] = []

    def begin(self) -> Iterator[ResponseEvent]:
        """Yield the event that comes before its arguments."""
        item = {"item": self._item("in_progress")}
        yield ResponseEvent("response.output_item.added", self._index, item)

    def add(self, text: str) -> Iterator[ResponseEvent]:
        """Yield the event of some more of its arguments."""
        self._arguments.append(text)
        yield ResponseEvent(
            "response.function_call_arguments.delta", {**self._place, "delta": text}
        )

    def end(self, status: ItemStatus, _: Sequence[TokenLogprobs] = ()) -> Iterator[ResponseEvent]:
        """Yield the events that come after its arguments.

        Args:
            status: Whether it is whole.
        """
        self.written = self._item(status)
        said = {"name": self._called["name"], "arguments": "".join(self._arguments)}
        yield ResponseEvent("response.function_call_arguments.done", {**self._place, **said})
        yield ResponseEvent("response.output_item.done", self._index, {"item": self.written})

    def _item(self, status: ItemStatus) -> list[bytes | bytearray]:
        members = {"id": self._id, "type": "function_call", "status": status, **self._called}
        return [json_bytes({**members, "arguments": "".join(self._arguments)})]
