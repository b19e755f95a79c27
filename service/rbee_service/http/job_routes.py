"""``/v1/jobs``: made first, streamed later."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial

import structlog
from sanic import HTTPResponse, Request

from rbee_service.completion_request import PRIVATE_FIELDS, JobRequest
from rbee_service.errors import ApiError, InvalidFields
from rbee_service.events import End, Failed, StopReason
from rbee_service.http.app import App
from rbee_service.http.completions import Completions
from rbee_service.http.intake import Intake, read_manner, take_in
from rbee_service.http.replies import inference_chunks, json_reply, stream_reply
from rbee_service.jobs import JobBoard
from rbee_service.sse import DONE, SseDialect, encode_text

_CANCELLED = encode_text("[CANCELLED]")


def add_job_routes(app: App, completions: Completions, dialect: SseDialect) -> None:
    """Add creation, stream and cancellation of jobs.

    Args:
        app: Where to.
        completions: Begins them.
        dialect: Vocabulary of the events where no request names one.
    """
    board: JobBoard[Intake[JobRequest]] = JobBoard()

    async def create(request: Request) -> HTTPResponse:
        completions.check()
        job_id = board.create(take_in(request, JobRequest, PRIVATE_FIELDS, dialect))
        structlog.get_logger().info("Created a job", job_id=job_id)
        return json_reply({"job_id": job_id, "sse_url": f"/v1/jobs/{job_id}/stream"})

    async def stream(request: Request, job_id: str) -> None:
        with board.streamed(job_id) as job:
            asked = job.payload
            if asked is None:
                await stream_reply(request, _only(_CANCELLED))
                return
            manner = read_manner(request, asked.manner.dialect)
            deadlines = [d for d in (manner.deadline, asked.manner.deadline) if d is not None]
            manner = replace(manner, deadline=min(deadlines, default=None))
            request_id = uuid.uuid4().hex
            ask = partial(asked.body.to_runtime, request_id, manner.deadline)
            try:
                manner.check_deadline()
                async with completions.begun(request, job_id, request_id, ask) as begun:
                    job.begun(begun.inference.cancel)
                    chunks = inference_chunks(begun.inference, manner.dialect, _last)
                    await stream_reply(request, chunks)
            except InvalidFields as refused:
                await stream_reply(request, _only(_error(str(refused))))
            except ApiError as refused:
                if refused.code.retriable:
                    raise
                await stream_reply(request, _only(_error(refused.message)))

    async def cancel(_: Request, job_id: str) -> HTTPResponse:
        board.cancel(job_id)
        structlog.get_logger().info("Cancelled a job", job_id=job_id)
        return json_reply({"job_id": job_id}, 202)

    app.add_route(create, "/v1/jobs", methods=["POST"], name="create_job")
    app.add_route(stream, "/v1/jobs/<job_id:str>/stream", name="stream_job")
    app.add_route(cancel, "/v1/jobs/<job_id:str>", methods=["DELETE"], name="cancel_job")


def _last(ended: End | Failed) -> bytes:
    match ended:
        case End(stop_reason=StopReason.CANCELLED):
            return _CANCELLED
        case End():
            return DONE
        case Failed():
            return _error(ended.message)


def _error(message: str) -> bytes:
    return encode_text("[ERROR] " + " ".join(message.split()))


async def _only(chunk: bytes) -> AsyncGenerator[bytes, None]:
    yield chunk
