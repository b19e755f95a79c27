"""``POST /v1/inference`` of a language model."""

from __future__ import annotations

import re
import time
import uuid
from typing import Final

import structlog
from sanic import Request

from rbee_runtime.events import Event
from rbee_runtime.request import Request as RuntimeRequest
from rbee_service.completion import ACTOR, CompletionTranslator
from rbee_service.completion_request import PRIVATE_FIELDS, CompletionRequest
from rbee_service.errors import FieldFault, InvalidFields
from rbee_service.faults import deadline_passed
from rbee_service.health import WorkerState
from rbee_service.http.app import App, correlation_id
from rbee_service.http.replies import inference_chunks, stream_reply
from rbee_service.inference import LiveInferences
from rbee_service.narration import Narrator
from rbee_service.sse import SseDialect
from rbee_service.validation import parse_body

_DEADLINE: Final = re.compile(r"[0-9]{1,18}")


def add_inference_routes(
    app: App,
    state: WorkerState[RuntimeRequest, Event],
    live: LiveInferences,
    dialect: SseDialect,
) -> None:
    """Add ``/v1/inference``.

    Args:
        app: Where to.
        state: Knows the backend.
        live: Told of every inference for as long as it is read.
        dialect: Vocabulary of the events where a request does not name one.
    """

    async def inference(request: Request) -> None:
        backend = state.backend()
        body, spoken, deadline = _read(request, dialect)
        if deadline is not None and deadline <= time.monotonic():
            raise deadline_passed()
        structlog.contextvars.bind_contextvars(job_id=body.job_id)
        translator = CompletionTranslator(
            job_id=body.job_id,
            model=state.model,
            narrator=Narrator(ACTOR, job_id=body.job_id, correlation_id=correlation_id(request)),
            vram_bytes=lambda: backend.memory().total,
        )
        request_id = uuid.uuid4().hex
        runtime_request = body.to_runtime(request_id, deadline)
        async with live.submitted(backend, request_id, runtime_request, translator) as accepted:
            await stream_reply(request, inference_chunks(accepted, spoken))

    app.add_route(inference, "/v1/inference", methods=["POST"], name="inference")


def _read(
    request: Request, default: SseDialect
) -> tuple[CompletionRequest, SseDialect, float | None]:
    """Return body, dialect and deadline (monotonic), or raise all their faults at once."""
    faults: list[FieldFault] = []
    named = request.headers.getone("x-rbee-sse-dialect", default.value)
    if named not in list(SseDialect):
        faults.append(
            FieldFault(
                "X-RBEE-SSE-Dialect",
                "one_of(output|token)",
                "X-RBEE-SSE-Dialect must be output or token",
            )
        )
    epoch_ms = request.headers.getone("x-deadline", None)
    if epoch_ms is not None and not _DEADLINE.fullmatch(epoch_ms):
        faults.append(
            FieldFault(
                "X-Deadline",
                "type(integer)",
                "X-Deadline must be Unix time in whole milliseconds",
            )
        )
    try:
        body = parse_body(CompletionRequest, request.body, private=PRIVATE_FIELDS)
    except InvalidFields as invalid:
        raise InvalidFields([*invalid.faults, *faults]) from None
    if faults:
        raise InvalidFields(faults)
    deadline = None
    if epoch_ms is not None:
        deadline = time.monotonic() + int(epoch_ms) / 1000 - time.time()
    return body, SseDialect(named), deadline
