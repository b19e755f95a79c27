"""What of a schema is refused before anything is made of it, and how that is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rbee_runtime.constraint import JsonSchema
from rbee_runtime.constraint.json_schema import check_schema
from rbee_runtime.constraint.relaxed import relaxed
from rbee_runtime.constraint.repetition import repetitions
from rbee_runtime.errors import InvalidRequest


def deep(levels: int) -> Any:
    schema: Any = True
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def chain(length: int) -> dict[str, Any]:
    """Return a schema of definitions that lead from one to the next."""
    named = {f"d{n}": {"items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": named | {f"d{length}": True}}


NAMES = [f"p{n}" for n in range(900)]


def optional(count: int) -> dict[str, Any]:
    """Return a schema of objects whose properties may all be left out."""
    return {"properties": {key: {} for key in NAMES[:count]}, "additionalProperties": False}


def into(length: int) -> dict[str, Any]:
    """Return a schema of definitions each of which is the next."""
    named = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}]} for n in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": named | {f"d{length}": True}}


REFUSED: list[tuple[Any, str]] = [
    ({"uniqueItems": True}, "json_schema: uniqueItems cannot be enforced"),
    ({"properties": {"a": {"not": {}}}}, "json_schema at /properties/a: not cannot be enforced"),
    ({"anyOf": [{}, {"if": {}}]}, "json_schema at /anyOf/1: if cannot be enforced"),
    ({"items": [{"nullable": True}]}, "json_schema at /items/0: nullable cannot be enforced"),
    ({"$defs": {"unused": {"contains": {}}}}, "at /$defs/unused: contains cannot be enforced"),
    ({"x-guidance": {"lenient": True}}, "x-guidance cannot be enforced"),
    ({"a\nb" * 40: 1}, "json_schema: a?ba?b"),
    (3, "json_schema: must be an object, true or false"),
    ({"items": 3}, "json_schema at /items: must be an object, true or false"),
    ({"$ref": "http://elsewhere/"}, "references are served within one schema only"),
    ({"$ref": "#anchor"}, "references are served within one schema only"),
    ({"items": {"$id": "http://elsewhere/"}}, "references are served within one schema only"),
    ({"$ref": "#/$defs/%61"}, "a reference is served without escapes only"),
    ({"exclusiveMinimum": 0, "maximum": 0.5}, "a whole number cannot be excluded"),
    ({"exclusiveMaximum": -2.0, "minimum": -2.25}, "a whole number cannot be excluded"),
    ({"minimum": 0, "exclusiveMinimum": True, "maximum": 0.5}, "a whole number cannot be excluded"),
    ({"format": "unknown"}, "format cannot be unknown"),
    ({"multipleOf": 10_001}, "json_schema: multipleOf adds up to more than 10000"),
    ({"items": [{"multipleOf": 0.5003}] * 2}, "multipleOf adds up to more than 10000"),
    (
        {"allOf": [{"multipleOf": 97}, {"multipleOf": 98}]},
        "json_schema: several multipleOf beside allOf cannot be enforced",
    ),
    (
        {"$ref": "#/$defs/a", "multipleOf": 98, "$defs": {"a": {"multipleOf": 97}}},
        "json_schema: several multipleOf beside allOf cannot be enforced",
    ),
    ({"multipleOf": 0.12345678901234567}, "multipleOf adds up to more than 10000"),
    ({"const": {1, 2}}, "json_schema must be JSON"),
    ({"const": float("nan")}, "json_schema must be JSON"),
    ({"const": "x" * 4_097}, "json_schema: a string of more than 4096 characters"),
    ({"enum": [{"a": ["x" * 4_097]}]}, "json_schema: a string of more than 4096 characters"),
    ({"const": 2**53 + 1}, "json_schema: a whole number beyond 9007199254740992"),
    ({"enum": [1, {"a": [-(10**400)]}]}, "a whole number beyond 9007199254740992"),
    ({"properties": {"x" * 4_097: {}}}, "json_schema: a name of more than 4096 characters"),
    ({"description": "x" * 70_000}, "json_schema has 70018 characters, more than 65536 as JSON"),
    ({"prefixItems": [{}] * 1_000}, "json_schema has more than 1000 schemas in it"),
    (chain(500), "json_schema has more than 1000 schemas in it"),
    (into(490), "json_schema is nested too deeply"),
    (deep(102), "json_schema is nested too deeply"),
    (deep(50_000), "json_schema is nested too deeply"),
    ({"anyOf": [{"const": n} for n in range(65)]}, "json_schema: more than 64 alternatives"),
    (
        {"anyOf": [{"anyOf": [{}] * 9}] * 9},
        "json_schema: more than 64 alternatives",
    ),
    (
        {"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"oneOf": [{}] * 65}}},
        "json_schema at /items: more than 64 alternatives",
    ),
    (optional(101), "json_schema: more than 100 properties in a row that are not required"),
    (
        {"items": {"anyOf": [optional(60), {"$ref": "#/$defs/a"}]}, "$defs": {"a": optional(41)}},
        "json_schema at /items: more than 100 properties in a row that are not required",
    ),
    (
        {"properties": {key: {} for key in NAMES}, "required": NAMES[:-101]},
        "json_schema: more than 100 properties in a row that are not required",
    ),
    ({"pattern": "(a{101}){50}"}, "json_schema: patterns repeat more than 5000 times"),
    ({"patternProperties": {"a{5001}": {}}}, "patterns repeat more than 5000 times"),
    ({"anyOf": [{"pattern": "a{200}"}] * 40}, "patterns repeat more than 5000 times"),
]


@pytest.mark.parametrize(("schema", "message"), REFUSED)
def test_what_is_refused_is_named(schema: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_schema(JsonSchema(schema))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200
    assert refused.value.field == "json_schema"


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"title": "T", "description": "D", "default": 1, "examples": [{"not": 1}], "$schema": "x"},
        {"const": {"not": "a keyword"}, "enum": [{"if": 1}]},
        {"properties": {"not": {}, "if": {}}, "required": ["not"]},
        {"$ref": "#/$defs/a~1b/items/0", "$defs": {"a/b": {"items": [{}]}}},
        {"$defs": {"tree": {"anyOf": [{"items": {"$ref": "#/$defs/tree"}}, {"$ref": "#"}]}}},
        {"anyOf": [{"$ref": "#"}, {"$ref": "#/nowhere/0"}]},
        {"type": ["string", "null"], "minLength": 10**9, "maximum": 0.5},
        {"exclusiveMinimum": 0, "maximum": 1},
        {"const": 2**53, "enum": [-(2**53), True, 1e60, 0.1], "maximum": 2**63 - 1},
        {"items": [{"multipleOf": 1e9}, {"multipleOf": 0.01}, {"multipleOf": 12.5}]},
        {"exclusiveMinimum": 0.5, "maximum": 0.75},
        {
            "properties": {key: {"type": ["string", "null"]} for key in NAMES},
            "required": NAMES[::100],
        },
        {"items": [{"anyOf": [optional(60), optional(40)]}, optional(100)]},
        {"items": "what is malformed is for the compiler"} | {"items": [{}]},
        deep(99),
        chain(400),
    ],
)
def test_what_is_not(schema: Mapping[str, Any] | bool) -> None:
    check_schema(JsonSchema(schema))


@pytest.mark.parametrize(
    ("schema", "left"),
    [
        ({"type": "object", "propertyNames": {}, "not": {}}, {"type": "object"}),
        ({"items": {"uniqueItems": True, "minItems": 1}}, {"items": {"minItems": 1}}),
        ({"properties": {"not": {"if": {}}, "a": True}}, {"properties": {"not": {}, "a": True}}),
        ({"prefixItems": [{"nullable": True}]}, {"prefixItems": [{}]}),
        ({"format": "int64", "items": {"format": "uuid"}}, {"items": {"format": "uuid"}}),
        ({"format": []}, {}),
        ({"pattern": "a(?!b)", "items": {"pattern": "(?i)a"}}, {"items": {"pattern": "(?i)a"}}),
        ({"patternProperties": {"(?=a)": {}}, "additionalProperties": False}, {}),
        ({"patternProperties": {"^a": {"not": {}}}}, {"patternProperties": {"^a": {}}}),
        ({"$ref": "https://example.org/a", "title": "T"}, {"title": "T"}),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"if": {}}}},
            {"$ref": "#/$defs/a", "$defs": {"a": {}}},
        ),
        ({"oneOf": [{"type": "null"}, {"not": {}}]}, {"anyOf": [{"type": "null"}, {}]}),
        ({"oneOf": [{}], "anyOf": [{"const": 1}]}, {"anyOf": [{"const": 1}]}),
        ({"items": [{}, 1]} | deep(3), deep(3)),
        ({"enum": [{"not": 1}]}, {"enum": [{"not": 1}]}),
    ],
)
def test_what_is_left_of_one_that_cannot_be_enforced(
    schema: Mapping[str, Any], left: Mapping[str, Any]
) -> None:
    assert relaxed(schema) == left
    check_schema(JsonSchema(left))


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("", 0),
        ("abc", 3),
        (r"\d{3}-\d{4}", 8),
        ("[a-z]{2,5}", 5),
        ("[]a{9}]{3}", 3),
        (r"[\]{9}]", 1),
        ("(ab){3}", 6),
        ("((ab){3}c){2,}", 14),
        ("a{2}{3}", 6),
        (r"\p{L}{4}", 4),
        (r"\{9}", 3),
        ("(a{3", 3),
        (")a", 2),
        ("x{99999999999999999999}", 999_999_999),
    ],
)
def test_how_large_a_pattern_is(pattern: str, size: int) -> None:
    assert repetitions(pattern) == size
