"""The OpenAI API of a language model: chats and completions."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Final

from sanic import HTTPResponse, Request

from rbee_service.errors import ApiError
from rbee_service.http.app import App, shape_failures
from rbee_service.http.chat_prompts import written_chat
from rbee_service.http.concurrently import merged
from rbee_service.http.descriptions import DEADLINE, REQUEST_ID, refusals
from rbee_service.http.inferences import Inferences
from rbee_service.http.intake import read_manner
from rbee_service.http.model_routes import NO_MODEL, OPENAI, check_model
from rbee_service.http.openai_choice import Choice, check_choices
from rbee_service.http.openai_stream import chunks
from rbee_service.http.replies import parts_reply, stream_reply
from rbee_service.model_kinds import LANGUAGE_MODEL
from rbee_service.openai.answers import (
    ChatChunkBody,
    ChatCompletionBody,
    Envelope,
    TextChunkBody,
    TextCompletionBody,
)
from rbee_service.openai.errors import OpenAiErrorBody, failure_body
from rbee_service.openai.logprobs import (
    ChatLogprobsTeller,
    LogprobsTeller,
    TextLogprobsTeller,
)
from rbee_service.openai.parsing import parse_openai
from rbee_service.openai.prompt import WrittenChat
from rbee_service.openai.requests import ChatRequest, OpenAiFields, TextRequest
from rbee_service.openai.usage import account_of
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
        written = await written_chat(inferences, body)
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
                wording = _Chunks(choices, include_usage=body.include_usage)
                await stream_reply(request, chunks(choices, wording))
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


class _Chunks:
    """Writes a stream of chunks.

    Args:
        choices: What they are of.
        include_usage: Whether a last one counts the tokens.
    """

    def __init__(self, choices: Sequence[Choice], *, include_usage: bool) -> None:
        self._choices = choices
        self._include_usage = include_usage
        # Where the tokens are counted in the end, every chunk before says that it does not.
        self._uncounted: dict[str, object] = {"usage": None} if include_usage else {}

    def piece(self, piece: dict[str, object]) -> list[bytes | bytearray]:
        """Return the bytes of a chunk."""
        return [encode_data(piece | self._uncounted)]

    def failed(self, failure: ApiError) -> list[bytes | bytearray]:
        """Return what ends a stream whose choices cannot all be finished."""
        return [encode_data(failure_body(failure)), DONE]

    def done(self) -> bytes:
        """Return what ends any other."""
        if not self._include_usage:
            return DONE
        account = account_of([one.account for one in self._choices])
        return encode_data(self._choices[0].envelope.count(account)) + DONE
