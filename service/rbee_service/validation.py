"""Reads a request's JSON body into a pydantic model and reports every fault of it.

Works for any model: a fault's constraint is taken from the model's own JSON schema, so that a rule
is written down once, in the model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rbee_service.errors import FieldFault, InvalidFields
from rbee_service.wording import demand

_LONGEST_ECHO = 64

ModelT = TypeVar("ModelT", bound=BaseModel)


def parse_body(model: type[ModelT], body: bytes, *, private: Collection[str] = ()) -> ModelT:
    """Return the body as an instance of ``model``.

    Args:
        model: What the body must be.
        body: JSON, UTF-8.
        private: Fields whose value is never repeated to the client.

    Raises:
        InvalidFields: It is not JSON, not an object, or has faults in its fields; all are named.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        schema = model.model_json_schema()
        # The input of an error may hold the whole body; only what _echo lets through leaves here.
        details = error.errors(include_url=False)
        raise InvalidFields([_fault(detail, schema, private) for detail in details]) from None


def _fault(detail: ErrorDetails, schema: Mapping[str, Any], private: Collection[str]) -> FieldFault:
    path = detail["loc"]
    if not path:
        return _body_fault(detail)
    name = str(path[0]) + "".join(f"[{index}]" for index in path[1:])
    constraint = _constraint(detail, _rule(schema, path))
    value = None if path[0] in private else _echo(detail)
    return FieldFault(name, constraint, f"{name} {demand(detail)}", value)


def _body_fault(detail: ErrorDetails) -> FieldFault:
    if detail["type"] == "json_invalid":
        reason = detail.get("ctx", {}).get("error", "malformed")
        return FieldFault("body", "json", f"body is not valid JSON: {reason}")
    return FieldFault("body", "type(object)", "body must be a JSON object")


def _rule(schema: Mapping[str, Any], path: tuple[int | str, ...]) -> Mapping[str, Any]:
    rule = _present(schema["properties"][path[0]])
    for _ in path[1:]:
        rule = _present(rule["items"])
    return rule


def _present(rule: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the rule for a value that is there: an optional one may be of its type or null."""
    return next((r for r in rule.get("anyOf", ()) if r["type"] != "null"), rule)


def _constraint(detail: ErrorDetails, rule: Mapping[str, Any]) -> str:
    match detail["type"]:
        case "missing":
            return "required"
        case "string_too_short" | "string_too_long" | "too_long":
            return _length(rule)
        case "greater_than_equal" | "greater_than" | "less_than_equal" | "finite_number":
            return _range(rule)
        case "literal_error":
            return f"one_of({rule['const']})"
    return f"type({rule['type']})"


def _length(rule: Mapping[str, Any]) -> str:
    low = rule.get("minLength", rule.get("minItems", 0))
    high = rule.get("maxLength", rule.get("maxItems"))
    return f"length({low}..={high})"


def _range(rule: Mapping[str, Any]) -> str:
    above = rule.get("exclusiveMinimum")
    low = rule["minimum"] if above is None else f"{above}<"
    return f"range({low}..={rule['maximum']})" if "maximum" in rule else f"range({low}..)"


def _echo(detail: ErrorDetails) -> str | None:
    if detail["type"] == "missing":
        return None
    match detail["input"]:
        case bool() as value:
            text = "true" if value else "false"
        case int() | float() | str() as value:
            text = str(value)
        case _:
            return None
    return text if len(text) <= _LONGEST_ECHO else None
