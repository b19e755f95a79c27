"""Any schema that is let in is kept to, and the worst of them harm nobody."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbee_runtime.constraint import Function, JsonSchema, ToolCalls
from rbee_runtime.engine import Engine
from rbee_runtime.errors import InvalidRequest
from rbee_runtime.events import StopReason
from rbee_runtime.request import SamplingParams
from rbee_runtime.tools import Arguments, CallBegun, CallReader
from rbee_runtime.tools.in_words import FORM

PROMPT = "Once upon a time"

_REFUSED = "Unsatisfiable|no text fulfils it|a whole number (cannot|beyond)|several multipleOf"
"""What these schemas may be refused for."""


@pytest.fixture(scope="module")
def engine(tiny_artifact: Path) -> Iterator[Engine]:
    with Engine.load(tiny_artifact, backend="cpu", slots=4) as engine:
        yield engine


def test_the_deepest_schema_has_stack_enough(engine: Engine) -> None:
    """Where a thread's usual stack ends after twice as many, and the process with it."""
    named = {f"d{n}": {"items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(490)}
    named = {name: {"type": "array"} | rest for name, rest in named.items()}
    schema = {"$ref": "#/$defs/d0", "$defs": named | {"d490": {"type": "string"}}}
    [one] = engine.complete([PROMPT], max_tokens=9, constraint=JsonSchema(schema))
    assert one.text.startswith("[")


names = st.text(alphabet='abcäß🐝 "\\/{}', min_size=1, max_size=4)
scalars = st.one_of(
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
        st.integers(0, 2),
        st.integers(0, 3),
    ),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-200, 200),
        st.integers(0, 50),
    ),
    st.builds(lambda n: {"type": "integer", "multipleOf": n, "maximum": 99}, st.integers(1, 9)),
    st.builds(
        lambda low, more: {"type": "number", "exclusiveMinimum": low, "maximum": low + more},
        st.integers(-20, 20),
        st.sampled_from([0.5, 1, 2.25]),
    ),
    st.sampled_from(["date", "uuid", "ipv4"]).map(lambda kind: {"type": "string", "format": kind}),
    st.sampled_from(["^[ab]{1,3}$", "^x", "y$", "^(é|🐝)?z$", r"^\d\d$"]).map(
        lambda pattern: {"type": "string", "pattern": pattern, "maxLength": 6}
    ),
    st.lists(st.one_of(names, st.integers(), st.booleans(), st.none()), min_size=1).map(
        lambda values: {"enum": values}
    ),
    st.sampled_from([{"type": ["null", "boolean"]}, {"const": {"a": [1, "ü", None]}}]),
)
nested = st.recursive(
    st.one_of(scalars, st.just({"$ref": "#/$defs/shared"})),
    lambda inner: st.one_of(
        st.builds(
            lambda members, needed, open_: {
                "type": "object",
                "properties": members,
                "required": sorted(members)[:needed],
                "additionalProperties": open_,
            },
            st.dictionaries(names, inner, max_size=3),
            st.integers(0, 3),
            st.just(False),
        ),
        st.builds(
            lambda items, low, more: {
                "type": "array",
                "items": items,
                "minItems": low,
                "maxItems": low + more,
            },
            inner,
            st.integers(0, 2),
            st.integers(0, 2),
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some}),
        st.lists(inner, min_size=1, max_size=2).map(
            lambda some: {"type": "array", "prefixItems": some, "items": False}
        ),
        inner.map(lambda one: {"allOf": [one]}),
    ),
    max_leaves=5,
)
schemas = st.builds(lambda one, shared: one | {"$defs": {"shared": shared}}, nested, scalars)


@given(schema=schemas, seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_comes_out_is_what_was_asked_for(
    engine: Engine, schema: dict[str, Any], seed: int
) -> None:
    """Of any schema that is not refused, from a model that says anything."""
    try:
        [one] = engine.complete(
            [PROMPT],
            max_tokens=900,
            sampling=SamplingParams(seed=seed),
            constraint=JsonSchema(schema),
        )
    except InvalidRequest as refused:
        if not re.search(_REFUSED, str(refused)):
            raise
        return
    if one.stop_reason is StopReason.EOS:
        validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
        value = json.loads(one.text)
        assert validator.is_valid(value), (value, schema)
    else:
        assert one.stop_reason is StopReason.MAX_TOKENS


parameters = st.builds(
    lambda one, shared: {
        "properties": {"x": one},
        "required": ["x"],
        "additionalProperties": False,
        "$defs": {"shared": shared},
    },
    nested,
    scalars,
)


@given(some=st.lists(parameters, min_size=1, max_size=3), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_arguments_are_what_was_asked_for(
    engine: Engine, some: list[dict[str, Any]], seed: int
) -> None:
    functions = tuple(Function(f"f{n}", schema, f"f{n}") for n, schema in enumerate(some))
    constraint = ToolCalls(functions, FORM, required=True)
    try:
        [one] = engine.complete(
            [PROMPT],
            max_tokens=900,
            sampling=SamplingParams(seed=seed),
            constraint=constraint,
        )
    except InvalidRequest as refused:
        named = refused.field in {function.called for function in functions}
        if not named or not re.search(_REFUSED, str(refused)):
            raise
        return
    [begun, *said] = CallReader(FORM, required=True).push(one.text)
    assert isinstance(begun, CallBegun)
    if one.stop_reason is StopReason.EOS:
        arguments = "".join(part.text for part in said if isinstance(part, Arguments))
        schema = some[int(begun.name[1:])]
        validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
        assert validator.is_valid(json.loads(arguments)), (arguments, schema)
    else:
        assert one.stop_reason is StopReason.MAX_TOKENS
