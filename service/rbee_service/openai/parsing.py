"""Reads a body of the OpenAI API, and refuses by name what is wrong with it or not served."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rbee_service.openai.errors import OpenAiError
from rbee_service.openai.unserved import Part
from rbee_service.wording import demand

_MOST_FAULTS: Final = 8
"""Faults named at a time."""

_LONGEST_NAME: Final = 100
"""Characters repeated of the name of a field."""

_BY_TOKEN: Final = "logit_bias"
"""The one field whose members have names of the client's own."""

ModelT = TypeVar("ModelT", bound=Part)


def parse_openai(model: type[ModelT], body: bytes) -> ModelT:
    """Return the body as an instance of ``model``.

    Raises:
        OpenAiError: It is not; its faults are named. Of what was sent only the names of fields that
            are not known are repeated.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        told = dict.fromkeys(_sentence(detail, model.unserved) for detail in details)
        first = details[0]
        name: str | None = _name(first)
        if not name:
            # A rule that binds several fields is called what the one is that breaks it.
            name = first["type"] if first["type"] in model.model_fields else None
        message = "; ".join([*told][:_MOST_FAULTS])
        raise OpenAiError(message, name, _code(first, model.unserved)) from None


def _name(detail: ErrorDetails) -> str:
    name = ""
    for step in detail["loc"]:
        if name == _BY_TOKEN:
            break  # what its members are called is the client's
        if isinstance(step, int):
            name += f"[{step}]"
        elif name and ("[" in step or "-" in step or step == "str"):
            continue  # names an alternative of a type, not a member
        else:
            name += f".{step}" if name else step
    return name[:_LONGEST_NAME]


def _code(detail: ErrorDetails, unserved: Collection[str]) -> str:
    match detail["type"]:
        case "extra_forbidden":
            known = detail["loc"][-1] in unserved
            return "unsupported_parameter" if known else "unknown_parameter"
        case "missing":
            return "missing_required_parameter"
        case "json_invalid":
            return "invalid_json"
    return "invalid_value"


def _sentence(detail: ErrorDetails, unserved: Collection[str]) -> str:
    name = _name(detail)
    match _code(detail, unserved):
        case "unsupported_parameter":
            return f"{name} is not served by this worker, or not with this value"
        case "unknown_parameter":
            return f"{name} is not known to this worker"
        case "invalid_json":
            reason = detail.get("ctx", {}).get("error", "malformed")
            return f"the body is not valid JSON: {reason}"
    if detail["type"] == "string_pattern_mismatch":
        if name == _BY_TOKEN:
            return f"every name in {name} must be a token id"
        return f"{name} must match {detail['ctx']['pattern']}"
    if name == _BY_TOKEN and len(detail["loc"]) > 1:
        name = f"every value in {name}"
    told = demand(detail)
    if told is None:
        return f"{name}: {detail['msg']}" if name else detail["msg"]
    return f"{name or 'the body'} {told}"
