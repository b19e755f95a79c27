"""What the routes of the Messages API answer."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from sanic import HTTPResponse, Request

from rbee_runtime.errors import RuntimeFault
from rbee_runtime.events import Event
from rbee_service.anthropic.answer import MessageBody, TokensBody
from rbee_service.anthropic.errors import AnthropicErrorBody, failure_body
from rbee_service.anthropic.events import EVENTS, PING, encode_message_event
from rbee_service.anthropic.request import CountRequest, MessagesRequest
from rbee_service.anthropic.writer import MessageEvent, MessageWriter
from rbee_service.compact_json import json_bytes
from rbee_service.errors import ApiError
from rbee_service.events import End, Output, StopReason, TokenOutput
from rbee_service.faults import refusal
from rbee_service.http.descriptions import DEADLINE, refusals
from rbee_service.http.inferences import Begun, Inferences
from rbee_service.http.intake import read_manner
from rbee_service.http.model_routes import check_model
from rbee_service.http.openai_stream import chunks
from rbee_service.http.replies import json_reply, parts_reply, stream_reply
from rbee_service.inference import Account
from rbee_service.model_kinds import LANGUAGE_MODEL
from rbee_service.model_loader import ChatTokenizer
from rbee_service.openai.parsing import parse_openai
from rbee_service.openai.prompt import WrittenChat, write_chat
from rbee_service.openai.requests import ChatRequest
from rbee_service.openapi import Answer, Content, Operation, Parameter, Stream
from rbee_service.sse import SseDialect

_GROUP: Final = "Anthropic"
_REQUEST_ID: Final = Parameter(
    "header",
    "request-id",
    "What the client calls the request: at most 128 visible ASCII characters; else it gets a name.",
)
_EXAMPLE: Final = {"model": "hf:org/name", "messages": [{"role": "user", "content": "Hello"}]}
_NO_MODEL: Final = Answer("This model is not served here.", (Content(AnthropicErrorBody),))


def _example_stream() -> str:
    """Return a short stream."""
    account = Account(tokens_in=3, tokens_reused=0, tokens_out=1, stop=StopReason.EOS)
    chat = WrittenChat("Hello")
    writer = MessageWriter("msg_1", "hf:org/name", 3, 16, chat, shows_thinking=True)
    events = [
        *writer.first(),
        *writer.add(Output(TokenOutput("Hi", 0), 1)),
        *writer.end(account.stop),
        *writer.last(account),
    ]
    return b"".join(map(encode_message_event, events)).decode()


MESSAGE: Final = Operation(
    _GROUP,
    "Answer what was said so far, block by block",
    {
        200: Answer(
            "The answer; where `stream` is true, what becomes of it. A stream that fails ends with "
            "`error`.",
            (Content(MessageBody), Stream(EVENTS, _example_stream(), last=None, named=True)),
        ),
        404: _NO_MODEL,
        **refusals(400, 408, 413, 503, 504, 507, failure=AnthropicErrorBody),
    },
    description="A member that is not served is refused by name, never ignored. The token may come "
    "in `x-api-key` too.",
    bodies=(MessagesRequest,),
    example=_EXAMPLE | {"max_tokens": 16},
    parameters=(DEADLINE,),
    echoed=(_REQUEST_ID,),
    failure=AnthropicErrorBody,
)
COUNT: Final = Operation(
    _GROUP,
    "Count the tokens of what was said so far",
    {
        200: Answer("As many as an answer to it would read.", (Content(TokensBody),)),
        404: _NO_MODEL,
        **refusals(400, 408, 413, 503, failure=AnthropicErrorBody),
    },
    bodies=(CountRequest,),
    example=_EXAMPLE,
    echoed=(_REQUEST_ID,),
    failure=AnthropicErrorBody,
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request as its model reads it.

    Attributes:
        chat: What it is asked in place of it.
        written: The prompt of that.
        tokens: Ids of the prompt.
    """

    chat: ChatRequest
    written: WrittenChat
    tokens: list[int]


async def answer(inferences: Inferences, request: Request) -> HTTPResponse | None:
    """Answer ``POST /v1/messages``.

    Args:
        inferences: Begins the inference.
        request: What was sent.

    Raises:
        ApiError: It is refused, or cannot be finished.
        InvalidFields: It can never be served.
    """
    inferences.check(LANGUAGE_MODEL)
    body = parse_openai(MessagesRequest, request.body)
    check_model(inferences, body.model)
    asked = await _asked(inferences, body)
    manner = read_manner(request, SseDialect.OUTPUT)
    manner.check_deadline()
    room = inferences.loaded.context_length - len(asked.tokens)
    name = uuid.uuid4().hex
    ask = partial(
        asked.chat.to_runtime,
        name,
        asked.tokens,
        # As much as there is room for: what it comes to shows in how the answer ends.
        max(min(body.max_tokens, room), 1),
        manner.deadline,
        constraint=asked.written.held_to,
        shown=asked.written.shown,
    )
    writer = MessageWriter(
        f"msg_{name}",
        inferences.model,
        len(asked.tokens),
        body.max_tokens,
        asked.written,
        shows_thinking=body.shows_thinking,
    )
    async with inferences.begun(LANGUAGE_MODEL, request, f"msg_{name}", name, ask) as begun:
        if body.stream:
            await stream_reply(request, chunks([_Message(begun, writer)], _Events()), PING)
            return None
        async for told in begun.outputs():
            writer.add(told)
    account = begun.account
    writer.end(account.stop)
    return await parts_reply(request, [json_bytes(writer.whole(account))])


async def count(inferences: Inferences, request: Request) -> HTTPResponse:
    """Answer ``POST /v1/messages/count_tokens``; for arguments and faults see :func:`answer`."""
    inferences.check(LANGUAGE_MODEL)
    body = parse_openai(CountRequest, request.body)
    check_model(inferences, body.model)
    asked = await _asked(inferences, body)
    counted: TokensBody = {"input_tokens": len(asked.tokens)}
    return json_reply(counted)


async def _asked(inferences: Inferences, body: CountRequest) -> _Asked:
    """Return a request as its model reads it, without holding up others."""
    try:
        return await asyncio.to_thread(_read, inferences.loaded.tokenizer, body)
    except RuntimeFault as fault:
        raise refusal(fault) from fault


def _read(tokenizer: ChatTokenizer, body: CountRequest) -> _Asked:
    chat = body.to_chat(tokenizer)
    written = write_chat(tokenizer, chat)
    return _Asked(chat, written, tokenizer.encode(written.prompt, "messages"))


@dataclass(frozen=True, slots=True)
class _Message:
    """Tells of an answer while it comes."""

    begun: Begun[Event, TokenOutput]
    writer: MessageWriter

    def first(self) -> Iterator[MessageEvent]:
        yield from self.writer.first()

    def pieces(self, told: Output[TokenOutput]) -> Iterator[MessageEvent]:
        yield from self.writer.add(told)

    def last(self, ended: End) -> Iterator[MessageEvent]:
        yield from self.writer.end(ended.stop_reason)
        yield from self.writer.last(self.begun.account)


class _Events:
    """Writes the events of an answer."""

    def piece(self, event: MessageEvent) -> list[bytes | bytearray]:
        return [encode_message_event(event)]

    def failed(self, failure: ApiError) -> list[bytes | bytearray]:
        return [encode_message_event(failure_body(failure))]

    def done(self) -> bytes:
        return b""
