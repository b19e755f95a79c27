"""An HTTP application with what every kind of worker needs around its routes.

Authentication, correlation ids and errors live here; the routes themselves are added by the caller.
"""

from __future__ import annotations

import re
import traceback
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog
from sanic import HTTPResponse, Request, Sanic
from sanic.exceptions import NotFound, SanicException
from sanic.response import BaseHTTPResponse

from rbee_service.auth import Unauthorized
from rbee_service.errors import ApiError, ErrorCode, InvalidFields
from rbee_service.http.connection import Limits
from rbee_service.http.heads import HeadRequest, check_head
from rbee_service.http.replies import json_reply
from rbee_service.openapi import Operation
from rbee_service.token_keeper import TokenKeeper

_CORRELATION_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")

App = Sanic[Any, Any]
RouteHandler = Callable[[Request], Coroutine[Any, Any, HTTPResponse]]


class Failure(Protocol):
    """Something that can be told to a client."""

    def body(self) -> Mapping[str, object]:
        """Return the JSON body."""


class FailureBody(Protocol):
    """Tells a failure in a shape of its own."""

    def __call__(self, failure: Any) -> Mapping[str, object]:
        """Return the JSON body."""


@dataclass(frozen=True, slots=True)
class _OtherApi:
    """What another API has of its own.

    Attributes:
        shape: Tells a failure.
        request_id: Header with the name of a request.
        repeats_id: Whether that name is in failures as well.
        key: Header in which the token may come besides ``Authorization``.
    """

    shape: FailureBody
    request_id: str
    repeats_id: bool
    key: str | None


def create_app(name: str, keeper: TokenKeeper, limits: Limits) -> App:
    """Return an application without routes.

    Every route, and everything that is not one, asks for the token; one added by
    :func:`add_public_route` does not, and a request that cannot be read is told only that. What
    fails is told in the shapes of this worker, but for paths of which :func:`shape_failures` says
    otherwise.

    Args:
        name: Unique in the process, of ``[A-Za-z0-9_-]``.
        keeper: Knows the token in force.
        limits: What clients may take.
    """
    app: App = Sanic(name, configure_logging=False, request_class=HeadRequest)
    app.ctx.limits = limits
    app.config.update(
        {
            "AUTO_EXTEND": False,
            "MOTD": False,
            "ACCESS_LOG": False,
            # What a client that has gone away would have been told needs no page.
            "FALLBACK_ERROR_FORMAT": "json",
            **limits.config(),
        }
    )

    app.ctx.other_apis = {}

    async def correlate(request: Request) -> None:
        # A connection's requests share one task and so one logging context.
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(correlation_id=correlation_id(request))
        if _api_of(request) is not None:
            structlog.contextvars.bind_contextvars(request_id=_request_id(request))

    async def authenticate(request: HeadRequest) -> None:
        public = request.route is not None and getattr(request.route.ctx, "public", False)
        token = keeper.token
        # Of one that could not be read nobody knows whether it brought a token. It is only told so.
        if token is not None and not public and not request.unread:
            api, key = _api_of(request), None
            if api is not None and api.key is not None:
                key = request.headers.getone(api.key, None)
            token.check(request.headers.getone("authorization", None), key)

    async def echo_correlation(request: Request, response: BaseHTTPResponse) -> None:
        response.headers["x-correlation-id"] = correlation_id(request)
        api = _api_of(request)
        if api is not None:
            response.headers[api.request_id] = _request_id(request)

    app.add_signal(check_head, "http.lifecycle.read_head")
    app.register_middleware(correlate, "request")
    app.register_middleware(authenticate, "request")
    app.register_middleware(echo_correlation, "response")
    app.error_handler.add(Exception, _answer_failure)
    return app


def add_public_route(
    app: App, handler: RouteHandler, path: str, name: str, operation: Operation
) -> None:
    """Add a route that asks for no token. Probes may ask for its head alone.

    Args:
        app: Where to.
        handler: Answers ``GET``; of its answer to ``HEAD`` the body is left out.
        path: Of the route.
        name: Unique among the routes.
        operation: What the route says of itself.
    """
    app.add_route(
        handler,
        path,
        methods=["GET", "HEAD"],
        name=name,
        ctx_public=True,
        ctx_operation=operation,
    )


