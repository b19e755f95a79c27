"""``GET /metrics``, and the count of all requests."""

from __future__ import annotations

import asyncio
from typing import Final

from sanic import HTTPResponse, Request
from sanic.response import BaseHTTPResponse

from rbee_service.http.app import App, add_public_route
from rbee_service.metrics import CONTENT_TYPE, Metrics
from rbee_service.openapi import Answer, Content, Operation

_METRICS: Final = Operation(
    "Standing",
    "Counts and times for Prometheus",
    {200: Answer("In Prometheus' text format.", (Content(str, media="text/plain"),))},
)


def add_metrics_routes(app: App, metrics: Metrics) -> None:
    """Add ``/metrics`` and count what every route answers."""

    async def tell(_: Request) -> HTTPResponse:
        # Asking a backend what memory it holds may block.
        text = await asyncio.to_thread(metrics.text)
        return HTTPResponse(text, content_type=CONTENT_TYPE)

    async def count(request: Request, response: BaseHTTPResponse) -> None:
        # A path that is no route's would let strangers make series without end.
        route = f"/{request.route.path}" if request.route is not None else "none"
        metrics.requests.labels(route, str(response.status)).inc()

    app.register_middleware(count, "response")
    add_public_route(app, tell, "/metrics", "metrics", _METRICS)
