"""Completions that are held to a schema or a regular expression, as a caller sees them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.collecting import submit

from rbee_runtime.constraint import Constraint, JsonSchema, Regex
from rbee_runtime.constraint.grammar import Grammar
from rbee_runtime.engine import Engine
from rbee_runtime.errors import InferenceFailed, InvalidRequest
from rbee_runtime.events import StopReason
from rbee_runtime.request import GREEDY, Request, SamplingParams

PROMPT = "Once upon a time"
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["bee", "queen 👑"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine(tiny_artifact: Path) -> Iterator[Engine]:
    with Engine.load(tiny_artifact, backend="cpu", slots=4) as engine:
        yield engine


def warm(seed: int, **others: Any) -> SamplingParams:
    return SamplingParams(temperature=1.0, seed=seed, **others)


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        warm(1),
        warm(2, top_k=5),
        warm(3, repetition_penalty=1.5, frequency_penalty=0.5),
        warm(4, logit_bias={70: 100.0, 0: 100.0, 2: 100.0}),
        warm(5, top_p=0.0),
    ],
)
def test_whatever_is_drawn_fulfils_it(engine: Engine, sampling: SamplingParams) -> None:
    [one] = engine.complete(
        [PROMPT], max_tokens=400, sampling=sampling, constraint=JsonSchema(PERSON)
    )
    assert one.stop_reason is StopReason.EOS
    jsonschema_rs.validate(PERSON, json.loads(one.text))


@pytest.mark.parametrize(
    ("pattern", "possible"),
    [
        ("(yes|no)!{3}", {"yes!!!", "no!!!"}),
        ("🐝{2}", {"🐝🐝"}),
        ("(?i)ok", {"ok", "OK", "Ok", "oK"}),
    ],
)
def test_a_regex(engine: Engine, pattern: str, possible: set[str]) -> None:
    for seed in range(3):
        [one] = engine.complete([PROMPT], sampling=warm(seed), constraint=Regex(pattern))
        assert one.stop_reason is StopReason.EOS
        assert one.text in possible


def test_it_may_end_where_it_may_end(engine: Engine) -> None:
    """Of ``a*`` any beginning is whole: only the end of the text, or a bound, ends it."""
    ends = engine.manifest.eos_token_ids
    always = warm(1, logit_bias=dict.fromkeys(ends, 100.0))
    [ended] = engine.complete([PROMPT], sampling=always, constraint=Regex("a*"))
    never = warm(1, logit_bias=dict.fromkeys(ends, -100.0))
    [bounded] = engine.complete([PROMPT], max_tokens=9, sampling=never, constraint=Regex("a*"))
    assert (ended.text, ended.stop_reason) == ("", StopReason.EOS)
    assert (len(set(bounded.text)), bounded.stop_reason) == (1, StopReason.MAX_TOKENS)


def test_a_bound_or_a_stop_string_cuts_it(engine: Engine) -> None:
    schema = JsonSchema({"const": "one two three"})
    [cut] = engine.complete([PROMPT], max_tokens=3, constraint=schema)
    assert cut.stop_reason is StopReason.MAX_TOKENS
    assert '"one two three"'.startswith(cut.text)
    [stopped] = engine.complete([PROMPT], stop=("two",), constraint=schema)
    assert (stopped.text, stopped.stop_reason) == ('"one ', StopReason.STOP_SEQUENCE)


def test_the_last_token_may_complete_it(engine: Engine) -> None:
    [free] = engine.complete([PROMPT], constraint=Regex("abc"))
    count = free.finished.completion_tokens
    [bounded] = engine.complete([PROMPT], max_tokens=count, constraint=Regex("abc"))
    assert (bounded.text, bounded.stop_reason) == ("abc", StopReason.EOS)


def test_each_of_many_has_its_own(engine: Engine) -> None:
    """Also beside those that are held to nothing, and more of them than there are slots."""
    asked: list[tuple[str, Constraint | None]] = [
        ("schema", JsonSchema(PERSON)),
        ("free", None),
        ("yes", Regex("yes")),
        ("other", JsonSchema({"type": "array", "items": {"enum": [1, 2]}, "maxItems": 3})),
    ]
    alone = {
        name: submit(engine, request(f"{name}-alone", held_to)).finished()[0]
        for name, held_to in asked
    }
    together = [
        (name, submit(engine, request(f"{name}-{n}", held_to)))
        for n in range(3)
        for name, held_to in asked
    ]
    for name, collected in together:
        assert collected.finished()[0] == alone[name]
    jsonschema_rs.validate(PERSON, json.loads(alone["schema"]))
    assert alone["yes"] == "yes"


def request(name: str, constraint: Constraint | None) -> Request:
    return Request(name, PROMPT, 200, warm(11), constraint=constraint)


async def test_from_a_coroutine_and_in_pieces(engine: Engine) -> None:
    held_to = Regex("(ab){9}")
    assert "".join(engine.generate(PROMPT, constraint=held_to)) == "ab" * 9
    pieces = [piece async for piece in engine.agenerate(PROMPT, constraint=held_to)]
    assert "".join(pieces) == "ab" * 9


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (JsonSchema({"type": "bee"}), "json_schema: Invalid type: bee"),
        (JsonSchema({"enum": []}), "json_schema: Unsatisfiable schema: anyOf is empty"),
        (JsonSchema({"anyOf": [{"$ref": "#"}]}), "json_schema: no text fulfils it"),
        (JsonSchema({"$ref": "#/$defs/gone"}), "json_schema: Pointer '/$defs/gone' does not exist"),
        (JsonSchema({"pattern": "(?=SECRET)"}), "json_schema: in a pattern, look-around"),
        (JsonSchema({"oneOf": [{"type": "number"}, {"type": "integer"}]}), "ask for anyOf"),
        (Regex("(SECRET", called="pattern"), "pattern: in a pattern, unclosed group"),
        (Regex("(a{100}){51}"), "regex has more than 5000 characters"),
    ],
)
def test_what_cannot_be_enforced_is_refused(
    engine: Engine, constraint: Constraint, message: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        engine.complete([PROMPT], constraint=constraint)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "SECRET" not in str(refused.value)
    assert refused.value.field == constraint.called


def test_one_that_breaks_off_fails_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, as it takes too long to follow; what the library gives up on ends the same way."""
    other = submit(engine, Request("other", PROMPT, 64, GREEDY))
    with monkeypatch.context() as patch:
        patch.setattr("rbee_runtime.constraint.grammar._PER_TOKEN", -1.0)
        with pytest.raises(InferenceFailed, match="takes too long to follow"):
            engine.complete([PROMPT], constraint=JsonSchema(PERSON))
    assert other.finished()[1].reason is StopReason.MAX_TOKENS
    # Fifty objects that begin alike are too many to be told apart.
    alike = [
        {"type": "object", "properties": {"key": {"type": "string"}, f"{n}": {"type": "integer"}}}
        for n in range(50)
    ]
    many = JsonSchema({"type": "array", "items": {"anyOf": alike}, "minItems": 1})
    with pytest.raises(InferenceFailed, match="cannot be followed any further: Parser Error"):
        engine.complete([PROMPT], max_tokens=900, sampling=warm(1), constraint=many)
    assert engine.complete([PROMPT], constraint=Regex("ok"))[0].text == "ok"


