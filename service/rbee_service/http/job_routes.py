"""``/v1/jobs``: made first, streamed later."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial
from typing import Final

import structlog
from sanic import HTTPResponse, Request
from typing_extensions import TypedDict

from rbee_service.completion_request import JobRequest
from rbee_service.embedding_request import EmbedJobRequest
from rbee_service.errors import ApiError, ErrorBody, InvalidFields
from rbee_service.events import End, Failed, StopReason
from rbee_service.http.app import App
from rbee_service.http.descriptions import (
    DEADLINE,
    DIALECT,
    JOB_ID,
    refusals,
)
from rbee_service.http.inference_routes import INFERENCE_EVENTS, STREAM_EXAMPLE
from rbee_service.http.inferences import Inferences
from rbee_service.http.intake import Intake, read_manner, take_in
from rbee_service.http.replies import inference_chunks, json_reply, stream_reply
from rbee_service.jobs import JobBoard
from rbee_service.openapi import Answer, Content, Operation, Stream
from rbee_service.prompt_request import PRIVATE_FIELDS, PromptJob
from rbee_service.sse import DONE, SseDialect, encode_text

_CANCELLED = encode_text("[CANCELLED]")


class JobCreated(TypedDict):
    """A job that waits for its stream."""

    job_id: str
    sse_url: str


class JobCancelled(TypedDict):
    """A job that will end, or that will not begin."""

    job_id: str


_UNKNOWN: Final = Answer(
    "There is no such job, or its stream was given out.", (Content(ErrorBody),)
)
_CREATE: Final = Operation(
    "Jobs",
    "Make a job, which is worked on once its stream is read",
    {
        200: Answer(
            "It waits.",
            (Content(JobCreated),),
            links={"stream_job": ("job_id", "/job_id"), "cancel_job": ("job_id", "/job_id")},
        ),
        **refusals(400, 408, 413, 503, 504),
    },
    bodies=(JobRequest, EmbedJobRequest),
    example={"operation": "infer", "prompt": "Once upon a time", "max_tokens": 2},
    parameters=(DEADLINE, DIALECT),
)
_LAST: Final = r"^\[(DONE\]|CANCELLED\]|ERROR\] .*)$"
_STREAM: Final = Operation(
    "Jobs",
    "The events of a job, once",
    {
        200: Answer(
            "As of `/v1/inference`; ends with `[DONE]`, `[ERROR] why` or `[CANCELLED]`.",
            (Stream(INFERENCE_EVENTS, STREAM_EXAMPLE, _LAST),),
        ),
        404: _UNKNOWN,
        **refusals(400, 503, 504),
    },
    parameters=(JOB_ID, DEADLINE, DIALECT),
)
_CANCEL: Final = Operation(
    "Jobs",
    "Cancel a job",
    {202: Answer("It ends.", (Content(JobCancelled),)), 404: _UNKNOWN},
    parameters=(JOB_ID,),
)


def add_job_routes(app: App, inferences: Inferences, dialect: SseDialect) -> None:
    """Add creation, stream and cancellation of jobs.

    Args:
        app: Where to.
        inferences: Begins them.
        dialect: Vocabulary of the events where no request names one.
    """
    board: JobBoard[Intake[PromptJob]] = JobBoard()

    async def create(request: Request) -> HTTPResponse:
        body = inferences.asked_by("job")
        job_id = board.create(take_in(request, body, PRIVATE_FIELDS, dialect))
        structlog.get_logger().info("Created a job", job_id=job_id)
        created: JobCreated = {"job_id": job_id, "sse_url": f"/v1/jobs/{job_id}/stream"}
        return json_reply(created)

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
                begin = inferences.begun(inferences.kind(), request, job_id, request_id, ask)
                async with begin as begun:
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
        cancelled: JobCancelled = {"job_id": job_id}
        return json_reply(cancelled, 202)

    job = "/v1/jobs/<job_id:str>"
    app.add_route(create, "/v1/jobs", methods=["POST"], name="create_job", ctx_operation=_CREATE)
    app.add_route(stream, f"{job}/stream", name="stream_job", ctx_operation=_STREAM)
    app.add_route(cancel, job, methods=["DELETE"], name="cancel_job", ctx_operation=_CANCEL)


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
