"""Lets generated requests that are well-formed also fit a small model; loaded by schemathesis."""

from __future__ import annotations

import os
import re
from typing import Any

import schemathesis

MODEL = os.environ["SERVED_MODEL"]
LANGUAGE = os.environ["SERVED_KIND"] == "language"
OPENAI = {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"}


def _fit(body: dict[str, Any], path: str) -> None:
    # What is out of its range stays so: it is there to be refused.
    highest = 2**63 if path in OPENAI else 2048
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        asked = body.get(name)
        if _is_number(asked) and asked % 1 == 0 and 16 < asked <= highest:
            body[name] = 16
    match body.get("prompt"):
        case str() as prompt if len(prompt) <= 32768:
            body["prompt"] = prompt[:64]
        case list() as prompt:
            body["prompt"] = _known(prompt)
    match body.get("input"):
        case str() as text:
            body["input"] = text[:64]
        case list() as inputs:
            body["input"] = _brief_inputs(inputs)
    if _is_number(body.get("dimensions")) and body["dimensions"] > 0:
        del body["dimensions"]
    if isinstance(messages := body.get("messages"), list):
        body["messages"] = [_brief(message) for message in messages[:4]]
    match body.get("response_format"):
        case {"json_schema": {"schema": dict() as schema}}:
            # Most objects are no schema.
            schema.clear()
    match body.get("text"):
        case {"format": {"schema": dict() as schema}}:
            schema.clear()
    if path.startswith("/v1/messages"):
        _fit_turns(body)
    if isinstance(bias := body.get("logit_bias"), dict):
        known = re.compile("[0-9]{1,9}")
        body["logit_bias"] = {
            str(int(token) % 256) if known.fullmatch(token) else token: value
            for token, value in bias.items()
        }
    if body.get("reasoning_effort") != "none":
        # Its chat template reads of none.
        body.pop("reasoning_effort", None)
    match body.get("reasoning"):
        case {"effort": effort} if effort != "none":
            del body["reasoning"]
    if isinstance(body.get("tools"), list):
        _fit_tools(body)
    elif _is_choice(body.get("tool_choice")):
        del body["tool_choice"]
    if isinstance(model := body.get("model"), str) and len(model) % 8:
        body["model"] = MODEL


def _fit_turns(body: dict[str, Any]) -> None:
    """Let the user speak last, no rule bind two members, and the model not have to think."""
    said = [turn for turn in body.get("messages") or () if isinstance(turn, dict)]
    said = [turn for turn in said if turn.get("role") != "system"]
    if said and said[-1].get("role") == "assistant":
        body["messages"].append({"role": "user", "content": "x"})
    formats = [body.get("output_format")]
    match body.get("output_config"):
        case {"format": dict() as form}:
            body.pop("output_format", None)
            formats.append(form)
    for form in formats:
        match form:
            case {"schema": dict() as schema}:
                schema.clear()
    match body.get("thinking"):
        case {"type": "enabled"} as thinking:
            thinking["type"] = "adaptive"


def _fit_tools(body: dict[str, Any]) -> None:
    """Let tools have names of their own, and what is chosen be one of them."""
    names: list[str] = []
    del body["tools"][2:]
    for tool in body["tools"]:
        match tool:
            case {"function": {"name": str() as name} as function}:
                pass
            case {"name": str() as name} as function:
                pass
            case _:
                continue
        if name in names and len(name) < 60:
            function["name"] = f"{name}{len(names)}"
        names.append(function["name"])
        for parameters in ("parameters", "input_schema"):
            if isinstance(function.get(parameters), dict):
                function[parameters].clear()
        if isinstance(function.get("description"), str):
            function["description"] = function["description"][:64]
    choice = body.get("tool_choice")
    if _is_choice(choice) and not names:
        del body["tool_choice"]
    elif isinstance(choice, dict) and _is_choice(choice) and choice["type"] != "any":
        choice.get("function", choice)["name"] = names[0]
    if names and choice not in ("none", {"type": "none"}):
        for shaped in ("response_format", "text", "output_config", "output_format"):
            body.pop(shaped, None)


def _is_choice(choice: Any) -> bool:
    match choice:
        case "required" | {"type": "function", "function": {"name": str()}}:
            return True
        case {"type": "any"} | {"type": "function" | "tool", "name": str()}:
            return True
    return False


def _brief(message: Any) -> Any:
    """Return a chat message with the beginning of what it says and calls."""
    if not isinstance(message, dict):
        return message
    if isinstance(message.get("tool_calls"), list):
        del message["tool_calls"][2:]
        for call in message["tool_calls"]:
            match call:
                case {"function": {"arguments": str()} as function}:
                    # Most texts are no object of JSON.
                    function["arguments"] = "{}"
    content = message.get("content")
    if isinstance(content, str):
        return message | {"content": content[:64]}
    if isinstance(content, list):
        return message | {"content": [_brief_part(part) for part in content[:2]]}
    return message


def _brief_item(item: Any) -> Any:
    """Return what was said, called or thought, in short."""
    if not isinstance(item, dict):
        return item
    if isinstance(item.get("arguments"), str):
        item["arguments"] = "{}"
    for name in ("content", "output", "summary"):
        match item.get(name):
            case str() as text:
                item[name] = text[:64]
            case list() as parts:
                item[name] = [_brief_part(part) for part in parts[:2]]
    return item


def _brief_part(part: Any) -> Any:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return part | {"text": part["text"][:64]}
    return part


def _brief_inputs(inputs: list[Any]) -> list[Any]:
    if any(isinstance(item, dict) for item in inputs):
        return [_brief_item(item) for item in inputs[:4]]
    return [item[:64] if isinstance(item, str) else item for item in _known(inputs)]


def _known(prompt: list[Any]) -> list[Any]:
    """Return a prompt of token ids with those of the model only."""
    return [
        _known(item)
        if isinstance(item, list)
        else (item % 256 if _is_number(item) and item >= 0 else item)
        for item in prompt
    ]


def _complete(body: dict[str, Any]) -> None:
    """Ask a language model for what an embedding model is asked for."""
    for name in body.keys() - {"job_id", "operation", "prompt"}:
        del body[name]
    body["max_tokens"] = 4


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@schemathesis.hook
def before_call(_: Any, case: Any, __: Any) -> None:
    if isinstance(case.body, dict):
        _fit(case.body, case.operation.path)
        asked = case.operation.path in {"/v1/inference", "/v1/jobs"}
        if LANGUAGE and asked and "max_tokens" not in case.body:
            _complete(case.body)
    deadline = (case.headers or {}).get("X-Deadline")
    if isinstance(deadline, str) and deadline.isdigit() and len(deadline) < 18:
        # Most numbers are times long gone.
        case.headers["X-Deadline"] = f"9{deadline[:14]:0>14}"
