"""The OpenAI API of an embedding model: vectors of texts."""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from typing import Final

from sanic import HTTPResponse, Request

from rbee_runtime.artifact import Manifest
from rbee_service.compact_json import json_bytes
from rbee_service.http.app import App, shape_failures
from rbee_service.http.descriptions import DEADLINE, REQUEST_ID, refusals
from rbee_service.http.inferences import Inferences
from rbee_service.http.intake import read_manner
from rbee_service.http.model_routes import NO_MODEL, OPENAI, check_model
from rbee_service.http.replies import parts_reply
from rbee_service.model_kinds import EMBEDDING_MODEL
from rbee_service.openai.embeddings import (
    EmbeddingsBody,
    EmbeddingsRequest,
    embedding_body,
    embeddings_answer,
)
from rbee_service.openai.errors import OpenAiError, OpenAiErrorBody, failure_body
from rbee_service.openai.parsing import parse_openai
from rbee_service.openapi import Answer, Content, Operation
from rbee_service.sse import SseDialect

_EMBEDDINGS: Final = Operation(
    OPENAI,
    "The vectors of texts",
    {
        200: Answer("One for each text, in their order.", (Content(EmbeddingsBody),)),
        404: NO_MODEL,
        **refusals(400, 408, 413, 503, 504, 507, failure=OpenAiErrorBody),
    },
    description="A member that is not served is refused by name, never ignored, but for `user`.",
    bodies=(EmbeddingsRequest,),
    example={"model": "hf:org/name", "input": ["Why is the sky blue?", "Once upon a time"]},
    parameters=(DEADLINE,),
    echoed=(REQUEST_ID,),
    failure=OpenAiErrorBody,
)


def add_embedding_routes(app: App, inferences: Inferences) -> None:
    """Add ``/v1/embeddings``.

    Args:
        app: Where to.
        inferences: Begins them.
    """

    async def embeddings(request: Request) -> HTTPResponse | None:
        inferences.check(EMBEDDING_MODEL)
        body = parse_openai(EmbeddingsRequest, request.body)
        check_model(inferences, body.model)
        check_dimensions(body.dimensions)
        manner = read_manner(request, SseDialect.OUTPUT)
        manner.check_deadline()
        request_id = uuid.uuid4().hex
        ask = partial(body.to_runtime, request_id, manner.deadline)
        written: list[bytes] = []
        begin = inferences.begun(EMBEDDING_MODEL, request, f"embd-{request_id}", request_id, ask)
        async with begin as begun:
            async for event in begun.outputs():
                vector = embedding_body(
                    len(written), event.output, body.encoding_format, body.dimensions
                )
                written.append(json_bytes(vector))
                # Thousands of numbers may be there at once, and others wait for theirs.
                await asyncio.sleep(0)
        answer = embeddings_answer(written, inferences.model, begun.account)
        return await parts_reply(request, answer)

    def check_dimensions(asked: int | None) -> None:
        manifest = inferences.loaded.manifest
        assert not isinstance(manifest, Manifest), "it is an embedding model"
        assert manifest.task == "embed", "it is an embedding model"
        embedding = manifest.embedding
        if asked is None or embedding.may_have(asked):
            return
        if embedding.matryoshka == "any":
            may_be = f"at most {embedding.dim}"
        else:
            lengths = [str(length) for length in (*embedding.matryoshka, embedding.dim)]
            may_be = f"one of {', '.join(lengths)}" if len(lengths) > 1 else lengths[0]
        message = f"dimensions must be {may_be}, as many as the vectors of {inferences.model} have"
        raise OpenAiError(message, "dimensions", "invalid_value")

    shape_failures(app, "/v1/embeddings", failure_body)
    app.add_route(
        embeddings,
        "/v1/embeddings",
        methods=["POST"],
        name="embeddings",
        ctx_operation=_EMBEDDINGS,
    )
