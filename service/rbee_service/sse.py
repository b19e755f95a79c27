"""Server-sent events as the hive's clients read them: ``data: <json>`` and a blank line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Final

from rbee_service.events import (
    End,
    Failed,
    InferenceEvent,
    Metrics,
    Narration,
    Output,
    Started,
    T,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class SseDialect(StrEnum):
    """Vocabulary of the events: ``token`` is what older clients understand."""

    OUTPUT = "output"
    TOKEN = "token"


def encode_event(event: InferenceEvent[T], dialect: SseDialect) -> bytes:
    """Return the bytes of one event.

    Raises:
        ValueError: A number is not finite.
    """
    match event:
        case Started():
            body = _members("started", event)
        case Output():
            body = _members(dialect.value, event.output)
        case Metrics():
            body = _members("metrics", event)
        case Narration():
            body = _members("narration", event)
        case End():
            body = _members("end", event)
            if dialect is SseDialect.TOKEN:
                body = {("tokens_out" if k == "items_out" else k): v for k, v in body.items()}
        case Failed():
            body = _members("error", event)
    return encode_data(body)


def encode_text(text: str) -> bytes:
    """Return one ``data:`` event of plain text, which must be a single line."""
    # A lone surrogate has no UTF-8 form; it must not end a stream that is otherwise fine.
    return b"data: " + text.encode("utf-8", "replace") + b"\n\n"


def encode_data(body: Mapping[str, object]) -> bytes:
    """Return ``body`` as one ``data:`` event of compact JSON, in UTF-8 and on one line.

    Raises:
        ValueError: A number is not finite.
    """
    return encode_text(_ENCODER.encode(body))


def _members(kind: str, data: DataclassInstance) -> dict[str, object]:
    members: dict[str, object] = {"type": kind}
    for name in _names(type(data)):
        value = getattr(data, name)
        if value is not None:
            members[name] = value
    return members


# Asked for every token: looking through a class takes longer than encoding the event.
@cache
def _names(kind: type[DataclassInstance]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