def test_a_prompt_that_is_known_is_reused(engine: Engine) -> None:
    prompt = list(range(3, 103))
    first = submit(engine, Request("1", prompt, 60, GREEDY, constraint=Regex("x{40}"))).finished()
    again = submit(engine, Request("2", prompt, 60, GREEDY, constraint=Regex("x{40}"))).finished()
    assert first[0] == again[0] == "x" * 40
    assert again[1].reused_tokens >= 64


def test_nothing_is_built_before_one_is_asked_for(tiny_artifact: Path) -> None:
    program = (
        "import sys\n"
        "from rbee_runtime import Engine, Regex\n"
        f"with Engine.load({str(tiny_artifact)!r}, backend='cpu', slots=1) as engine:\n"
        "    engine.complete(['Hi'], max_tokens=4)\n"
        "    assert 'llguidance' not in sys.modules\n"
        "    engine.complete(['Hi'], constraint=Regex('x'))\n"
        "    assert 'llguidance' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_where_the_library_is_not_installed(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with Engine.load(tiny_artifact, backend="cpu", slots=1) as engine:
        with pytest.raises(InvalidRequest, match="the package llguidance is not installed"):
            engine.complete([PROMPT], constraint=Regex("x"))
        assert engine.complete([PROMPT], max_tokens=3)[0].finished.completion_tokens == 3


def grammar(engine: Engine, constraint: Constraint) -> Grammar:
    """Return what the engine holds a completion to, to look at its masks."""
    return engine._grammars.compile(constraint)


def test_a_mask_has_an_entry_for_every_logit(engine: Engine) -> None:
    held_to = grammar(engine, Regex("a+"))
    vocab = engine.manifest.shapes.vocab
    assert held_to.allowed.shape == (vocab,)
    [letter] = engine.tokenizer.encode("a")
    assert held_to.allowed[letter]
    assert not held_to.allowed[list(engine.manifest.eos_token_ids)].any()
    held_to.advance(letter)
    assert held_to.allowed[list(engine.manifest.eos_token_ids)].all()


def test_a_mask_that_stays_is_the_same_array(engine: Engine) -> None:
    """Which is how a device knows that it has it already."""
    held_to = grammar(engine, Regex("a*"))
    first = held_to.allowed
    [letter] = engine.tokenizer.encode("a")
    held_to.advance(letter)
    assert held_to.allowed is first
    other = grammar(engine, Regex("ab"))
    before = other.allowed
    ids = np.flatnonzero(before)
    other.advance(int(ids[0]))
    assert other.allowed is not before
    assert before[ids].all()


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
            [PROMPT], max_tokens=900, sampling=warm(seed), constraint=JsonSchema(schema)
        )
    except InvalidRequest as refused:
        if not re.search("Unsatisfiable|no text fulfils it|a whole number cannot be", str(refused)):
            raise
        return
    if one.stop_reason is StopReason.EOS:
        validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
        value = json.loads(one.text)
        assert validator.is_valid(value), (value, schema)
    else:
        assert one.stop_reason is StopReason.MAX_TOKENS
