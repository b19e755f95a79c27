"""The OpenAI API of a language model: chats and completions."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Final

import structlog
from sanic import HTTPResponse, Request

from rbee_runtime.errors import RuntimeFault
from rbee_service.errors import ApiError, ErrorCode
from rbee_service.events import End, Failed, Output
from rbee_service.faults import refusal
from rbee_service.http.app import App, shape_failures
from rbee_service.http.concurrently import merged
from rbee_service.http.descriptions import DEADLINE, REQUEST_ID, refusals
from rbee_service.http.inferences import Inferences
from rbee_service.http.intake import read_manner
from rbee_service.http.model_routes import NO_MODEL, OPENAI, check_model
from rbee_service.http.openai_choice import Choice, check_choices
from rbee_service.http.replies import BLOCK, parts_reply, stream_reply
from rbee_service.model_kinds import LANGUAGE_MODEL
from rbee_service.openai_answers import (
    ChatChunkBody,
    ChatCompletionBody,
    Envelope,
    TextChunkBody,
    TextCompletionBody,
)
from rbee_service.openai_errors import OpenAiErrorBody, failure_body
from rbee_service.openai_logprobs import (
    ChatLogprobsTeller,
    LogprobsTeller,
    TextLogprobsTeller,
)
from rbee_service.openai_parsing import parse_openai
from rbee_service.openai_prompt import WrittenChat, write_chat
from rbee_service.openai_requests import ChatRequest, OpenAiFields, TextRequest
from rbee_service.openai_usage import account_of
from rbee_service.openapi import Answer, Content, Operation, Stream
from rbee_service.sse import DONE, SseDialect, encode_data

_CHAT_STREAM: Final = """\
data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1738324800,\
"model":"hf:org/name","choices":[{"index":0,"delta":{"role":"assistant","content":""},\
"logprobs":null,"finish_reason":null}]}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1738324800,\
"model":"hf:org/name","choices":[{"index":0,"delta":{"content":"Hello"},\
"logprobs":null,"finish_reason":null}]}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1738324800,\
"model":"hf:org/name","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}

data: [DONE]

"""
_TEXT_STREAM: Final = """\
data: {"id":"cmpl-1","object":"text_completion","created":1738324800,"model":"hf:org/name",\
"choices":[{"index":0,"text":"Hello","logprobs":null,"finish_reason":null}]}

