"""Guesses that run along: completions are the same, in fewer steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from support.collecting import submit
from support.makers import MakeArtifact, MakeFamily
from support.native import needs_kernels
from support.stand_in_backend import StandInBackend, saying
from support.two_tokenizers import byte_level

from rbee_runtime.artifact import Artifact
from rbee_runtime.constraint import JsonSchema
from rbee_runtime.engine import Engine
from rbee_runtime.errors import InvalidRequest, InvalidSetting, OutOfMemory
from rbee_runtime.events import Finished, Piece, StopReason
from rbee_runtime.request import GREEDY, Request, SamplingParams
from rbee_runtime.speculation import Speculation
from rbee_runtime.step import MOST_DRAFTED, Step

RANDOM = np.random.default_rng(7)
PROMPT = [10, 11, 12]
LETTERS = [byte_level().encode(letter)[0] for letter in "abcde"]
SCHEMA = JsonSchema(
    {
        "type": "object",
        "properties": {
            "publication": {"type": "integer", "minimum": 0, "maximum": 9},
            "translation": {"type": "boolean"},
        },
        "required": ["publication", "translation"],
        "additionalProperties": False,
    }
)


@pytest.fixture(autouse=True)
def steady_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guess by what comes true alone, not by how long a step took just then."""
    monkeypatch.setattr(Speculation, "took", lambda *_: None)


def some_ids(count: int) -> list[int]:
    """Return a prompt that runs as one chunk in any company: in others, sums differ."""
    ids: list[int] = RANDOM.integers(3, 384, count).tolist()
    return ids


REQUESTS = [
    Request("greedy", some_ids(5), 90, GREEDY),
    Request("other", some_ids(8), 70, GREEDY),
    Request("told", some_ids(7), 60, SamplingParams(temperature=0.0, logprobs=3)),
    Request("cold", some_ids(3), 80, SamplingParams(seed=1, temperature=0.05)),
    Request("nucleus", some_ids(6), 60, SamplingParams(seed=2, top_p=0.3)),
    Request("warm", some_ids(8), 50, SamplingParams(seed=3)),
    Request(
        "penalised",
        some_ids(4),
        60,
        SamplingParams(seed=4, temperature=0.2, repetition_penalty=1.05, frequency_penalty=0.1),
    ),
    Request("held", some_ids(5), 60, GREEDY, constraint=SCHEMA),
    Request("one", some_ids(2), 1, GREEDY),
    Request("two", some_ids(2), 2, GREEDY),
]


def told(engine: Engine, request: Request) -> tuple[str, list[Any], Finished]:
    """Return the text of a completion, its log probabilities, and its end."""
    return read(submit(engine, request).all())


def read(events: list[Any]) -> tuple[str, list[Any], Finished]:
    pieces = [event for event in events if isinstance(event, Piece)]
    end = events[-1]
    assert isinstance(end, Finished), end
    return "".join(p.text for p in pieces), [one for p in pieces for one in p.logprobs], end


@needs_kernels
@pytest.mark.parametrize(
    "family",
    ["llama", "mistral", "gemma2", "gemma3", "phi3-longrope", "qwen3", "phi", "qwen2-moe"],
)
def test_guesses_change_nothing(
    family: str, make_family: MakeFamily, make_artifact: MakeArtifact
) -> None:
    """Alone and in company, whatever a request asks for: the same bits, so the same tokens."""
    artifact = make_artifact(make_family(family), "int8")
    with Engine.load(artifact, slots=1, context_length=128, draft_tokens=0) as engine:
        plain = {one.request_id: told(engine, one) for one in REQUESTS}
    assert not any(end.drafted_tokens for *_, end in plain.values())
    with Engine.load(artifact, slots=4, context_length=128) as engine:
        alone = {one.request_id: told(engine, one) for one in REQUESTS}
        together = {one.request_id: submit(engine, one) for one in REQUESTS}
        met = {name: read(collector.all()) for name, collector in together.items()}
    for where, found in (("alone", alone), ("together", met)):
        for name, (text, logprobs, end) in plain.items():
            assert found[name][0] == text, (where, name)
            assert found[name][1] == logprobs, name
            assert found[name][2].completion_tokens == end.completion_tokens
            assert found[name][2].reason == end.reason
        ends = [end for *_, end in found.values()]
        assert sum(end.accepted_tokens for end in ends) > 10
        assert all(0 <= end.accepted_tokens <= end.drafted_tokens for end in ends)


