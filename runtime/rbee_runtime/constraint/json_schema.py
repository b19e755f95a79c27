"""JSON schemas that strangers wrote: what of them can be enforced, and at what cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, TypeGuard

from rbee_runtime.constraint import JsonSchema
from rbee_runtime.constraint.alternatives import (
    MOST_ALTERNATIVES,
    MOST_OPTIONAL,
    alternatives,
    optional,
)
from rbee_runtime.constraint.extent import (
    MOST_CHARACTERS,
    MOST_PARTS,
    MOST_REMAINDERS,
    Extent,
)
from rbee_runtime.constraint.repetition import MOST_REPETITIONS, repetitions
from rbee_runtime.errors import InvalidRequest

_LONGEST_STRING: Final = 4_096
_LARGEST_WHOLE: Final = 2**53
"""Of ``const`` and ``enum``: the library takes numbers for floats, and would write another one."""

_DEEPEST_JSON: Final = 100

_BOUNDS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")

OF_NAMES: Final = frozenset({"properties", "patternProperties", "$defs", "definitions"})
"""Keywords whose value has a schema for every name."""

OF_ONE: Final = frozenset({"additionalProperties", "additionalItems"})
"""Keywords whose value is a schema."""

OF_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
"""Keywords whose value is a list of schemas."""

_PLAIN: Final = frozenset(
    {
        "$ref",
        "const",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "items",
        "maximum",
        "maxItems",
        "maxLength",
        "maxProperties",
        "minimum",
        "minItems",
        "minLength",
        "minProperties",
        "multipleOf",
        "pattern",
        "required",
        "type",
    }
)
"""The other keywords that are enforced."""

_ANNOTATIONS: Final = frozenset(
    {
        "$comment",
        "$id",
        "$schema",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "default",
        "deprecated",
        "description",
        "discriminator",
        "example",
        "examples",
        "readOnly",
        "title",
        "writeOnly",
    }
)
"""Keywords that ask for nothing."""

KNOWN: Final = OF_NAMES | OF_ONE | OF_LISTS | _PLAIN | _ANNOTATIONS


def check_schema(constraint: JsonSchema) -> Extent:
    """Let a schema pass if all that it asks for can be enforced within bounds.

    What compiles and follows a schema takes time, memory and stack as the schema wants, so that is
    bounded here: its text, the schemas in it, how deep they lead into each other, how many may
    stand in one place, and how often its patterns repeat something.

    Raises:
        InvalidRequest: It is no JSON schema, has a keyword that is not enforced, or is too large.
    """
    name = constraint.called
    try:
        text = json.dumps(constraint.schema, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise InvalidRequest(name, f"{name} is nested too deeply") from None
    except (TypeError, ValueError):
        raise InvalidRequest(name, f"{name} must be JSON") from None
    if len(text) > MOST_CHARACTERS:
        raise InvalidRequest(
            name, f"{name} has {len(text)} characters, more than {MOST_CHARACTERS} as JSON"
        )
    try:
        inspection = _Inspection(constraint)
        inspection.enter(constraint.schema, "", 0)
        inspection.require_simple_divisors()
    except RecursionError:
        raise InvalidRequest(name, f"{name} is nested too deeply") from None
    return inspection.extent(len(text))


class _Inspection:
    """A walk through a schema that refuses what cannot be enforced.

    The compiler goes where references lead, into each definition once: at most as deep as there
    are schemas.
    """

    def __init__(self, constraint: JsonSchema) -> None:
        self._name = constraint.called
        self._alternatives = alternatives(constraint.schema)
        self._optional = optional(constraint.schema)
        self._parts = 0
        self._repetitions = 0
        self._remainders = 0
        self._divisors: set[object] = set()
        self._merges = False

    def enter(self, schema: object, place: str, level: int) -> None:
        """Look at a schema and at all in it.

        Raises:
            InvalidRequest: It cannot be enforced.
        """
        if isinstance(schema, bool):
            return
        if not isinstance(schema, Mapping):
            raise self._refusal(place, "must be an object, true or false")
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise InvalidRequest(
                self._name, f"{self._name} has more than {MOST_PARTS} schemas in it"
            )
        if level > _DEEPEST_JSON:
            raise InvalidRequest(self._name, f"{self._name} is nested too deeply")
        for keyword in schema:
            if keyword not in KNOWN:
                raise self._refusal(place, f"{_short(keyword)} cannot be enforced")
        reference = schema.get("$ref", "#")
        elsewhere = level > 0 and "$id" in schema
        if elsewhere or not (reference == "#" or str(reference).startswith("#/")):
            message = "references are served within one schema only, as #/$defs/name"
            raise self._refusal(place, message)
        if "%" in str(reference):
            raise self._refusal(place, "a reference is served without escapes only")
        self._merges |= "allOf" in schema
        if _is_number(schema.get("multipleOf")):
            self._merges |= "$ref" in schema
            self._divisors.add(schema["multipleOf"])
        self._remainders += _remainders(schema.get("multipleOf"))
        if self._remainders > MOST_REMAINDERS:
            raise self._refusal(place, f"multipleOf adds up to more than {MOST_REMAINDERS}")
        values = [schema.get("const"), schema.get("enum")]
        if any(len(text) > _LONGEST_STRING for text in _scalars(values) if isinstance(text, str)):
            raise self._refusal(place, f"a string of more than {_LONGEST_STRING} characters")
        if any(abs(n) > _LARGEST_WHOLE for n in _scalars(values) if isinstance(n, int)):
            raise self._refusal(place, f"a whole number beyond {_LARGEST_WHOLE}")
        if self._alternatives.of(schema) > MOST_ALTERNATIVES:
            raise self._refusal(place, f"more than {MOST_ALTERNATIVES} alternatives")
        if self._optional.of(schema) > MOST_OPTIONAL:
            message = f"more than {MOST_OPTIONAL} properties in a row that are not required"
            raise self._refusal(place, message)
        if schema.get("format") == "unknown":  # a word of the library's for any text
            raise self._refusal(place, "format cannot be unknown")
        patterns = [schema.get("pattern"), *_names(schema.get("patternProperties"))]
        self._repetitions += sum(repetitions(p) for p in patterns if isinstance(p, str))
        if self._repetitions > MOST_REPETITIONS:
            raise self._refusal(place, f"patterns repeat more than {MOST_REPETITIONS} times")
        if _excludes_a_near_whole_number(schema):
            message = "a whole number cannot be excluded less than 1 from another bound"
            raise self._refusal(place, message)
        if max(map(len, _names(schema.get("properties"))), default=0) > _LONGEST_STRING:
            raise self._refusal(place, f"a name of more than {_LONGEST_STRING} characters")
        for inner, where in _inner(schema):
            self.enter(inner, f"{place}/{where}", level + 1)

    def extent(self, characters: int) -> Extent:
        """Return how large what was entered is, of a schema of so many characters."""
        return Extent(characters, self._parts, self._repetitions, self._remainders)

    def require_simple_divisors(self) -> None:
        """Let a schema pass in which no two divisors can come together: their product has no bound.

        Raises:
            InvalidRequest: Some can.
        """
        if self._merges and len(self._divisors) > 1:
            message = f"{self._name}: several multipleOf beside allOf cannot be enforced"
            raise InvalidRequest(self._name, message)

    def _refusal(self, place: str, fault: str) -> InvalidRequest:
        at = f" at {place}" if place else ""
        return InvalidRequest(self._name, f"{self._name}{at}: {fault}")


def _excludes_a_near_whole_number(schema: Mapping[str, Any]) -> bool:
    """Return whether a whole number is excluded less than 1 from another bound.

    The library lets that number be all the same: 2 in ``exclusiveMinimum: 2, maximum: 2.5``.
    """
    excluded = []
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        value = schema.get(exclusive)
        # In draft 4 it says what the other keyword is.
        excluded.append(schema.get(bound) if value is True else value)
    bounds = list(filter(_is_number, map(schema.get, _BOUNDS)))
    return any(
        0 < abs(value - bound) < 1
        for value in filter(_is_number, excluded)
        if value % 1 == 0
        for bound in bounds
    )


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _remainders(divisor: object) -> int:
    """Return how many remainders a divisor leaves, counted in its last decimal place."""
    if not _is_number(divisor):
        return 0
    digits = Decimal(repr(divisor)).normalize().as_tuple().digits
    return int("".join(map(str, digits))) if len(digits) < 20 else 10**20


def _scalars(value: object) -> Iterator[object]:
    """Yield what a value of JSON is made of, the names in it too."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case list() as items:
                waiting += items
            case Mapping() as members:
                waiting += [*members, *members.values()]
            case scalar:
                yield scalar


def _names(members: object) -> list[Any]:
    return list(members) if isinstance(members, Mapping) else []


def _inner(schema: Mapping[str, Any]) -> Iterator[tuple[object, str]]:
    """Yield the schemas directly in one, and where. What is malformed is left to the compiler."""
    for keyword, value in schema.items():
        if keyword in OF_NAMES and isinstance(value, Mapping):
            for name, inner in value.items():
                yield inner, f"{keyword}/{_short(name)}"
        elif keyword in OF_LISTS or (keyword == "items" and isinstance(value, list)):
            for number, inner in enumerate(value if isinstance(value, list) else ()):
                yield inner, f"{keyword}/{number}"
        elif keyword in OF_ONE or keyword == "items":
            yield value, keyword


def _short(name: object) -> str:
    """Return a name as it may be told in an error: in one line, and not a long one."""
    text = "".join(c if c.isprintable() else "?" for c in str(name))
    return text if len(text) <= 40 else f"{text[:40]}…"
