"""``POST /v1/inference``."""

from __future__ import annotations

import uuid
from functools import partial
from typing import Final

from sanic import Request

from rbee_service.completion_request import CompletionRequest
from rbee_service.embedding_request import EmbedRequest
from rbee_service.events import EmbeddingOutput, TokenOutput
from rbee_service.http.app import App
from rbee_service.http.descriptions import (
    DEADLINE,
    DIALECT,
    inference_events,
    refusals,
)
from rbee_service.http.inferences import Inferences
from rbee_service.http.intake import take_in
from rbee_service.http.replies import inference_chunks, stream_reply
from rbee_service.openapi import Answer, Operation, Stream
from rbee_service.prompt_request import PRIVATE_FIELDS
from rbee_service.sse import SseDialect

STREAM_EXAMPLE: Final = """\
data: {"type":"started","job_id":"job-1","model":"hf:org/name","started_at":"2025-01-31T12:00:00Z"}

data: {"type":"output","t":"Once","i":0}

data: {"type":"output","t":" upon","i":1}

data: {"type":"metrics","tokens_per_sec":42.5,"vram_bytes":536870912}

data: {"type":"end","items_out":2,"decode_time_ms":47,"stop_reason":"MAX_TOKENS"}

data: [DONE]

"""

INFERENCE_EVENTS: Final = inference_events(TokenOutput, EmbeddingOutput)

_INFERENCE: Final = Operation(
    "Inference",
    "One completion, or the vector of one text, as server-sent events",
    {
        200: Answer(
            "The events, in order, then `[DONE]`. In the dialect `token` the type of an output "
            "is `token`, and the end has `tokens_out` for `items_out`. Comments keep a quiet "
            "stream alive.",
            (Stream(INFERENCE_EVENTS, STREAM_EXAMPLE),),
        ),
        **refusals(400, 408, 413, 503, 504, 507),
    },
    description="An embedding model needs no `max_tokens`, and looks at nothing but the prompt.",
    bodies=(CompletionRequest, EmbedRequest),
    example={"job_id": "job-1", "prompt": "Once upon a time", "max_tokens": 2},
    parameters=(DEADLINE, DIALECT),
)


def add_inference_routes(app: App, inferences: Inferences, dialect: SseDialect) -> None:
    """Add ``/v1/inference``.

    Args:
        app: Where to.
        inferences: Begins them.
        dialect: Vocabulary of the events where a request does not name one.
    """

    async def inference(request: Request) -> None:
        body = inferences.asked_by("inference")
        taken = take_in(request, body, PRIVATE_FIELDS, dialect)
        request_id = uuid.uuid4().hex
        ask = partial(taken.body.to_runtime, request_id, taken.manner.deadline)
        begin = inferences.begun(inferences.kind(), request, taken.body.job_id, request_id, ask)
        async with begin as begun:
            await stream_reply(request, inference_chunks(begun.inference, taken.manner.dialect))

    app.add_route(
        inference,
        "/v1/inference",
        methods=["POST"],
        name="inference",
        ctx_operation=_INFERENCE,
    )
