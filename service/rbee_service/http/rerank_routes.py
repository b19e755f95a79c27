"""The API of a reranker: documents in the order in which they answer a query."""

from __future__ import annotations

import uuid
from functools import partial
from typing import Final

from sanic import HTTPResponse, Request

from rbee_service.http.app import App, shape_failures
from rbee_service.http.descriptions import DEADLINE, REQUEST_ID, refusals
from rbee_service.http.inferences import Inferences
from rbee_service.http.intake import read_manner
from rbee_service.http.model_routes import NO_MODEL, check_model
from rbee_service.http.replies import parts_reply
from rbee_service.model_kinds import RERANKER
from rbee_service.openai.errors import OpenAiErrorBody, failure_body
from rbee_service.openai.parsing import parse_openai
from rbee_service.openapi import Answer, Content, Operation
from rbee_service.sse import SseDialect

_PATHS: Final = {"rerank": "/v1/rerank", "rerank_v2": "/v2/rerank"}
"""The second is what Cohere's newer client asks for, and the same."""


def add_rerank_routes(app: App, inferences: Inferences) -> None:
    """Add ``/v1/rerank`` and ``/v2/rerank``.

    Args:
        app: Where to.
        inferences: Begins them.
    """

    async def rerank(request: Request) -> HTTPResponse | None:
        inferences.check(RERANKER)
        # Workers of other models start without it.
        from rbee_service.rerank_request import RerankBody, rerank_answer

        body = parse_openai(RerankBody, request.body)
        check_model(inferences, body.model)
        manner = read_manner(request, SseDialect.OUTPUT)
        manner.check_deadline()
        request_id = uuid.uuid4().hex
        name = f"rerank-{request_id}"
        ask = partial(body.to_runtime, request_id, manner.deadline)
        async with inferences.begun(RERANKER, request, name, request_id, ask) as begun:
            scores = [event.output async for event in begun.outputs()]
        return await parts_reply(request, rerank_answer(body, name, scores, begun.account))

    for name, path in _PATHS.items():
        shape_failures(app, path, failure_body)
        app.add_route(rerank, path, methods=["POST"], name=name, ctx_operation=_operation)


def _operation() -> Operation:
    from rbee_service.rerank_request import RankingBody, RerankBody

    return Operation(
        "Reranking",
        "Documents in the order in which they answer a query",
        {
            200: Answer("The best first.", (Content(RankingBody),)),
            404: NO_MODEL,
            **refusals(400, 408, 413, 503, 504, 507, failure=OpenAiErrorBody),
        },
        description="A member that is not served is refused by name, never ignored, but for "
        "`user`. A document that is too long to be read whole is cut.",
        bodies=(RerankBody,),
        example={
            "model": "hf:org/name",
            "query": "how do bees find home",
            "documents": ["Bees remember landmarks.", {"text": "A tax return is due in July."}],
            "top_n": 1,
        },
        parameters=(DEADLINE,),
        echoed=(REQUEST_ID,),
        failure=OpenAiErrorBody,
    )
