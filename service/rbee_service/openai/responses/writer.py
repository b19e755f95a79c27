"""Writes an answer of the Responses API, event by event or whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from rbee_runtime.logprobs import TokenLogprobs
from rbee_service.compact_json import Parts, json_array, json_bytes
from rbee_service.errors import ApiError, ErrorCode
from rbee_service.events import MeasuredOutput, Output, StopReason, TokenOutput
from rbee_service.inference import Account
from rbee_service.openai.answer_teller import AnswerTeller
from rbee_service.openai.logprobs import ChatLogprobsTeller
from rbee_service.openai.prompt import WrittenChat
from rbee_service.openai.responses.answer import ItemStatus, response_usage
from rbee_service.openai.responses.events import ResponseEvent, written_object
from rbee_service.openai.responses.items import SAID, THOUGHT, CallItem, TextForm, TextItem
from rbee_service.openai.responses.request import ResponsesRequest
from rbee_service.openai.tool_answers import AnswerDelta

_UNCHANGED: Final = {"error": None, "incomplete_details": None, "usage": None}


class ResponseWriter:
    """Puts an answer together as it comes.

    Args:
        name: What the names of the response and its items have in common.
        created: Unix time in seconds.
        request: What it answers.
        chat: What the model was asked in its place.
        logprobs: Tells of the tokens of what is said, where that was asked for.
    """

    def __init__(
        self,
        name: str,
        created: int,
        request: ResponsesRequest,
        chat: WrittenChat,
        logprobs: ChatLogprobsTeller | None,
    ) -> None:
        self._name = name
        self._head = {"id": f"resp_{name}", "object": "response", "created_at": created}
        # It is told three times in a stream, and may be long.
        self._echo: dict[str, Parts] = {
            key: [json_bytes(value)] for key, value in _echo(request).items()
        }
        self._answer = AnswerTeller(chat)
        self._logprobs = logprobs
        self._items: list[TextItem | CallItem] = []
        self._untold: list[TokenLogprobs] = []

    def first(self) -> list[ResponseEvent]:
        """Return the events that come before all."""
        begun = {"response": self._response("in_progress", {})}
        kinds = ("response.created", "response.in_progress")
        return [ResponseEvent(kind, {}, begun) for kind in kinds]

    def add(self, told: Output[TokenOutput]) -> list[ResponseEvent]:
        """Return the events of some text: none while it may become a marker or a call."""
        if isinstance(told.output, MeasuredOutput):
            self._untold += told.output.logprobs
        thinking = self._answer.reasoning
        ahead = thinking is not None and not thinking.is_over
        deltas = self._answer.push(told.output.t, told.items)
        events = [event for delta in deltas for event in self._add(delta)]
        if ahead and thinking is not None and thinking.was_found:
            self._untold.clear()  # they are not of what is said
        return events

    def end(self, stop: StopReason) -> list[ResponseEvent]:
        """Return the events of what was held back, and of the end of the last item."""
        deltas = self._answer.flush(stop)
        events = [event for delta in deltas for event in self._add(delta)]
        if not self._items:
            events += self._begin(self._text_item(SAID))
        # Where something may be called, what is left over is of a call that never came to be.
        tokens = self._untold if self._answer.calls is None else ()
        return [*events, *self._items[-1].end(self._status_of_last(stop), tokens)]

    def last(self, account: Account, now: int) -> ResponseEvent:
        """Return the event that comes after all.

        Args:
            account: What the engine says of it.
            now: Unix time in seconds.
        """
        kind = "incomplete" if account.stop is StopReason.MAX_TOKENS else "completed"
        return ResponseEvent(f"response.{kind}", {}, {"response": self.whole(account, now)})

    def failed(self, failure: ApiError) -> ResponseEvent:
        """Return the event that comes after all where the answer cannot be finished."""
        refused = failure.code is ErrorCode.INVALID_REQUEST
        error = {"code": "invalid_prompt" if refused else "server_error"}
        changed = {"error": {**error, "message": failure.message}}
        return ResponseEvent("response.failed", {}, {"response": self._response("failed", changed)})

    def whole(self, account: Account, now: int) -> list[bytes | bytearray]:
        """Return all of it, as JSON in parts; for the arguments see :meth:`last`."""
        account = self._answer.completed(account)
        changed: dict[str, object] = {"usage": response_usage(account)}
        if account.stop is StopReason.MAX_TOKENS:
            changed["incomplete_details"] = {"reason": "max_output_tokens"}
            return self._response("incomplete", changed)
        return self._response("completed", changed | {"completed_at": now})

    def _add(self, delta: AnswerDelta) -> Iterator[ResponseEvent]:
        if "reasoning_content" in delta:
            yield from self._add_text(THOUGHT, delta["reasoning_content"])
        if "content" in delta:
            yield from self._add_text(SAID, delta["content"])
        for call in delta.get("tool_calls", ()):
            self._untold.clear()  # of syntax, and of what is no text
            function = call["function"]
            if "id" in call:
                yield from self._begin(self._call_item(call["id"], function["name"]))
            last = self._items[-1]
            if function["arguments"] and isinstance(last, CallItem):
                yield from last.add(function["arguments"])

    def _add_text(self, form: TextForm, text: str) -> Iterator[ResponseEvent]:
        last = self._items[-1] if self._items else None
        if not isinstance(last, TextItem) or last.form is not form:
            last = self._text_item(form)
            yield from self._begin(last)
        tokens, self._untold = self._untold, []
        yield from last.add(text, tokens)

    def _text_item(self, form: TextForm) -> TextItem:
        index = len(self._items)
        return TextItem(f"{self._name}_{index}", index, form, self._logprobs)

    def _call_item(self, call_id: str, function: str) -> CallItem:
        index = len(self._items)
        return CallItem(f"{self._name}_{index}", index, call_id, function)

    def _begin(self, item: TextItem | CallItem) -> Iterator[ResponseEvent]:
        if self._items:
            yield from self._items[-1].end("completed")
        self._items.append(item)
        yield from item.begin()

    def _status_of_last(self, stop: StopReason) -> ItemStatus:
        calls = self._answer.calls
        cut = calls is not None and calls.calls and calls.finish_reason(stop) != "tool_calls"
        return "incomplete" if cut or stop is StopReason.MAX_TOKENS else "completed"

    def _response(self, status: str, changed: Mapping[str, object]) -> list[bytes | bytearray]:
        items = json_array(item.written for item in self._items if item.written)
        members = {**self._head, "status": status, **_UNCHANGED, **changed}
        return written_object(members, {"output": items, **self._echo})


def _echo(request: ResponsesRequest) -> dict[str, object]:
    """Return what an answer repeats of its request, and what of it never changes."""
    choice, reasoning, text = request.tool_choice, request.reasoning, request.text
    return {
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata,
        "model": request.model,
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": None,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": request.temperature,
        "text": {"format": text.format.model_dump(by_alias=True), "verbosity": text.verbosity},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [tool.model_dump() for tool in request.tools],
        "top_logprobs": request.top_logprobs,
        "top_p": request.top_p,
        "truncation": request.truncation,
        "user": request.user,
    }
