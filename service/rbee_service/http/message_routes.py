"""Anthropic's Messages API of a language model, brought in when somebody asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sanic import HTTPResponse, Request

from rbee_service.http.app import App, shape_failures
from rbee_service.http.inferences import Inferences
from rbee_service.http.late_module import LateModule

if TYPE_CHECKING:
    from rbee_service.openapi import Operation


def add_message_routes(app: App, inferences: Inferences) -> None:
    """Add ``/v1/messages`` and ``/v1/messages/count_tokens``.

    Args:
        app: Where to.
        inferences: Begins them.
    """
    answers = LateModule("rbee_service.http.message_answers")

    async def create(request: Request) -> HTTPResponse | None:
        await answers.bring_in()
        from rbee_service.http.message_answers import answer

        return await answer(inferences, request)

    async def count(request: Request) -> HTTPResponse:
        await answers.bring_in()
        from rbee_service.http.message_answers import count

        return await count(inferences, request)

    path, post = "/v1/messages", ["POST"]
    shape_failures(app, path, _failure, request_id="request-id", repeats_id=True, key="x-api-key")
    app.add_route(create, path, methods=post, name="messages", ctx_operation=_message)
    app.add_route(count, f"{path}/count_tokens", methods=post, name="count", ctx_operation=_count)


def _failure(failure: Any) -> Mapping[str, object]:
    from rbee_service.anthropic.errors import failure_body

    return failure_body(failure)


def _message() -> Operation:
    from rbee_service.http.message_answers import MESSAGE

    return MESSAGE


def _count() -> Operation:
    from rbee_service.http.message_answers import COUNT

    return COUNT
