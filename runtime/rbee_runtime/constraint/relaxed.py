"""As much of a JSON schema as can be enforced, for who is content with that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from rbee_runtime.constraint.json_schema import KNOWN, OF_LISTS, OF_NAMES, OF_ONE

_FORMATS: Final = frozenset(
    {
        *("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri"),
        "uuid",
    }
)
_LOOKS_AROUND: Final = re.compile(r"\(\?<?[=!]|\\[1-9]")


def relaxed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema that admits all that the given one does, without what cannot be enforced.

    That may be more. What is malformed stays as it is, and so does what is too large.

    Args:
        schema: As ``json.loads`` returns it.

    Raises:
        RecursionError: It is nested too deeply.
    """
    kept = {name: _value(name, value) for name, value in schema.items() if name in KNOWN}
    if str(kept.get("format")) not in _FORMATS:
        kept.pop("format", None)
    if _looks_around(kept.get("pattern")):
        del kept["pattern"]
    names = kept.get("patternProperties")
    if isinstance(names, dict) and any(map(_looks_around, names)):
        # Nor can be told then which names are left for what is said of all others.
        del kept["patternProperties"]
        kept.pop("additionalProperties", None)
    reference = kept.get("$ref", "#")
    if not re.fullmatch("#(/[^%]*)?", str(reference)):
        del kept["$ref"]
    kept.pop("$id", None)
    # That no other fits is what cannot always be told.
    alternatives = kept.pop("oneOf", None)
    if alternatives is not None:
        kept.setdefault("anyOf", alternatives)
    return kept


def _value(keyword: str, value: Any) -> Any:
    match value:
        case Mapping() if keyword in OF_NAMES:
            return {name: _schema(inner) for name, inner in value.items()}
        case list() if keyword in OF_LISTS or keyword == "items":
            return [_schema(inner) for inner in value]
        case Mapping() if keyword in OF_ONE or keyword == "items":
            return relaxed(value)
    return value


def _schema(given: Any) -> Any:
    return relaxed(given) if isinstance(given, Mapping) else given


def _looks_around(pattern: object) -> bool:
    return isinstance(pattern, str) and _LOOKS_AROUND.search(pattern) is not None
