"""The OpenAI API of any model: which one is served."""

from __future__ import annotations

import time
from typing import Final
from urllib.parse import unquote

from sanic import HTTPResponse, Request

from rbee_service.http.app import App, shape_failures
from rbee_service.http.descriptions import REQUEST_ID, refusals
from rbee_service.http.inferences import Inferences
from rbee_service.http.replies import json_reply
from rbee_service.openai.answers import ModelBody, ModelsBody
from rbee_service.openai.errors import OpenAiError, OpenAiErrorBody, failure_body
from rbee_service.openapi import Answer, Content, Operation, Parameter

OWNER: Final = "rbee"

OPENAI: Final = "OpenAI"
"""Where the routes of the OpenAI API are shown."""

NO_MODEL: Final = Answer("This model is not served here.", (Content(OpenAiErrorBody),))
_MODELS: Final = Operation(
    OPENAI,
    "The models that are served: one",
    {
        200: Answer("One.", (Content(ModelsBody),), links={"model": ("model_id", "/data/0/id")}),
        **refusals(503, failure=OpenAiErrorBody),
    },
    echoed=(REQUEST_ID,),
    failure=OpenAiErrorBody,
)
_MODEL: Final = Operation(
    OPENAI,
    "A model",
    {
        200: Answer("It is served.", (Content(ModelBody),)),
        404: NO_MODEL,
        **refusals(503, failure=OpenAiErrorBody),
    },
    parameters=(Parameter("path", "model_id", "Its name, as in `/v1/models`."),),
    echoed=(REQUEST_ID,),
    failure=OpenAiErrorBody,
)


def add_model_routes(app: App, inferences: Inferences) -> None:
    """Add ``/v1/models`` and ``/v1/models/{id}``.

    Args:
        app: Where to.
        inferences: Know the model.
    """
    since = int(time.time())

    def served() -> ModelBody:
        return {
            "id": inferences.model,
            "object": "model",
            "created": since,
            "owned_by": OWNER,
        }

    async def models(_: Request) -> HTTPResponse:
        inferences.check()
        body: ModelsBody = {"object": "list", "data": [served()]}
        return json_reply(body)

    async def model(_: Request, model_id: str) -> HTTPResponse:
        inferences.check()
        # A name has slashes, which a client may send as they are or encoded.
        check_model(inferences, unquote(model_id))
        return json_reply(served())

    shape_failures(app, "/v1/models", failure_body)
    app.add_route(models, "/v1/models", name="models", ctx_operation=_MODELS)
    app.add_route(model, "/v1/models/<model_id:path>", name="model", ctx_operation=_MODEL)


def check_model(inferences: Inferences, name: str) -> None:
    """Let a request pass that is for the model that is served.

    Raises:
        OpenAiError: It is for another.
    """
    if name != inferences.model:
        message = f"this worker serves {inferences.model} and no other model"
        raise OpenAiError(message, "model", "model_not_found", 404)
