"""What an HTTP client is told when its request fails, whatever kind of worker answers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, NotRequired

from typing_extensions import TypedDict


class ErrorCode(StrEnum):
    """Codes of the error body."""

    CUDA_ERROR = "CUDA_ERROR"
    INVALID_REQUEST = "INVALID_REQUEST"
    INFERENCE_TIMEOUT = "INFERENCE_TIMEOUT"
    WORKER_UNHEALTHY = "WORKER_UNHEALTHY"
    INTERNAL = "INTERNAL"
    INSUFFICIENT_RESOURCES = "INSUFFICIENT_RESOURCES"
    INSUFFICIENT_VRAM = "INSUFFICIENT_VRAM"

    @property
    def status(self) -> HTTPStatus:
        """HTTP status the code goes out with, unless the error names another."""
        return _STATUS[self]

    @property
    def retriable(self) -> bool:
        """Whether the same request may succeed later."""
        return self not in _FINAL


_STATUS: Final = MappingProxyType(
    {
        ErrorCode.CUDA_ERROR: HTTPStatus.INTERNAL_SERVER_ERROR,
        ErrorCode.INVALID_REQUEST: HTTPStatus.BAD_REQUEST,
        ErrorCode.INFERENCE_TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
        ErrorCode.WORKER_UNHEALTHY: HTTPStatus.SERVICE_UNAVAILABLE,
        ErrorCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
        ErrorCode.INSUFFICIENT_RESOURCES: HTTPStatus.SERVICE_UNAVAILABLE,
        ErrorCode.INSUFFICIENT_VRAM: HTTPStatus.INSUFFICIENT_STORAGE,
    }
)
_FINAL: Final = frozenset(
    {ErrorCode.INVALID_REQUEST, ErrorCode.WORKER_UNHEALTHY, ErrorCode.INSUFFICIENT_VRAM}
)


class ErrorBody(TypedDict):
    """What a request that failed as a whole is answered with."""

    code: ErrorCode
    message: str
    retriable: bool


class FaultBody(TypedDict):
    """One thing wrong with one field of a request."""

    field: str
    constraint: str
    message: str
    value: NotRequired[str]


class FaultsBody(TypedDict):
    """Everything that is wrong with the fields of a request."""

    errors: list[FaultBody]


class ApiError(Exception):
    """A request that failed as a whole, answered with ``{"code","message","retriable"}``.

    Attributes:
        code: What kind of failure.
        message: One sentence for a person.
        status: HTTP status.
        retry_after: Seconds after which trying again makes sense, where that is known.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        status: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = int(code.status if status is None else status)
        self.retry_after = retry_after

    def body(self) -> ErrorBody:
        """Return the JSON body."""
        return {"code": self.code, "message": self.message, "retriable": self.code.retriable}


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One thing wrong with one field of a request.

    Attributes:
        field: The field's name; an item of a list as ``name[index]``, a header by its name, the
            document itself as ``body``.
        constraint: The rule that is broken, e.g. ``range(1..=2048)`` or ``required``.
        message: One sentence for a person.
        value: What was sent, where it is short and may be repeated.
    """

    field: str
    constraint: str
    message: str
    value: str | None = None

    def body(self) -> FaultBody:
        """Return the JSON object of this fault."""
        body: FaultBody = {
            "field": self.field,
            "constraint": self.constraint,
            "message": self.message,
        }
        if self.value is not None:
            body["value"] = self.value
        return body


class InvalidFields(Exception):
    """A request with faults in its fields, answered 400 with all of them.

    Attributes:
        faults: At least one.
    """

    def __init__(self, faults: Sequence[FieldFault]) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = tuple(faults)

    def body(self) -> FaultsBody:
        """Return the JSON body."""
        return {"errors": [fault.body() for fault in self.faults]}