data: {"id":"cmpl-1","object":"text_completion","created":1738324800,"model":"hf:org/name",\
"choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}]}

data: [DONE]

"""


def _completion(
    summary: str, body: type, example: Mapping[str, object], whole: type, stream: Stream
) -> Operation:
    return Operation(
        OPENAI,
        summary,
        {
            200: Answer(
                "The answer; where `stream` is true, its pieces. A stream that fails has an "
                "`error` before its `[DONE]`.",
                (Content(whole), stream),
            ),
            404: NO_MODEL,
            **refusals(400, 408, 413, 503, 504, 507, failure=OpenAiErrorBody),
        },
        description="A member that is not served is refused by name, never ignored.",
        bodies=(body,),
        example={"model": "hf:org/name", "max_tokens": 16, **example},
        parameters=(DEADLINE,),
        echoed=(REQUEST_ID,),
        failure=OpenAiErrorBody,
    )


_CHAT: Final = _completion(
    "Answer a chat",
    ChatRequest,
    {"messages": [{"role": "user", "content": "Hello"}]},
    ChatCompletionBody,
    Stream((ChatChunkBody, OpenAiErrorBody), _CHAT_STREAM),
)
_TEXT: Final = _completion(
    "Continue a text",
    TextRequest,
    {"prompt": "Once"},
    TextCompletionBody,
    Stream((TextChunkBody, OpenAiErrorBody), _TEXT_STREAM),
)


def add_openai_routes(app: App, inferences: Inferences) -> None:
    """Add ``/v1/chat/completions`` and ``/v1/completions``.

    Args:
        app: Where to.
        inferences: Begins them.
    """

    taking_several = asyncio.Lock()

    async def chat(request: Request) -> HTTPResponse | None:
        inferences.check(LANGUAGE_MODEL)
        body = parse_openai(ChatRequest, request.body)
        try:
            written = await asyncio.to_thread(write_chat, inferences.loaded.tokenizer, body)
        except RuntimeFault as fault:
            raise refusal(fault) from fault
        return await answer(request, body, written.prompt, body.new_tokens, written)

    async def text(request: Request) -> HTTPResponse | None:
        inferences.check(LANGUAGE_MODEL)
        body = parse_openai(TextRequest, request.body)
        return await answer(request, body, body.prompt, body.max_tokens)

    async def answer(
        request: Request,
        body: OpenAiFields,
        prompt: str | list[int],
        max_tokens: int | None,
        chat: WrittenChat | None = None,
    ) -> HTTPResponse | None:
        check_model(inferences, body.model)
        check_choices(inferences.loaded.status(), body.n)
        manner = read_manner(request, SseDialect.OUTPUT)
        manner.check_deadline()
        request_id = uuid.uuid4().hex
        name = f"{'chatcmpl' if chat else 'cmpl'}-{request_id}"
        envelope = Envelope(
            name,
            int(time.time()),
            inferences.model,
            chat is not None,
            predicted=bool(body.expected),
        )

        async def begin(index: int) -> Choice:
            own_id = f"{request_id}-{index}" if index else request_id
            ask = partial(
                body.to_runtime,
                own_id,
                prompt,
                max_tokens,
                manner.deadline,
                # One for all choices, so that it is compiled once.
                constraint=chat.held_to if chat else None,
                shown=chat.shown if chat else frozenset(),
                index=index,
            )
            begun = await stack.enter_async_context(
                inferences.begun(LANGUAGE_MODEL, request, name, own_id, ask)
            )
            logprobs: LogprobsTeller | None = None
            if body.alternatives is not None:
                kind = ChatLogprobsTeller if chat else TextLogprobsTeller
                logprobs = kind(inferences.loaded.tokenizer)
            return Choice(begun, replace(envelope, index=index), chat, logprobs)

        async with AsyncExitStack() as stack:
            # Of requests that take their places at once, each might get some of them and none all.
            async with taking_several if body.n > 1 else nullcontext():
                choices = [await begin(index) for index in range(body.n)]
            if body.stream:
                await stream_reply(request, _chunks(choices, body.include_usage))
                return None
            async with aclosing(merged([one.begun.outputs() for one in choices])) as outputs:
                async for index, told in outputs:
                    choices[index].take(told)
                    if body.alternatives is not None:
                        # To write them takes time, and many may be there at once.
                        await asyncio.sleep(0)
        account = account_of([one.account for one in choices])
        return await parts_reply(request, envelope.whole([one.whole() for one in choices], account))

    shape_failures(app, "/v1/chat", partial(failure_body, prompt="messages"))
    shape_failures(app, "/v1/completions", failure_body)
    post = ["POST"]
    app.add_route(chat, "/v1/chat/completions", methods=post, name="chat", ctx_operation=_CHAT)
    app.add_route(text, "/v1/completions", methods=post, name="completions", ctx_operation=_TEXT)


async def _chunks(choices: Sequence[Choice], include_usage: bool) -> AsyncGenerator[bytes, None]:
    # Where the tokens are counted in the end, every chunk before says that it does not count them.
    uncounted: dict[str, object] = {"usage": None} if include_usage else {}
    left = len(choices)
    try:
        for choice in choices:
            for first in choice.first():
                yield encode_data(first | uncounted)
        streams = [choice.begun.inference.batches() for choice in choices]
        async with aclosing(merged(streams)) as batches:
            async for index, batch in batches:
                choice, chunk = choices[index], b""
                for event in batch:
                    if len(chunk) >= BLOCK:
                        # A slow client's are many, and others wait.
                        yield chunk
                        chunk = b""
                        await asyncio.sleep(0)
                    match event:
                        case Output():
                            for piece in choice.pieces(event):
                                chunk += encode_data(piece | uncounted)
                        case End() | Failed():
                            lacking = choice.begun.lacking
                            if lacking is not None:
                                yield chunk + encode_data(failure_body(lacking)) + DONE
                                return
                            if isinstance(event, End):
                                for piece in choice.last(event):
                                    chunk += encode_data(piece | uncounted)
                            left -= 1
                if left == 0:
                    if include_usage:
                        account = account_of([one.account for one in choices])
                        chunk += encode_data(choice.envelope.count(account))
                    chunk += DONE
                yield chunk
    except Exception:
        # A client must read an end even where the fault is ours.
        structlog.get_logger().exception("An event could not be told")
        internal = ApiError(ErrorCode.INTERNAL, "internal error")
        yield encode_data(failure_body(internal)) + DONE
