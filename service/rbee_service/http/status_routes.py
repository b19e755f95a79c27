"""Routes that tell where the worker stands."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Any, Final, Literal, NotRequired

from sanic import HTTPResponse, Request
from typing_extensions import TypedDict

from rbee_service.errors import ApiError, ErrorBody, ErrorCode
from rbee_service.health import WorkerState
from rbee_service.http.app import App, add_public_route
from rbee_service.http.replies import json_reply, stream_reply
from rbee_service.loading import LoadingBoard
from rbee_service.openapi import Answer, Content, Operation, Stream
from rbee_service.sse import DONE, encode_data


class HealthBody(TypedDict):
    """Whether the worker works, or is still on its way to, and the bytes it holds."""

    status: Literal["healthy", "unhealthy"]
    vram_bytes: int


class ReadyBody(TypedDict):
    """Whether the worker takes work."""

    ready: bool
    state: Literal["loading", "idle", "busy", "error"]
    progress_url: NotRequired[str]
    model_loaded: NotRequired[bool]
    slots_total: NotRequired[int]
    slots_available: NotRequired[int]


class LoadingBody(TypedDict):
    """How far the model has come into memory."""

    stage: Literal["loading_to_vram"]
    layers_loaded: int
    layers_total: int
    vram_mb: int


class LoadedBody(TypedDict):
    """The model is in memory."""

    stage: Literal["ready"]


_HEALTH: Final = Operation(
    "Standing",
    "Whether the worker works",
    {
        200: Answer("It does, or is on its way to.", (Content(HealthBody),)),
        503: Answer("It does not.", (Content(HealthBody),)),
    },
)
_READY: Final = Operation(
    "Standing",
    "Whether the worker takes work",
    {200: Answer("Whether it does, and how busy it is.", (Content(ReadyBody),))},
)
_PROGRESS_EXAMPLE: Final = """\
data: {"stage":"loading_to_vram","layers_loaded":12,"layers_total":32,"vram_mb":2048}

data: {"stage":"ready"}

data: [DONE]

"""
_PROGRESS: Final = Operation(
    "Standing",
    "How far the model has come into memory",
    {
        200: Answer(
            "Its progress now and whenever it changes, as server-sent events.",
            (Stream((LoadingBody, LoadedBody), _PROGRESS_EXAMPLE),),
        ),
        503: Answer("It is loaded.", (Content(ErrorBody),)),
    },
)


def add_status_routes(app: App, state: WorkerState[Any, Any], board: LoadingBoard) -> None:
    """Add ``/health``, ``/v1/health``, ``/v1/ready`` and ``/v1/loading/progress``."""

    async def health(_: Request) -> HTTPResponse:
        answer = state.health()
        body: HealthBody = {
            "status": "healthy" if answer.healthy else "unhealthy",
            "vram_bytes": answer.vram_bytes,
        }
        return json_reply(body, 200 if answer.healthy else 503)

    async def ready(_: Request) -> HTTPResponse:
        return json_reply(state.readiness())

    async def loading_progress(request: Request) -> None:
        if state.loaded:
            raise ApiError(
                ErrorCode.INVALID_REQUEST,
                "the model is loaded; see /v1/ready",
                status=HTTPStatus.SERVICE_UNAVAILABLE,
            )
        await stream_reply(request, _progress_events(state, board))

    for name, path in (("health", "/health"), ("v1_health", "/v1/health")):
        add_public_route(app, health, path, name, _HEALTH)
    app.add_route(ready, "/v1/ready", name="ready", ctx_operation=_READY)
    app.add_route(
        loading_progress,
        "/v1/loading/progress",
        name="loading_progress",
        ctx_operation=_PROGRESS,
    )


async def _progress_events(
    state: WorkerState[Any, Any], board: LoadingBoard
) -> AsyncGenerator[bytes, None]:
    async for progress in board.watch():
        yield encode_data(progress.body())
    if state.loaded:
        yield encode_data({"stage": "ready"})
    yield DONE