@needs_kernels
def test_what_a_schema_leaves_no_choice_of_is_not_waited_for(tiny_artifact: Path) -> None:
    request = Request("held", PROMPT, 80, GREEDY, constraint=SCHEMA)
    with Engine.load(tiny_artifact, slots=1) as engine:
        text, _, end = told(engine, request)
    assert '"publication"' in text
    assert end.accepted_tokens > end.completion_tokens / 3


@needs_kernels
@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(seed=5)], ids=["greedy", "warm"])
def test_a_completion_that_was_predicted(tiny_artifact: Path, sampling: SamplingParams) -> None:
    """It comes in fewer steps where it was, and is the same whatever was predicted."""
    asked = Request("a", some_ids(6), 80, sampling)
    with Engine.load(tiny_artifact, slots=1) as engine:
        text, _, end = told(engine, asked)
        found = {
            prediction: told(engine, replace(asked, prediction=prediction))
            for prediction in (text, text[:40], "something else altogether", " ")
        }
        with pytest.raises(InvalidRequest, match="prediction has an unpaired surrogate"):
            submit(engine, replace(asked, prediction="a\ud800"))
    assert {one for one, *_ in found.values()} == {text}
    assert found[text][2].accepted_tokens > end.accepted_tokens
    with Engine.load(tiny_artifact, slots=1, draft_tokens=0) as engine:
        assert told(engine, replace(asked, prediction=text))[0] == text


@needs_kernels
def test_sequences_that_fill_their_slot(tiny_artifact: Path) -> None:
    """To the last position, in which no guess has room."""
    requests = [Request(f"{size}", [5, 6, 7] * 3, size, GREEDY) for size in (50, 54, 55)]
    with Engine.load(tiny_artifact, slots=2, context_length=64, draft_tokens=0) as engine:
        plain = [told(engine, one)[0] for one in requests]
    with Engine.load(tiny_artifact, slots=2, context_length=64) as engine:
        found = [told(engine, one) for one in requests]
    assert [text for text, *_ in found] == plain
    assert all(end.accepted_tokens for *_, end in found)


@needs_kernels
def test_artifacts_whose_rows_have_no_slots(tiny_artifact: Path, tmp_path: Path) -> None:
    """They are of format version 4, are read as they were, and run without guesses."""
    older = tmp_path / "older"
    shutil.copytree(tiny_artifact, older)
    manifest = json.loads((older / "artifact.json").read_text())
    manifest["format_version"] = 4
    [entry] = [file for file in manifest["files"] if file["role"] == "half_cache_graph"]
    graph = older / entry["path"]
    model = ir.load(graph)
    for node in model.graph:
        if node.op_type == "GroupQueryAttention":
            node.resize_inputs(10)
    del model.graph.inputs[[value.name for value in model.graph.inputs].index("slots")]
    ir.save(model, graph)
    entry["size"], entry["sha256"] = graph.stat().st_size, sha256(graph.read_bytes()).hexdigest()
    (older / "artifact.json").write_text(json.dumps(manifest))
    found = []
    for path in (older, tiny_artifact):
        with Engine.load(path, slots=2) as engine:
            found.append(told(engine, Request("a", [5, 6, 7] * 3, 60, GREEDY)))
    assert found[0][0] == found[1][0]
    assert found[0][2].drafted_tokens == 0 < found[1][2].drafted_tokens


@contextmanager
def stand_in(
    artifact: Path, completion: list[int], draft_tokens: int = MOST_DRAFTED, **options: Any
) -> Iterator[tuple[Engine, StandInBackend]]:
    """An engine whose every completion repeats the same tokens."""
    backend = StandInBackend(saying(completion, PROMPT), most_drafted=MOST_DRAFTED, **options)
    opened = Artifact.open(artifact)
    with Engine(opened, byte_level(), backend, draft_tokens=draft_tokens) as engine:
        yield engine, backend


