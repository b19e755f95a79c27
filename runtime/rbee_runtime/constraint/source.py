"""Constraints as llguidance, the library of grammars, reads them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from rbee_runtime.constraint import Constraint, Function, JsonSchema, Regex, ToolCalls
from rbee_runtime.constraint.call_grammar import call_grammar

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

_SPACE: Final = r"( |\n[ \t]{0,40})?"
"""What may stand between two parts of JSON. Without a bound a model may go on with it for ever."""


def source(constraint: Constraint, specials: Mapping[str, int], eos: Collection[int]) -> str:
    """Return a constraint as the library reads it.

    Args:
        constraint: What it is.
        specials: The vocabulary's special tokens by name.
        eos: Tokens that end a completion.

    Raises:
        ValueError: It cannot be written down so.
    """
    from llguidance import LLMatcher

    match constraint:
        case JsonSchema():
            return LLMatcher.grammar_from_json_schema(
                json.dumps(constraint.schema), overrides=_how_json_is_written()
            )
        case Regex():
            return LLMatcher.grammar_from_regex(constraint.pattern)
        case ToolCalls():
            grammars: list[dict[str, Any]] = [
                {"name": "calls", "lark_grammar": call_grammar(constraint, specials, eos)}
            ]
            for number, function in enumerate(constraint.functions):
                # Whatever the schema says of itself, the library's own keyword is ours.
                own = {"x-guidance": _how_json_is_written()}
                schema = arguments_schema(function) | own
                grammars.append({"name": f"f{number}", "json_schema": schema})
            return json.dumps({"grammars": grammars})


def arguments_schema(function: Function) -> dict[str, Any]:
    """Return what the arguments of a function are held to: an object, whatever its schema says."""
    return {**function.parameters, "type": "object"}


def _how_json_is_written() -> JsonCompileOptions:
    # Fixed here, or a schema could change it.
    return {"whitespace_pattern": _SPACE, "coerce_one_of": False, "lenient": False}
