"""Routes that tell where the worker stands."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Any

from sanic import HTTPResponse, Request

from rbee_service.errors import ApiError, ErrorCode
from rbee_service.health import WorkerState
from rbee_service.http.app import App
from rbee_service.http.replies import json_reply, stream_reply
from rbee_service.inference import KEEP_ALIVE_SECONDS
from rbee_service.loading import LoadingBoard
from rbee_service.sse import DONE, KEEP_ALIVE, encode_data


def add_status_routes(app: App, state: WorkerState[Any, Any], board: LoadingBoard) -> None:
    """Add ``/health``, ``/v1/health``, ``/v1/ready`` and ``/v1/loading/progress``."""

    async def health(_: Request) -> HTTPResponse:
        answer = state.health()
        return json_reply(
            {
                "status": "healthy" if answer.healthy else "unhealthy",
                "vram_bytes": answer.vram_bytes,
            },
            200 if answer.healthy else 503,
        )

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

    app.add_route(health, "/health", name="health", ctx_public=True)
    app.add_route(health, "/v1/health", name="v1_health", ctx_public=True)
    app.add_route(ready, "/v1/ready", name="ready")
    app.add_route(loading_progress, "/v1/loading/progress", name="loading_progress")


async def _progress_events(
    state: WorkerState[Any, Any], board: LoadingBoard
) -> AsyncGenerator[bytes, None]:
    async for progress in board.watch(KEEP_ALIVE_SECONDS):
        yield KEEP_ALIVE if progress is None else encode_data(progress.body())
    if state.loaded:
        yield encode_data({"stage": "ready"})
    yield DONE
