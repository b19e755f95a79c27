"""``/docs``: what the worker answers, for people and, beside it, for programs.

Both are public: they are the same for every worker of a version, and say nothing of this one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from sanic import HTTPResponse, Request

from rbee_service.http.app import App, add_public_route
from rbee_service.http.replies import json_reply
from rbee_service.openapi import Answer, Content, Operation, Route, document

_PAGE: Final = Operation(
    "Documents",
    "This document, for people",
    {200: Answer("A page without scripts.", (Content(str, media="text/html"),))},
)
_DOCUMENT: Final = Operation(
    "Documents",
    "This document",
    {200: Answer("OpenAPI 3.1.", (Content(dict[str, Any]),))},
)


def add_docs_routes(app: App, title: str, version: str, description: str) -> None:
    """Add ``/docs`` and ``/docs/openapi.json``, which tell of every route of the application.

    Args:
        app: Where to; a route without ``ctx_operation`` is not told of.
        title: Of the worker.
        version: Of the worker.
        description: Of the worker, in a sentence.
    """

    # Made when somebody asks: a worker that nobody asks starts no slower for it.
    @cache
    def made() -> dict[str, object]:
        return document(title, version, description, _routes(app))

    @cache
    def drawn() -> str:
        return _draw(made())

    async def page(_: Request) -> HTTPResponse:
        text = await asyncio.to_thread(drawn)
        return HTTPResponse(
            text,
            content_type="text/html; charset=utf-8",
            headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"},
        )

    async def program(_: Request) -> HTTPResponse:
        return json_reply(await asyncio.to_thread(made))

    add_public_route(app, page, "/docs", "docs", _PAGE)
    add_public_route(app, program, "/docs/openapi.json", "openapi", _DOCUMENT)


def _routes(app: App) -> list[Route]:
    return [
        Route(
            name=re.sub(r"^[^.]*\.", "", route.name),
            method=method,
            path=route.path,
            public=getattr(route.ctx, "public", False),
            operation=_said(route.ctx.operation),
        )
        for route in app.router.routes
        if hasattr(route.ctx, "operation")
        # HEAD is GET without a body, and has no more to be told of.
        for method in route.methods - {"HEAD"}
    ]


def _said(operation: Operation | Callable[[], Operation]) -> Operation:
    """Return what a route says of itself, which it may make when it is asked."""
    return operation() if callable(operation) else operation


def _draw(made: dict[str, object]) -> str:
    import jinja2  # as above

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rbee_service.http", "pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("docs.html").render(made)
