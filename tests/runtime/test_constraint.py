"""Completions that are held to a schema or a regular expression, as a caller sees them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
import tokenizers
from support.collecting import submit
from support.two_tokenizers import byte_level
from tokenizers import decoders, models

from rbee_runtime.constraint import Constraint, JsonSchema, Regex
from rbee_runtime.constraint.grammar import Grammar, Grammars
from rbee_runtime.engine import Engine
from rbee_runtime.errors import InferenceFailed, InvalidRequest, OutOfMemory, QueueFull
from rbee_runtime.events import StopReason
from rbee_runtime.request import GREEDY, Request, SamplingParams
from rbee_runtime.tokenizer import Tokenizer

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


def test_as_many_properties_may_be_left_out_as_may_be_asked_for(engine: Engine) -> None:
    """Any of them may come next, which is more than the library looks at if they are many more."""
    names = [f"p{n}" for n in range(900)]
    all_optional = {"type": "object", "properties": {key: {} for key in names[:100]}}
    halves = [names[:50], names[50:100]]
    either = [{"type": "object", "properties": {key: {} for key in half}} for half in halves]
    required = {"properties": {key: {} for key in names}, "required": names[::101]}
    for schema in (all_optional, {"anyOf": either}, {"type": "object"} | required):
        [one] = engine.complete([PROMPT], max_tokens=30, constraint=JsonSchema(schema))
        assert one.text.startswith("{")


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


def test_a_model_without_an_end_of_text() -> None:
    tokenizer = byte_level()
    held_to = Grammars(tokenizer, 384, []).compile(Regex("ab?"))
    [first] = tokenizer.encode("a")
    held_to.advance(first)
    assert not held_to.is_complete
    held_to.advance(tokenizer.encode("b")[0])
    assert held_to.is_complete


def test_a_model_without_a_token_for_it() -> None:
    only = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    only.decoder = decoders.ByteLevel()
    grammars = Grammars(Tokenizer(only), 2, [])
    with pytest.raises(InvalidRequest, match="regex: no text fulfils it"):
        grammars.compile(Regex("c"))
    held_to = grammars.compile(Regex("ac|b"))
    with pytest.raises(InferenceFailed, match="cannot be followed any further: no text"):
        held_to.advance(0)
    words = tokenizers.Tokenizer(models.WordLevel({"bee": 0}, unk_token="bee"))
    with pytest.raises(InvalidRequest, match="regex is not served with this model"):
        Grammars(Tokenizer(words), 1, []).compile(Regex("bee"))


def test_without_memory_for_a_stack(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", refuse)
        with pytest.raises(OutOfMemory, match="can't start new thread"):
            engine._grammars.compile(Regex("x"))
    assert engine.complete([PROMPT], constraint=Regex("x"))[0].text == "x"


def test_one_that_waits_too_long_for_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rbee_runtime.constraint.grammar._PATIENCE", 0.01)
    with engine._grammars._turn, pytest.raises(QueueFull, match="too many constraints"):
        engine.complete([PROMPT], constraint=Regex("x"))
