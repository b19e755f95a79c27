"""Completions that call functions, in the forms of several families."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema_rs
import pytest
from support.collecting import submit
from support.makers import MakeToolArtifact
from support.tool_families import FAMILIES

from rbee_runtime.constraint import CallForm, Function, ToolCalls
from rbee_runtime.engine import Engine
from rbee_runtime.errors import InvalidRequest
from rbee_runtime.events import StopReason
from rbee_runtime.request import Request, SamplingParams
from rbee_runtime.tools import Arguments, CallBegun, CallReader, Text

PROMPT = "Once upon a time"
SCHEMAS: Mapping[str, dict[str, Any]] = {
    "weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 6},
            "unit": {"enum": ["°C", 'F"}']},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    # One name begins another.
    "weather-2": {
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "additionalProperties": False,
    },
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
}
FUNCTIONS = tuple(Function(name, schema, name) for name, schema in SCHEMAS.items())
SERVED = ("qwen2", "llama", "mistral", "mistral with names")


@pytest.fixture(scope="module", params=SERVED)
def engine(request: pytest.FixtureRequest, make_tool_artifact: MakeToolArtifact) -> Iterator[Any]:
    artifact = make_tool_artifact(request.param)
    with Engine.load(artifact, backend="cpu", slots=4) as engine:
        assert engine.tokenizer.call_manner.form == FAMILIES[request.param].form
        yield engine


def held_to(engine: Engine, **others: Any) -> ToolCalls:
    return ToolCalls(FUNCTIONS, engine.tokenizer.call_manner.form, **others)


def warm(seed: int, **bias: float) -> SamplingParams:
    return SamplingParams(
        temperature=1.0, seed=seed, logit_bias={int(t[1:]): bias[t] for t in bias}
    )


def towards(engine: Engine, text: str, bias: float) -> dict[str, float]:
    """Return a bias towards the first token of a text."""
    return {f"t{engine.tokenizer.encode(text)[0]}": bias}


def gather(constraint: ToolCalls, text: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the text of an answer and its calls, read a character at a time."""
    reader = CallReader(constraint.form, required=constraint.required)
    said, calls = "", []
    for one in [*(s for piece in text for s in reader.push(piece)), *reader.flush()]:
        match one:
            case Text(piece):
                said += piece
            case CallBegun(name):
                calls.append((name, ""))
            case Arguments(piece):
                calls[-1] = (calls[-1][0], calls[-1][1] + piece)
    return said, calls


def require_valid(calls: list[tuple[str, str]]) -> None:
    for name, arguments in calls:
        parsed = json.loads(arguments)
        assert isinstance(parsed, dict)
        jsonschema_rs.validate(SCHEMAS[name], parsed)


@pytest.mark.parametrize("seed", range(3))
def test_required_calls_are_all_that_is_said(engine: Engine, seed: int) -> None:
    constraint = held_to(engine, required=True, parallel=False)
    [one] = engine.complete([PROMPT], max_tokens=400, sampling=warm(seed), constraint=constraint)
    assert one.stop_reason is StopReason.EOS
    said, calls = gather(constraint, one.text)
    assert (said, len(calls)) == ("", 1)
    require_valid(calls)


@pytest.mark.parametrize("seed", range(3))
def test_several_at_once(engine: Engine, seed: int) -> None:
    constraint = held_to(engine, required=True)
    form = constraint.form
    bias = towards(engine, (form.between or "x")[len(form.closing) - 1 :], 3.0)
    [one] = engine.complete(
        [PROMPT], max_tokens=500, sampling=warm(seed, **bias), constraint=constraint
    )
    said, calls = gather(constraint, one.text)
    assert said == ""
    if form.between is None:
        assert len(calls) == 1
    if one.stop_reason is StopReason.EOS:
        require_valid(calls)
    else:
        require_valid(calls[:-1])


@pytest.mark.parametrize("seed", range(4))
def test_text_is_free_until_a_call_begins(engine: Engine, seed: int) -> None:
    """Here, where the marker is as likely as to come after some text."""
    constraint = held_to(engine, parallel=False)
    anywhere = constraint.form.marks_anywhere
    bias = towards(engine, constraint.form.marker, 12.0 if anywhere else 40.0)
    [one] = engine.complete(
        [PROMPT], max_tokens=600, sampling=warm(seed, **bias), constraint=constraint
    )
    said, calls = gather(constraint, one.text)
    assert one.stop_reason is StopReason.EOS
    assert len(calls) == 1
    assert constraint.form.marker not in said
    assert one.text.startswith(said)
    require_valid(calls)


def test_text_may_be_any_and_may_end_anywhere(engine: Engine) -> None:
    ends = list(engine.manifest.eos_token_ids)
    grammar = engine._grammars.compile(held_to(engine))
    assert grammar.allowed[ends].all()
    for token in engine.tokenizer.encode('Well, <tool [TOOL_CALL 你好 🐝 }\n{"name": "a"'):
        assert grammar.allowed[token]
        grammar.advance(token)
    assert grammar.allowed[ends].all()
    assert not grammar.is_complete


