"""Failures in the shape that clients of the OpenAI API know."""

from __future__ import annotations

from typing import Final, Literal

from typing_extensions import TypedDict

from rbee_service.auth import Unauthorized
from rbee_service.errors import ApiError, ErrorCode, InvalidFields


class OpenAiErrorDetail(TypedDict):
    """What went wrong, and with which field."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str


class OpenAiErrorBody(TypedDict):
    """What a request that failed is answered with."""

    error: OpenAiErrorDetail


class OpenAiError(ApiError):
    """A request that one of the OpenAI routes refuses.

    Attributes:
        param: The field at fault.
        reason: OpenAI's word for what is wrong with it.
    """

    def __init__(self, message: str, param: str | None, reason: str, status: int = 400) -> None:
        super().__init__(ErrorCode.INVALID_REQUEST, message, status=status)
        self.param = param
        self.reason = reason


_PROMPTS: Final = frozenset({"prompt", "messages"})
"""What the engine and the chat template call what they are given."""


def failure_body(
    failure: ApiError | InvalidFields | Unauthorized, *, prompt: str = "prompt"
) -> OpenAiErrorBody:
    """Return the JSON body of a failure.

    Args:
        failure: What failed.
        prompt: The field that the prompt came in.
    """
    match failure:
        case OpenAiError():
            return _error(failure.message, failure.status, failure.param, failure.reason)
        case InvalidFields():
            [first, *_] = failure.faults
            long = first.constraint.startswith("context_length")
            code = "context_length_exceeded" if long else "invalid_value"
            field = prompt if first.field in _PROMPTS else first.field
            return _error(str(failure), 400, field, code)
        case Unauthorized():
            return _error(str(failure), failure.status, None, failure.code)
    return _error(failure.message, failure.status, None, failure.code.value.lower())


def _error(message: str, status: int, param: str | None, code: str) -> OpenAiErrorBody:
    return {
        "error": {
            "message": message,
            "type": "invalid_request_error" if status < 500 else "server_error",
            "param": param,
            "code": code,
        }
    }
