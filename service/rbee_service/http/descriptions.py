"""What the descriptions of several routes have in common."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from rbee_service.errors import ErrorBody, FaultsBody
from rbee_service.events import End, Failed, Metrics, Narration, Started
from rbee_service.openapi import Answer, Content, EventShape, Parameter
from rbee_service.sse import SseDialect

DEADLINE: Final = Parameter(
    "header",
    "X-Deadline",
    "Unix time in milliseconds by which the work must be done.",
    {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
)
REQUEST_ID: Final = Parameter(
    "header",
    "X-Request-ID",
    "What the client calls the request: at most 128 visible ASCII characters; else it gets a name.",
)
DIALECT: Final = Parameter(
    "header",
    "X-RBEE-SSE-Dialect",
    "Vocabulary of the events; the worker's own by default.",
    {"enum": [dialect.value for dialect in SseDialect]},
)
JOB_ID: Final = Parameter(
    "path", "job_id", "Name of the job.", {"type": "string", "pattern": "^[0-9a-f]{32}$"}
)

_REFUSALS: Final[Mapping[int, str]] = MappingProxyType(
    {
        400: "The request has faults, or does not fit into the model's context.",
        408: "The request took too long to arrive, or its deadline passed during the work.",
        413: "The body is over 1 MiB.",
        503: "The queue is full, or the worker loads, stops or is unwell.",
        504: "The deadline passed before the work began.",
        507: "There is not memory enough.",
    }
)


def refusals(*statuses: int, failure: Any = None) -> dict[int, Answer]:
    """Return how a request for work may be refused.

    Args:
        statuses: Of 400, 408, 413, 503, 504 and 507.
        failure: Shape of the refusals, where it is the route's own.
    """
    answers = {}
    for status in statuses:
        shape = failure or (FaultsBody | ErrorBody if status == 400 else ErrorBody)
        headers = {"Retry-After": "Seconds after which to try again."} if status == 503 else {}
        answers[status] = Answer(_REFUSALS[status], (Content(shape),), headers)
    return answers


def inference_events(output: type, *others: type) -> tuple[EventShape, ...]:
    """Return the kinds of the events of an inference.

    Args:
        output: Dataclass of its output.
        others: Of the outputs of other kinds of model, whose names show what they are of.
    """
    named = {output: ""} | {other: other.__name__.removesuffix("Output") for other in others}
    return (
        EventShape("started", Started),
        *(EventShape("output", shape, name) for shape, name in named.items()),
        *(EventShape("token", shape, name) for shape, name in named.items()),
        EventShape("metrics", Metrics),
        EventShape("narration", Narration),
        EventShape("end", End),
        EventShape("end", End, "Token", {"items_out": "tokens_out"}),
        EventShape("error", Failed),
    )
