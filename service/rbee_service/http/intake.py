"""Reads what a request asks for, from its body and from its headers."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from pydantic import BaseModel
from sanic import Request

from rbee_service.errors import FieldFault, InvalidFields
from rbee_service.faults import deadline_passed
from rbee_service.sse import SseDialect
from rbee_service.validation import parse_body

_DEADLINE: Final = re.compile(r"[0-9]{1,18}")

BodyT = TypeVar("BodyT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Manner:
    """What a request's headers ask for.

    Attributes:
        dialect: Vocabulary of the events.
        deadline: ``time.monotonic()`` value by which the work must be done; ``None`` for never.
    """

    dialect: SseDialect
    deadline: float | None

    def check_deadline(self) -> None:
        """Let a request pass that still has time.

        Raises:
            ApiError: Its deadline has passed.
        """
        if self.deadline is not None and self.deadline <= time.monotonic():
            raise deadline_passed()


@dataclass(frozen=True, slots=True)
class Intake(Generic[BodyT]):
    """A request without faults.

    Attributes:
        body: Its body.
        manner: What its headers ask for.
    """

    body: BodyT
    manner: Manner


def take_in(
    request: Request, model: type[BodyT], private: Collection[str], default: SseDialect
) -> Intake[BodyT]:
    """Return body and headers.

    Args:
        request: With its body received.
        model: What the body must be.
        private: Fields whose value is never repeated to the client.
        default: Dialect where the request does not name one.

    Raises:
        InvalidFields: There are faults in body or headers; all are named.
        ApiError: The deadline has passed.
    """
    body: BodyT | None = None
    manner: Manner | None = None
    faults: list[FieldFault] = []
    try:
        body = parse_body(model, request.body, private=private)
    except InvalidFields as invalid:
        faults += invalid.faults
    try:
        manner = read_manner(request, default)
    except InvalidFields as invalid:
        faults += invalid.faults
    if body is None or manner is None:
        raise InvalidFields(faults)
    manner.check_deadline()
    return Intake(body, manner)


def read_manner(request: Request, default: SseDialect) -> Manner:
    """Return what the headers ask for.

    Raises:
        InvalidFields: There are faults in them; all are named.
    """
    faults: list[FieldFault] = []
    named = request.headers.getone("x-rbee-sse-dialect", default.value)
    if named not in list(SseDialect):
        faults.append(
            FieldFault(
                "X-RBEE-SSE-Dialect",
                "one_of(output|token)",
                "X-RBEE-SSE-Dialect must be output or token",
            )
        )
    epoch_ms = request.headers.getone("x-deadline", None)
    if epoch_ms is not None and not _DEADLINE.fullmatch(epoch_ms):
        faults.append(
            FieldFault(
                "X-Deadline",
                "type(integer)",
                "X-Deadline must be Unix time in whole milliseconds",
            )
        )
    if faults:
        raise InvalidFields(faults)
    deadline = None
    if epoch_ms is not None:
        deadline = time.monotonic() + int(epoch_ms) / 1000 - time.time()
    return Manner(SseDialect(named), deadline)
