"""``POST /v1/inference`` of a language model."""

from __future__ import annotations

import uuid
from functools import partial

from sanic import Request

from rbee_service.completion_request import PRIVATE_FIELDS, CompletionRequest
from rbee_service.http.app import App
from rbee_service.http.completions import Completions
from rbee_service.http.intake import take_in
from rbee_service.http.replies import inference_chunks, stream_reply
from rbee_service.sse import SseDialect


def add_inference_routes(app: App, completions: Completions, dialect: SseDialect) -> None:
    """Add ``/v1/inference``.

    Args:
        app: Where to.
        completions: Begins them.
        dialect: Vocabulary of the events where a request does not name one.
    """

    async def inference(request: Request) -> None:
        completions.check()
        taken = take_in(request, CompletionRequest, PRIVATE_FIELDS, dialect)
        request_id = uuid.uuid4().hex
        ask = partial(taken.body.to_runtime, request_id, taken.manner.deadline)
        async with completions.begun(request, taken.body.job_id, request_id, ask) as begun:
            await stream_reply(request, inference_chunks(begun.inference, taken.manner.dialect))

    app.add_route(inference, "/v1/inference", methods=["POST"], name="inference")
