"""What a completion is held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The completion is JSON that a schema admits, and nothing else.

    What a schema asks for that cannot be enforced is refused, never passed over: see
    :func:`~rbee_runtime.constraint.json_schema.check_schema`.

    Attributes:
        schema: The schema, as ``json.loads`` or ``pydantic.BaseModel.model_json_schema`` return it.
        called: What to call it in an error.
    """

    schema: Mapping[str, Any] | bool
    called: str = "json_schema"


@dataclass(frozen=True, slots=True)
class Regex:
    """The completion as a whole matches a regular expression.

    Attributes:
        pattern: In the syntax of Rust's ``regex``: no look-around, no back-references.
        called: What to call it in an error.
    """

    pattern: str
    called: str = "regex"


Constraint: TypeAlias = JsonSchema | Regex
"""What a completion may be held to."""
