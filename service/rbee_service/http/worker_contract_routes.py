"""What the newer hive and the queen ask of any worker: ``/info`` and ``/v1/infer``."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Final

from sanic import HTTPResponse, Request
from typing_extensions import TypedDict

from rbee_runtime.events import Event
from rbee_service.completion_request import InferRequest
from rbee_service.events import End, Failed, Output, TokenOutput
from rbee_service.http.app import App
from rbee_service.http.descriptions import DEADLINE, refusals
from rbee_service.http.inferences import Begun, Inferences
from rbee_service.http.intake import take_in
from rbee_service.http.replies import json_reply, stream_reply
from rbee_service.identity import WorkerInfo
from rbee_service.model_kinds import LANGUAGE_MODEL
from rbee_service.openapi import Answer, Content, Operation, Stream
from rbee_service.prompt_request import PRIVATE_FIELDS
from rbee_service.sse import DONE, SseDialect, encode_data


class InferBody(TypedDict):
    """A completion as a whole."""

    text: str
    tokens_generated: int
    duration_ms: int


class PieceBody(TypedDict):
    """Some of the text of a completion."""

    token: str


class BrokenBody(TypedDict):
    """Why a completion went no further."""

    error: str


_INFO: Final = Operation(
    "Standing",
    "Who the worker is, and what it is doing",
    {200: Answer("As in its heartbeats.", (Content(WorkerInfo),))},
)
_STREAM_EXAMPLE: Final = """\
data: {"token":"Once"}

data: {"token":" upon"}

data: [DONE]

"""
_INFER: Final = Operation(
    "Inference",
    "One completion, whole or as it comes",
    {
        200: Answer(
            "The text; where `stream` is true, its pieces. A stream that fails has an `error` "
            "before its `[DONE]`.",
            (Content(InferBody), Stream((PieceBody, BrokenBody), _STREAM_EXAMPLE)),
        ),
        **refusals(400, 408, 413, 503, 504, 507),
    },
    bodies=(InferRequest,),
    example={"prompt": "Once upon a time", "max_tokens": 2},
    parameters=(DEADLINE,),
)


def add_worker_contract_routes(
    app: App, inferences: Inferences, info: Callable[[], WorkerInfo]
) -> None:
    """Add ``/info`` and ``/v1/infer``.

    Args:
        app: Where to.
        inferences: Begins them.
        info: Says who the worker is, and what it is doing.
    """

    async def tell_info(_: Request) -> HTTPResponse:
        return json_reply(info().body())

    async def infer(request: Request) -> HTTPResponse | None:
        inferences.check(LANGUAGE_MODEL)
        taken = take_in(request, InferRequest, PRIVATE_FIELDS, SseDialect.OUTPUT)
        began = time.monotonic()
        request_id = uuid.uuid4().hex
        ask = partial(taken.body.to_runtime, request_id, taken.manner.deadline)
        begin = inferences.begun(LANGUAGE_MODEL, request, request_id, request_id, ask)
        async with begin as begun:
            if taken.body.stream:
                await stream_reply(request, _chunks(begun))
                return None
            text = "".join([event.output.t async for event in begun.outputs()])
        body: InferBody = {
            "text": text,
            "tokens_generated": begun.account.tokens_out,
            "duration_ms": round((time.monotonic() - began) * 1000),
        }
        return json_reply(body)

    app.add_route(tell_info, "/info", name="info", ctx_operation=_INFO)
    app.add_route(infer, "/v1/infer", methods=["POST"], name="infer", ctx_operation=_INFER)


async def _chunks(begun: Begun[Event, TokenOutput]) -> AsyncGenerator[bytes, None]:
    async with aclosing(begun.inference.batches()) as batches:
        async for batch in batches:
            chunk = b""
            for event in batch:
                match event:
                    case Output():
                        chunk += encode_data({"token": event.output.t})
                    case End() | Failed():
                        if begun.lacking is not None:
                            chunk += encode_data({"error": begun.lacking.message})
                        chunk += DONE
            yield chunk
