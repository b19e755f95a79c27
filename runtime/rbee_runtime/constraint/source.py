"""Constraints as llguidance, the library of grammars, reads them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from rbee_runtime.constraint import (
    AfterReasoning,
    Constraint,
    Function,
    JsonSchema,
    Regex,
    ToolCalls,
)
from rbee_runtime.constraint.call_grammar import call_grammar
from rbee_runtime.constraint.reasoning_grammar import direct, may_be_none, reasoning_rules
from rbee_runtime.reasoning import Reasoning

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
            return _calls(constraint, call_grammar(constraint, specials, eos))
        case AfterReasoning(reasoning, answer):
            if isinstance(answer, ToolCalls):
                return _calls(answer, call_grammar(answer, specials, eos, reasoning))
            rules = "\n".join(_reasoning_and_answer(reasoning, specials))
            schema = answer.schema
            if isinstance(schema, bool):
                schema = {"allOf": [schema]}  # one with a place for the library's keyword
            return _grammars(rules, {"answer": schema})


def _calls(constraint: ToolCalls, rules: str) -> str:
    schemas = {
        f"f{number}": arguments_schema(function)
        for number, function in enumerate(constraint.functions)
    }
    return _grammars(rules, schemas)


def _reasoning_and_answer(reasoning: Reasoning, specials: Mapping[str, int]) -> Iterator[str]:
    yield "%llguidance {}"
    without = f" | {direct(reasoning, specials)}@answer" if may_be_none(reasoning) else ""
    yield f"start: reasoning @answer{without}"
    yield from reasoning_rules(reasoning, specials)


def _grammars(rules: str, schemas: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a grammar with those of JSON schemas that it refers to by name."""
    # Whatever a schema says of itself, the library's own keyword is ours.
    own = {"x-guidance": _how_json_is_written()}
    parts = [{"name": name, "json_schema": {**schema, **own}} for name, schema in schemas.items()]
    return json.dumps({"grammars": [{"name": "whole", "lark_grammar": rules}, *parts]})


def arguments_schema(function: Function) -> dict[str, Any]:
    """Return what the arguments of a function are held to: an object, whatever its schema says."""
    return {**function.parameters, "type": "object"}


def _how_json_is_written() -> JsonCompileOptions:
    # Fixed here, or a schema could change it.
    return {"whitespace_pattern": _SPACE, "coerce_one_of": False, "lenient": False}
