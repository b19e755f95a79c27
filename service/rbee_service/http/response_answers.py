"""What the routes of the Responses API answer."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from sanic import HTTPResponse, Request

from rbee_runtime.events import Event
from rbee_service.errors import ApiError
from rbee_service.events import End, Output, StopReason, TokenOutput
from rbee_service.http.chat_prompts import written_chat
from rbee_service.http.descriptions import DEADLINE, REQUEST_ID, refusals
from rbee_service.http.inferences import Begun, Inferences
from rbee_service.http.intake import read_manner
from rbee_service.http.model_routes import NO_MODEL, OPENAI, check_model
from rbee_service.http.openai_stream import chunks
from rbee_service.http.replies import parts_reply, stream_reply
from rbee_service.inference import Account
from rbee_service.model_kinds import LANGUAGE_MODEL
from rbee_service.openai.errors import OpenAiErrorBody
from rbee_service.openai.logprobs import ChatLogprobsTeller
from rbee_service.openai.parsing import parse_openai
from rbee_service.openai.prompt import WrittenChat
from rbee_service.openai.responses.answer import ResponseBody
from rbee_service.openai.responses.events import EVENTS, ResponseEvent
from rbee_service.openai.responses.request import ResponsesRequest
from rbee_service.openai.responses.writer import ResponseWriter
from rbee_service.openapi import Answer, Content, Operation, Stream
from rbee_service.sse import SseDialect

_EXAMPLE: Final = {"model": "hf:org/name", "input": "Hello", "max_output_tokens": 16}


def _example_stream() -> str:
    """Return a short stream."""
    account = Account(tokens_in=3, tokens_reused=0, tokens_out=1, stop=StopReason.EOS)
    request = ResponsesRequest.model_validate(_EXAMPLE)
    writer = ResponseWriter("1", 1738324800, request, WrittenChat("Hello"), None)
    events = [
        *writer.first(),
        *writer.add(Output(TokenOutput("Hi", 0), 1)),
        *writer.end(account.stop),
        writer.last(account, 1738324801),
    ]
    encoded = [event.encode(number) for number, event in enumerate(events)]
    return b"".join(part for parts in encoded for part in parts).decode()


RESPONSE: Final = Operation(
    OPENAI,
    "Answer what was said so far, item by item",
    {
        200: Answer(
            "The answer; where `stream` is true, what becomes of it. A stream that fails ends with "
            "`response.failed`.",
            (
                Content(ResponseBody),
                Stream(EVENTS, _example_stream(), last=None, named=True),
            ),
        ),
        404: NO_MODEL,
        **refusals(400, 408, 413, 503, 504, 507, failure=OpenAiErrorBody),
    },
    description="Nothing is stored. A member that is not served is refused by name, never ignored.",
    bodies=(ResponsesRequest,),
    example=_EXAMPLE,
    parameters=(DEADLINE,),
    echoed=(REQUEST_ID,),
    failure=OpenAiErrorBody,
)


async def answer(inferences: Inferences, request: Request) -> HTTPResponse | None:
    """Answer ``POST /v1/responses``.

    Args:
        inferences: Begins the inference.
        request: What was sent.

    Raises:
        ApiError: It is refused, or cannot be finished.
        InvalidFields: It can never be served.
    """
    inferences.check(LANGUAGE_MODEL)
    body = parse_openai(ResponsesRequest, request.body)
    check_model(inferences, body.model)
    asked = body.to_chat()
    chat = await written_chat(inferences, asked)
    manner = read_manner(request, SseDialect.OUTPUT)
    manner.check_deadline()
    name = uuid.uuid4().hex
    ask = partial(
        asked.to_runtime,
        name,
        chat.prompt,
        asked.new_tokens,
        manner.deadline,
        constraint=chat.held_to,
        shown=chat.shown,
    )
    tokens = ChatLogprobsTeller(inferences.loaded.tokenizer) if body.has_logprobs else None
    writer = ResponseWriter(name, int(time.time()), body, chat, tokens)
    begin = inferences.begun(LANGUAGE_MODEL, request, f"resp_{name}", name, ask)
    async with begin as begun:
        if body.stream:
            await stream_reply(request, chunks([_Response(begun, writer)], _Events(writer)))
            return None
        async for told in begun.outputs():
            writer.add(told)
            if body.has_logprobs:
                # To write them takes time, and many may be there at once.
                await asyncio.sleep(0)
    account = begun.account
    writer.end(account.stop)
    return await parts_reply(request, writer.whole(account, int(time.time())))


@dataclass(frozen=True, slots=True)
class _Response:
    """Tells of a response while it comes."""

    begun: Begun[Event, TokenOutput]
    writer: ResponseWriter

    def first(self) -> Iterator[ResponseEvent]:
        yield from self.writer.first()

    def pieces(self, told: Output[TokenOutput]) -> Iterator[ResponseEvent]:
        yield from self.writer.add(told)

    def last(self, ended: End) -> Iterator[ResponseEvent]:
        yield from self.writer.end(ended.stop_reason)
        yield self.writer.last(self.begun.account, int(time.time()))


class _Events:
    """Numbers the events of a response."""

    def __init__(self, writer: ResponseWriter) -> None:
        self._writer = writer
        self._count = 0

    def piece(self, event: ResponseEvent) -> list[bytes | bytearray]:
        self._count += 1
        return event.encode(self._count - 1)

    def failed(self, failure: ApiError) -> list[bytes | bytearray]:
        return self.piece(self._writer.failed(failure))

    def done(self) -> bytes:
        return b""
