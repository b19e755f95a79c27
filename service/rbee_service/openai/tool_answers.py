"""Calls of functions in the shapes that clients of the OpenAI API read."""

from __future__ import annotations

import secrets
import string
from typing import Final, Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

from rbee_runtime.constraint import ToolCalls
from rbee_runtime.tools import Arguments, CallBegun, CallReader, Said, Text
from rbee_service.events import StopReason

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]

_ID_LENGTH: Final = 9
"""The one length that chat templates were seen to insist on, when a call comes back to them."""


class AnsweredFunction(TypedDict):
    """What is called, and how."""

    name: str
    arguments: str


class AnsweredCall(TypedDict):
    """A call of a function."""

    id: str
    type: Literal["function"]
    function: AnsweredFunction


class FunctionDelta(TypedDict):
    """What is added to a call: its name at first, then more and more of its arguments."""

    name: NotRequired[str]
    arguments: str


class CallDelta(TypedDict):
    """Some of a call; what it is called comes with its first piece."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class AnswerDelta(TypedDict):
    """What is added to an answer."""

    content: NotRequired[str]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[CallDelta]]


class CallTeller:
    """Tells what an answer says and calls, while it comes.

    Args:
        held_to: What the answer is held to.
    """

    def __init__(self, held_to: ToolCalls) -> None:
        self._reader = CallReader(held_to.form, required=held_to.required)
        self._content = ""
        self._calls: list[AnsweredCall] = []

    def push(self, text: str) -> list[AnswerDelta]:
        """Return what is added by some text of the answer."""
        return [self._told(said) for said in self._reader.push(text)]

    def flush(self, stop: StopReason) -> list[AnswerDelta]:
        """Return what was held back, at the end."""
        cut_off = stop is StopReason.MAX_TOKENS
        return [self._told(said) for said in self._reader.flush(cut_off=cut_off)]

    @property
    def content(self) -> str | None:
        """All the text; ``None`` where there are calls and no text."""
        return self._content if self._content or not self._calls else None

    @property
    def calls(self) -> list[AnsweredCall]:
        """All the calls, the last of them as far as it came."""
        return self._calls

    def finish_reason(self, stop: StopReason) -> FinishReason:
        """Return OpenAI's word for why the answer ended that was not cancelled."""
        if stop is StopReason.MAX_TOKENS:
            return "length"
        return "tool_calls" if self._calls and not self._reader.is_within_call else "stop"

    def _told(self, said: Said) -> AnswerDelta:
        match said:
            case Text(text):
                self._content += text
                return {"content": text}
            case CallBegun(name):
                call: AnsweredCall = {
                    "id": _call_id(),
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                }
                self._calls.append(call)
                begun: CallDelta = {
                    "index": len(self._calls) - 1,
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                }
                return {"tool_calls": [begun]}
            case Arguments(text):
                self._calls[-1]["function"]["arguments"] += text
                more: CallDelta = {
                    "index": len(self._calls) - 1,
                    "function": {"arguments": text},
                }
                return {"tool_calls": [more]}


def _call_id() -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(_ID_LENGTH))
