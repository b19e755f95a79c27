"""Failures in the shape that clients of Anthropic's API know."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

from rbee_service.auth import Unauthorized
from rbee_service.errors import ApiError, InvalidFields
from rbee_service.openai.errors import OpenAiError

AnthropicErrorType: TypeAlias = Literal[
    "invalid_request_error",
    "authentication_error",
    "not_found_error",
    "request_too_large",
    "timeout_error",
    "overloaded_error",
    "api_error",
]

_TYPES: Final = MappingProxyType[int, AnthropicErrorType](
    {
        401: "authentication_error",
        404: "not_found_error",
        408: "timeout_error",
        413: "request_too_large",
        503: "overloaded_error",
        504: "timeout_error",
    }
)


class AnthropicErrorCode(TypedDict):
    """A fault that clients know what to do about."""

    error_code: Literal["thread_unsupported_request"]


class AnthropicErrorDetail(TypedDict):
    """What went wrong.

    Attributes:
        details: Where a client wants what it says to be stored: that it has to send all of it.
    """

    type: AnthropicErrorType
    message: str
    details: NotRequired[AnthropicErrorCode]


class AnthropicErrorBody(TypedDict):
    """What a request that failed is answered with, and what ends a stream that does."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: NotRequired[str]


def failure_body(failure: ApiError | InvalidFields | Unauthorized) -> AnthropicErrorBody:
    """Return the JSON body of a failure."""
    message, status = str(failure), 400
    match failure:
        case InvalidFields():
            if failure.faults[0].constraint.startswith("context_length"):
                # By these words clients know that they have to shorten what was said so far.
                message = f"prompt is too long: {message}"
        case Unauthorized():
            status = failure.status
        case ApiError():
            message, status = failure.message, failure.status
    usual: AnthropicErrorType = "invalid_request_error" if status < 500 else "api_error"
    error: AnthropicErrorDetail = {"type": _TYPES.get(status, usual), "message": message}
    if isinstance(failure, OpenAiError) and failure.param == "thread":
        error["details"] = {"error_code": "thread_unsupported_request"}
    return {"type": "error", "error": error}