def test_wherever_it_is_cut_off_it_tells_a_beginning(engine: Engine) -> None:
    constraint = held_to(engine, required=True, parallel=False)
    [whole] = engine.complete([PROMPT], max_tokens=400, sampling=warm(2), constraint=constraint)
    _, [(name, arguments)] = gather(constraint, whole.text)
    count = whole.finished.completion_tokens
    for bound in range(1, count):
        [cut] = engine.complete([PROMPT], max_tokens=bound, sampling=warm(2), constraint=constraint)
        assert cut.stop_reason is StopReason.MAX_TOKENS
        said, calls = gather(constraint, cut.text)
        assert said == ""
        for found, beginning in calls:
            assert found == name
            # The last character may have come in part.
            assert arguments.startswith(beginning.rstrip("\ufffd"))


def test_a_stop_string_ends_a_call_as_any_text(engine: Engine) -> None:
    constraint = held_to(engine, required=True, parallel=False)
    [one] = engine.complete([PROMPT], stop=("weather",), sampling=warm(2), constraint=constraint)
    assert one.stop_reason in (StopReason.STOP_SEQUENCE, StopReason.EOS)
    assert "weather" not in one.text


def test_each_of_many_at_once(engine: Engine) -> None:
    constraint = held_to(engine, required=True, parallel=False)
    requests = [
        Request(f"{n}", PROMPT, 400, warm(n), constraint=constraint if n % 2 else None)
        for n in range(6)
    ]
    collected = [submit(engine, one) for one in requests]
    for number, one in enumerate(collected):
        text, _ = one.finished()
        if number % 2:
            require_valid(gather(constraint, text)[1])


@pytest.fixture(scope="module")
def qwen(make_tool_artifact: MakeToolArtifact) -> Iterator[Engine]:
    with Engine.load(make_tool_artifact("qwen2"), backend="cpu", slots=1) as engine:
        yield engine


FORM = FAMILIES["qwen2"].form


def parameters(schema: dict[str, Any], called: str = "tools[0].function.parameters") -> Function:
    return Function("f", schema, called)


@pytest.mark.parametrize(
    ("functions", "field", "message"),
    [
        ([], "tools", "tools must be 1 to 128 functions"),
        ([Function(f"f{n}", {}) for n in range(129)], "tools", "tools must be 1 to 128 functions"),
        ([Function("a b", {})], "tools", "tools: a function's name must match"),
        ([Function("a", {}), Function("a", {})], "tools", "tools: two functions have one name"),
        (
            [parameters({"properties": {"a": {"uniqueItems": True}}})],
            "tools[0].function.parameters",
            "tools[0].function.parameters at /properties/a: uniqueItems cannot be enforced",
        ),
        (
            [parameters({"type": "array"})],
            "tools[0].function.parameters",
            "tools[0].function.parameters: its type must be object",
        ),
        (
            [Function("a", {}), parameters({"properties": {"a": {"type": "bee"}}}, "the second")],
            "the second",
            "the second: Invalid type: bee",
        ),
        (
            [
                Function(
                    "a", {"properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "bee"}]}}}, "b"
                )
            ],
            "b",
            "b: Invalid type: bee",
        ),
        (
            [Function(f"f{n}", {"description": "x" * 60_000}) for n in range(5)],
            "tools",
            "tools: the schemas of all functions together are too large",
        ),
    ],
)
def test_what_cannot_be_called_is_refused(
    qwen: Engine, functions: list[Function], field: str, message: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        qwen.complete([PROMPT], constraint=ToolCalls(tuple(functions), FORM))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.field == field


def test_as_many_functions_as_there_may_be(qwen: Engine) -> None:
    one = {"properties": {f"p{n}": {"type": "string"} for n in range(8)}, "required": ["p0"]}
    functions = tuple(Function(f"f{n}", one) for n in range(128))
    constraint = ToolCalls(functions, FORM, required=True, parallel=False)
    [answer] = qwen.complete([PROMPT], max_tokens=40, sampling=warm(1), constraint=constraint)
    assert answer.text.startswith(FORM.opening + "f")


def test_a_schema_that_refers_into_itself(qwen: Engine) -> None:
    tree = {
        "$defs": {"leaf": {"enum": [1, 2]}},
        "properties": {"leaf": {"$ref": "#/$defs/leaf"}},
        "required": ["leaf"],
    }
    functions = (Function("plant", tree), Function("fell", tree))
    constraint = ToolCalls(functions, FORM, required=True, parallel=False)
    [answer] = qwen.complete([PROMPT], max_tokens=300, sampling=warm(1), constraint=constraint)
    [(_, arguments)] = gather(constraint, answer.text)[1]
    jsonschema_rs.validate(tree, json.loads(arguments))


@pytest.mark.parametrize("marker", ["/", "^", "]", "\\", '"', "a/b", "«"])
def test_a_marker_of_any_letters(qwen: Engine, marker: str) -> None:
    for anywhere in (True, False):
        form = CallForm(f"{marker}(", ")", None, ";", marker, marks_anywhere=anywhere)
        constraint = ToolCalls(FUNCTIONS, form)
        grammar = qwen._grammars.compile(constraint)
        text = f"{marker}(now)" + "{};"
        for token in qwen.tokenizer.encode(f"so {text}" if anywhere else text):
            assert grammar.allowed[token]
            grammar.advance(token)
        assert grammar.is_complete