def shape_failures(
    app: App,
    path: str,
    shape: FailureBody,
    *,
    request_id: str = "x-request-id",
    repeats_id: bool = False,
    key: str | None = None,
) -> None:
    """Tell what fails at ``path`` and below it in a shape of its own, routes or none.

    Args:
        app: Where.
        path: Of the API that has the shape.
        shape: Tells a failure.
        request_id: Header in which that API's clients read, and may say, what a request is called.
        repeats_id: Whether they read it in failures as well.
        key: Header in which they may send the token, besides ``Authorization``.
    """
    app.ctx.other_apis[path] = _OtherApi(shape, request_id, repeats_id, key)


def correlation_id(request: Request) -> str:
    """Return the id the client sent, or one made for it where it sent none that is well-formed."""
    known: str | None = getattr(request.ctx, "correlation_id", None)
    if known is None:
        sent = request.headers.getone("x-correlation-id", "").strip()
        known = sent if _CORRELATION_ID.fullmatch(sent) else str(uuid.uuid4())
        request.ctx.correlation_id = known
    return known


def _request_id(request: Request) -> str:
    """Return what the client calls the request, or a name made for it where that is not sane."""
    known: str | None = getattr(request.ctx, "request_id", None)
    if known is None:
        api = _api_of(request)
        sent = request.headers.getone(api.request_id, "").strip() if api else ""
        known = sent if _REQUEST_ID.fullmatch(sent) else f"req_{uuid.uuid4().hex}"
        request.ctx.request_id = known
    return known


def _api_of(request: Request) -> _OtherApi | None:
    """Return what a request's path has of its own, where it is one of another API."""
    apis: dict[str, _OtherApi] = request.app.ctx.other_apis
    for path, api in apis.items():
        if f"{request.path}/".startswith(f"{path}/"):
            return api
    return None


def _answer_failure(request: Request, failure: Exception) -> HTTPResponse:
    answer = _answer_to(request, failure)
    _let_go(failure)
    return answer


def _let_go(failure: BaseException | None) -> None:
    """Empty the frames that a failure came through, which have ended.

    They hold the request, megabytes maybe, and the failure holds them, as tasks and they hold the
    failure: all of it would stay until the garbage collector comes by.
    """
    while failure is not None:
        traceback.clear_frames(failure.__traceback__)
        failure = failure.__cause__ or failure.__context__


def _answer_to(request: Request, failure: Exception) -> HTTPResponse:
    match failure:
        case InvalidFields():
            return _tell(request, failure, 400)
        case Unauthorized():
            structlog.get_logger().warning("Refused", code=failure.code, path=request.path)
            return _tell(request, failure, failure.status, {"www-authenticate": "Bearer"})
        case ApiError():
            if failure.status >= 500:
                structlog.get_logger().info(
                    "Refused", code=failure.code.value, path=request.path, reason=failure.message
                )
            headers = {}
            if failure.retry_after is not None:
                headers["retry-after"] = str(failure.retry_after)
            return _tell(request, failure, failure.status, headers)
        case SanicException() if failure.status_code < 500:
            said = "no such route; /docs has all" if isinstance(failure, NotFound) else str(failure)
            refusal = ApiError(ErrorCode.INVALID_REQUEST, said, status=failure.status_code)
            kept = {k: v for k, v in (failure.headers or {}).items() if k.lower() == "allow"}
            return _tell(request, refusal, refusal.status, kept)
    structlog.get_logger().error("A request failed", path=request.path, exc_info=failure)
    return _tell(request, ApiError(ErrorCode.INTERNAL, "internal error"), 500)


def _tell(
    request: Request, failure: Failure, status: int, headers: Mapping[str, str] | None = None
) -> HTTPResponse:
    api = _api_of(request)
    body = failure.body() if api is None else api.shape(failure)
    if api is not None and api.repeats_id:
        body = {**body, "request_id": _request_id(request)}
    return json_reply(body, status, headers)