@pytest.mark.parametrize("tokens", range(1, 40))
def test_the_completion_is_as_long_as_asked(tiny_artifact: Path, tokens: int) -> None:
    with stand_in(tiny_artifact, LETTERS) as (engine, backend):
        text, _, end = told(engine, Request("a", PROMPT, tokens, GREEDY))
    assert text == ("abcde" * 8)[:tokens]
    assert (end.completion_tokens, end.reason) == (tokens, StopReason.MAX_TOKENS)
    # The last token is drawn, and not run.
    assert max(row.end for step in backend.steps for row in step.rows) <= 3 + tokens - 1
    if tokens > 20:
        assert len(backend.steps) < tokens


@pytest.mark.parametrize("stop", ["d", "ea", "bcdea"])
def test_a_stop_string_within_what_was_guessed(tiny_artifact: Path, stop: str) -> None:
    """It cannot be guessed before it has come once: here it never ends the first time."""
    prompt = [*PROMPT, *LETTERS * 3]
    with stand_in(tiny_artifact, LETTERS) as (engine, _):
        text, _, end = told(engine, Request("a", prompt, 30, GREEDY, (stop,)))
    assert end.reason is StopReason.STOP_SEQUENCE
    assert text == ("abcde" * 4)[: ("abcde" * 4).index(stop)]


def test_each_token_is_told_by_itself(tiny_artifact: Path) -> None:
    prompt = [*PROMPT, *LETTERS * 3]
    with stand_in(tiny_artifact, LETTERS) as (engine, backend):
        events = submit(engine, Request("a", prompt, 15, GREEDY)).all()
    pieces = [event for event in events if isinstance(event, Piece)]
    assert [piece.text for piece in pieces] == list("abcde" * 3)
    assert [piece.tokens for piece in pieces] == list(range(1, 16))
    assert len(backend.steps) < 8


def test_a_step_that_fails_is_tried_without_guesses(tiny_artifact: Path) -> None:
    failed: list[Step] = []

    def fail(step: Step) -> None:
        if step.guesses:
            failed.append(step)
            raise OutOfMemory("no room for so many")

    prompt = [*PROMPT, *LETTERS * 3]
    with stand_in(tiny_artifact, LETTERS, before=fail) as (engine, _):
        text, _, end = told(engine, Request("a", prompt, 15, GREEDY))
    assert failed
    assert text == "abcde" * 3
    assert end.accepted_tokens == 0


def test_a_prediction_of_tokens_that_the_model_does_not_have(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stand_in(tiny_artifact, LETTERS) as (engine, backend):
        predicted = [*LETTERS[:2], 9999, *LETTERS]
        monkeypatch.setattr(engine.tokenizer, "encode", lambda *_: predicted)
        request = Request("a", PROMPT, 15, GREEDY, prediction="something")
        text, _, end = told(engine, request)
    assert text == "abcde" * 3
    assert end.accepted_tokens > 0
    assert all(token < 384 for step in backend.steps for row in step.rows for token in row.tokens)


@pytest.mark.parametrize("most", [0, 1, 3, MOST_DRAFTED])
def test_no_more_guesses_than_allowed(tiny_artifact: Path, most: int) -> None:
    prompt = [*PROMPT, *LETTERS * 3]
    with stand_in(tiny_artifact, LETTERS, most) as (engine, backend):
        text, *_ = told(engine, Request("a", prompt, 100, GREEDY))
    assert text == "abcde" * 20
    assert max(step.guesses for step in backend.steps) == most


@pytest.mark.parametrize("most", [-1, MOST_DRAFTED + 1])
def test_a_number_that_makes_no_sense(tiny_artifact: Path, most: int) -> None:
    with pytest.raises(InvalidSetting, match="draft_tokens must be from 0 to 16"):
        Engine.load(tiny_artifact, draft_tokens=most)
