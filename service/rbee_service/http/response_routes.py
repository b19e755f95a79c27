"""The Responses API of a language model, brought in when somebody asks for it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sanic import HTTPResponse, Request

from rbee_service.http.app import App, shape_failures
from rbee_service.http.inferences import Inferences
from rbee_service.http.late_module import LateModule
from rbee_service.openai.errors import failure_body

if TYPE_CHECKING:
    from rbee_service.openapi import Operation


def add_response_routes(app: App, inferences: Inferences) -> None:
    """Add ``/v1/responses``.

    Args:
        app: Where to.
        inferences: Begins them.
    """
    answers = LateModule("rbee_service.http.response_answers")

    async def respond(request: Request) -> HTTPResponse | None:
        await answers.bring_in()
        from rbee_service.http.response_answers import answer

        return await answer(inferences, request)

    path = "/v1/responses"
    shape_failures(app, path, partial(failure_body, prompt="input"))
    app.add_route(respond, path, methods=["POST"], name="responses", ctx_operation=_response)


def _response() -> Operation:
    from rbee_service.http.response_answers import RESPONSE

    return RESPONSE
