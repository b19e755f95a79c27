"""What a field of a request must be, told in our words: a validator's are for programmers."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from pydantic_core import ErrorDetails

_KINDS: Final = MappingProxyType(
    {
        "bool": "a boolean",
        "dict": "an object",
        "float": "a number",
        "int": "an integer",
        "list": "an array",
        "model": "an object",
        "string": "a string",
    }
)
"""Types of JSON, by how the names of a validator's faults with them begin."""


def demand(fault: ErrorDetails) -> str | None:
    """Return what follows a field's name to say what it must be, as in ``must be at least 1``.

    Nothing is repeated of what was sent.

    Args:
        fault: Of pydantic.

    Returns:
        ``None`` for a rule of our own, which has its own words.
    """
    bounds = fault.get("ctx", {})
    match fault["type"]:
        case "missing":
            return "is required"
        case "string_too_short":
            return f"must have at least {_count(bounds['min_length'], 'character')}"
        case "string_too_long":
            return f"must have at most {_count(bounds['max_length'], 'character')}"
        case "too_short":
            return f"must have at least {_count(bounds['min_length'], 'item')}"
        case "too_long":
            return f"must have at most {_count(bounds['max_length'], 'item')}"
        case "greater_than_equal":
            return f"must be at least {bounds['ge']}"
        case "greater_than":
            return f"must be greater than {bounds['gt']}"
        case "less_than_equal":
            return f"must be at most {bounds['le']}"
        case "finite_number":
            return "must be a finite number"
        case "literal_error":
            return f"must be {_json(bounds['expected'])}"
    kind = _KINDS.get(fault["type"].partition("_")[0])
    return kind and f"must be {kind}"


def _count(bound: int, unit: str) -> str:
    return f"{bound} {unit}" + ("" if bound == 1 else "s")


def _json(expected: str) -> str:
    return {"True": "true", "False": "false"}.get(expected, expected.replace("'", ""))
