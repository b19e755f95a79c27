"""Good bodies for every route that reads one, as deep as it allows, and how to spoil them."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

MODEL: Final = "attacked"
"""What a worker calls its model to whom these are good."""

_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {"bees": {"type": "integer", "minimum": 1}, "kept": {"enum": ["yes", "no"]}},
    "required": ["bees"],
    "additionalProperties": False,
}
_FUNCTION: Final[Mapping[str, Any]] = {"name": "count_bees", "parameters": _SCHEMA, "strict": True}
_CALL: Final[Mapping[str, Any]] = {"name": "count_bees", "arguments": '{"bees": 3}'}
_SAMPLING: Final[Mapping[str, Any]] = {"model": MODEL, "temperature": 0.5, "top_p": 0.9}
_JOB: Final[Mapping[str, Any]] = {
    "job_id": "h",
    "prompt": "p",
    "max_tokens": 2,
    "operation": "infer",
    "temperature": 0.5,
    "stop": ["."],
    "seed": 7,
}

_BODIES: Final[tuple[tuple[str, Mapping[str, Any]], ...]] = (
    ("/v1/inference", _JOB),
    ("/v1/infer", _JOB),
    ("/v1/jobs", _JOB),
    ("/v1/completions", {**_SAMPLING, "prompt": "p", "max_tokens": 2, "logprobs": 2, "n": 2}),
    (
        "/v1/completions",
        {**_SAMPLING, "prompt": [1, 2, 3], "max_tokens": 2, "logit_bias": {"5": 1}, "stop": ["."]},
    ),
    (
        "/v1/chat/completions",
        {
            **_SAMPLING,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Bees?"}]},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "call00001", "type": "function", "function": _CALL}],
                },
                {"role": "tool", "tool_call_id": "call00001", "content": "three"},
            ],
            "tools": [{"type": "function", "function": _FUNCTION}],
            "tool_choice": "auto",
            "max_completion_tokens": 2,
            "stream": True,
            "stream_options": {"include_usage": True},
            "logprobs": True,
            "top_logprobs": 2,
        },
    ),
    (
        "/v1/chat/completions",
        {
            **_SAMPLING,
            "messages": [{"role": "user", "content": "Bees?"}],
            "max_tokens": 2,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "bees", "schema": _SCHEMA, "strict": True},
            },
            "prediction": {"type": "content", "content": "three bees"},
            "chat_template_kwargs": {"enable_thinking": False},
        },
    ),
    (
        "/v1/responses",
        {
            **_SAMPLING,
            "instructions": "Be brief.",
            "input": [
                {"type": "message", "role": "user", "content": "Bees?"},
                {"type": "function_call", "call_id": "call00001", **_CALL},
                {"type": "function_call_output", "call_id": "call00001", "output": "three"},
            ],
            "tools": [{"type": "function", **_FUNCTION}],
            "max_output_tokens": 2,
            "stream": True,
        },
    ),
    (
        "/v1/responses",
        {
            **_SAMPLING,
            "input": "Bees?",
            "max_output_tokens": 2,
            "text": {"format": {"type": "json_schema", "name": "bees", "schema": _SCHEMA}},
            "metadata": {"who": "bees"},
        },
    ),
    (
        "/v1/messages",
        {
            **_SAMPLING,
            "system": [
                {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
            ],
            "messages": [
                {"role": "user", "content": "Bees?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Bees.", "signature": "x"},
                        {
                            "type": "tool_use",
                            "id": "toolu_1",
                            "name": "count_bees",
                            "input": {"bees": 3},
                        },
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "three"},
                        {"type": "text", "text": "So?"},
                    ],
                },
                {"role": "system", "content": "Be briefer."},
            ],
            "tools": [{"name": "count_bees", "input_schema": {**_SCHEMA, "not": {}}}],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
            "thinking": {"type": "adaptive"},
            "max_tokens": 2,
            "stop_sequences": ["."],
            "stream": True,
        },
    ),
    (
        "/v1/messages/count_tokens",
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Bees?"}],
            "output_config": {"format": {"type": "json_schema", "schema": _SCHEMA}},
        },
    ),
)

GOOD: Final[Mapping[str, tuple[Mapping[str, Any], ...]]] = MappingProxyType(
    {
        route: tuple(body for path, body in _BODIES if path == route)
        for route in dict.fromkeys(route for route, _ in _BODIES)
    }
)
"""Bodies that are answered, by route."""

_ODD: Final[tuple[object, ...]] = (
    *(None, True, -1, 0, 0.5, 1e308, 2**80, "", "x", "\x00", "\ud800", "a" * 70_000),
    *([], {}, [[1]], {"a": {}}, [None] * 3000),
)


def good_body(dice: random.Random) -> tuple[str, dict[str, Any]]:
    """Return a route, and a body that is good for it."""
    route, body = dice.choice(_BODIES)
    return route, copy.deepcopy(dict(body))


def spoilt_body(dice: random.Random) -> tuple[str, dict[str, Any]]:
    """Return a route, and a body that was good for it until one to three values were exchanged.

    What is exchanged may lie at any depth; it may be gone, or have an unknown name.
    """
    route, body = good_body(dice)
    for _ in range(dice.randint(1, 3)):
        holder, key = dice.choice([*_places(body)])
        match dice.randrange(4):
            case 0:
                del holder[key]
                if not body:
                    break
            case 1 if isinstance(holder, dict):
                holder[f"{key}_"] = holder.pop(key)
            case _:
                holder[key] = copy.deepcopy(dice.choice(_ODD))  # it may be spoilt in its turn
    return route, body


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield where values are within another: what holds each, and its name or number there."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])
