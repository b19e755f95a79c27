"""What clients of the OpenAI API say for their own accounts."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from rbee_service.openai.unserved import Part

_MOST: Final = 16
_LONGEST_NAME: Final = 64
_LONGEST_VALUE: Final = 512


def _fitting(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    fits = len(given) <= _MOST and all(
        len(name) <= _LONGEST_NAME and isinstance(value, str) and len(value) <= _LONGEST_VALUE
        for name, value in given.items()
    )
    if not fits:
        raise PydanticCustomError(
            "metadata",
            "it must have at most {members} members with names of at most {name} characters and "
            "strings of at most {value}",
            {"members": _MOST, "name": _LONGEST_NAME, "value": _LONGEST_VALUE},
        )
    return given


Metadata: TypeAlias = Annotated[
    dict[str, str],
    BeforeValidator(_fitting),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": _MOST,
            "propertyNames": {"maxLength": _LONGEST_NAME},
            "additionalProperties": {"type": "string", "maxLength": _LONGEST_VALUE},
        }
    ),
]
"""Strings by name, as OpenAI bounds them."""


class BookkeepingFields(Part):
    """What is not looked at: no answer would be another for it.

    Attributes:
        user: Who asks.
        safety_identifier: Likewise.
        prompt_cache_key: Which requests begin alike; here, those that do.
        prompt_cache_retention: How long what they begin with is kept; here, while there is room.
        metadata: What is kept with an answer that is stored; here, none is.
        service_tier: There is one.
    """

    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    metadata: Metadata = Field(default_factory=dict)
    service_tier: Literal["auto", "default"] = "default"
