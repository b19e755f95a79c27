"""What a model thinks before it answers: how it is marked, and told from the answer."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.collecting import submit
from support.makers import MakeToolArtifact
from support.thinkers import thinking_tokenizer
from support.tiny_tokenizer import CHAT_TEMPLATE
from support.tool_families import FAMILIES, VOCAB, open_family

from rbee_runtime.constraint import AfterReasoning, Function, JsonSchema, ToolCalls
from rbee_runtime.constraint.grammar import Grammars
from rbee_runtime.constraint.reasoning_grammar import marking
from rbee_runtime.engine import Engine
from rbee_runtime.incremental_decoder import IncrementalDecoder
from rbee_runtime.reasoning import Reasoning, ReasoningForm, ReasoningReader, Stage
from rbee_runtime.request import Request, SamplingParams
from rbee_runtime.tokenizer import Tokenizer
from rbee_runtime.tools import Arguments, CallBegun, CallReader, Text
from rbee_runtime.tools.in_words import MannerInWords

ASKED: Any = [{"role": "user", "content": "Why? <think>"}]
THINK = ("<think>", "</think>")
CHANNELS = (
    "<|channel|>analysis<|message|>",
    "<|end|><|start|>assistant<|channel|>final<|message|>",
)
DIRECT = "<|channel|>final<|message|>"
NAMES_OF_CHANNELS = ("<|start|>", "<|end|>", "<|channel|>", "<|message|>")


@pytest.mark.parametrize(
    ("name", "markers", "variables", "stage"),
    [
        ("qwen3", THINK, {}, Stage.AHEAD),
        ("qwen3", THINK, {"enable_thinking": False}, Stage.OVER),
        ("r1", THINK, {}, Stage.BEGUN),
        ("r1 without tokens", THINK, {}, Stage.BEGUN),
        ("special", THINK, {}, Stage.AHEAD),
        ("effort", ("[THINK]", "[/THINK]"), {}, Stage.AHEAD),
    ],
)
def test_how_it_is_marked(
    name: str, markers: tuple[str, str], variables: dict[str, Any], stage: Stage
) -> None:
    tokenizer = thinking_tokenizer(name)
    form = tokenizer.reasoning_form
    assert form is not None
    specials = tokenizer.specials
    assert form == ReasoningForm(*markers, frozenset(specials[m] for m in markers if m in specials))
    prompt = tokenizer.render_chat(ASKED, variables=variables)
    assert form.after(prompt) == Reasoning(*markers, stage)


def test_messages_in_channels() -> None:
    tokenizer = thinking_tokenizer("channels")
    shown = frozenset(tokenizer.specials[name] for name in NAMES_OF_CHANNELS)
    assert tokenizer.reasoning_form == ReasoningForm(*CHANNELS, shown, DIRECT)
    after = tokenizer.reasoning_form.after(tokenizer.render_chat(ASKED))
    assert after == Reasoning(*CHANNELS, Stage.AHEAD, DIRECT)
    assert tokenizer.reasoning_form.after(f"<|start|>assistant{DIRECT}").stage is Stage.OVER
    assert isinstance(tokenizer.call_manner, MannerInWords)


@pytest.mark.parametrize(
    ("text", "reasoning", "answer", "is_over"),
    [
        (f"{CHANNELS[0]}Hm.{CHANNELS[1]}Yes <|end|>", "Hm.", "Yes <|end|>", True),
        (f"{DIRECT}Yes", "", "Yes", True),
        ("Yes", "", "Yes", True),
        (f"{CHANNELS[0]}Hm.<|end|><|start|>", "Hm.<|end|><|start|>", "", False),
        ("<|channel|>commentary", "", "<|channel|>commentary", True),
        ("<|channel|>", "", "<|channel|>", True),
    ],
)
def test_reasoning_and_answer_in_channels(
    text: str, reasoning: str, answer: str, is_over: bool
) -> None:
    require_parts(Reasoning(*CHANNELS, Stage.AHEAD, DIRECT), text, reasoning, answer, is_over)


def test_one_that_only_the_template_knows() -> None:
    """Whatever it is called, as long as it is a tag and its end."""
    template = thinking_tokenizer("effort").chat_template or ""
    tokenizer = open_family(FAMILIES["qwen2"])
    tokenizer.chat_template = template.replace("[THINK]", "<muse:1>\n").replace(
        "[/THINK]", "\n</muse:1> "
    )
    assert tokenizer.reasoning_form == ReasoningForm("<muse:1>", "</muse:1>")


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"qwen3"}))
def test_models_that_know_of_none(name: str) -> None:
    assert open_family(FAMILIES[name]).reasoning_form is None


@pytest.mark.parametrize("template", [None, CHAT_TEMPLATE, "{{ raise_exception('no') }}", "{{"])
def test_templates_that_know_of_none(template: str | None) -> None:
    tokenizer = open_family(FAMILIES["llama"])
    tokenizer.chat_template = template
    assert tokenizer.reasoning_form is None
    assert tokenizer.template_variables <= {"messages", "add_generation_prompt", "raise_exception"}


def test_what_a_template_reads() -> None:
    assert "enable_thinking" in thinking_tokenizer("qwen3").template_variables
    assert "reasoning_effort" in thinking_tokenizer("effort").template_variables
    assert "reasoning_effort" not in thinking_tokenizer("r1").template_variables


@pytest.mark.parametrize(
    ("stage", "text", "reasoning", "answer", "is_over"),
    [
        (Stage.AHEAD, "<think>\nHm.\n</think>\n\nYes.\n", "Hm.", "Yes.\n", True),
        (Stage.AHEAD, "\n<think>Hm.</think>Yes", "Hm.", "Yes", True),
        (Stage.AHEAD, "<think>\n\n</think>\n\nYes", "", "Yes", True),
        (Stage.AHEAD, " Yes <think>no</think>", "", " Yes <think>no</think>", True),
        (Stage.AHEAD, "Yes</think>", "", "Yes</think>", True),
        (Stage.AHEAD, "<thi", "", "<thi", True),
        (Stage.AHEAD, " \n", "", " \n", True),
        (Stage.AHEAD, "<think>\nHm. </thi", "Hm. </thi", "", False),
        (Stage.AHEAD, "<think>", "", "", False),
        (Stage.BEGUN, "Hm.\n</think>\n\nYes </think>", "Hm.", "Yes </think>", True),
        (Stage.BEGUN, "\n<think>\nHm.</think>Yes", "Hm.", "Yes", True),
        (Stage.BEGUN, "Hm. <think>", "Hm. <think>", "", False),
        (Stage.BEGUN, "</think>\n", "", "", True),
        (Stage.BEGUN, " Hm.\n ", "Hm.", "", False),
        (Stage.BEGUN, "<thi", "<thi", "", False),
        (Stage.OVER, "\n<think>Hm.</think>Yes", "", "\n<think>Hm.</think>Yes", True),
    ],
)
def test_reasoning_and_answer(
    stage: Stage, text: str, reasoning: str, answer: str, is_over: bool
) -> None:
    require_parts(Reasoning(*THINK, stage), text, reasoning, answer, is_over)


def require_parts(told_by: Reasoning, text: str, reasoning: str, answer: str, over: bool) -> None:
    for size in (1, 3, len(text)):
        reader = ReasoningReader(told_by)
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        told = [*map(reader.push, pieces), reader.flush()]
        assert "".join(thought for thought, _ in told) == reasoning
        assert "".join(said for _, said in told) == answer
        assert reader.is_over == over


def parted(text: str, stage: Stage) -> tuple[str, str]:
    """Return reasoning and answer of a whole text."""
    begun = re.match(r"\s*<think>", text)
    if stage is Stage.OVER or (stage is Stage.AHEAD and not begun):
        return "", text
    before, _, after = text[begun.end() if begun else 0 :].partition("</think>")
    return before.strip(), after.lstrip()


def may_go_on_as_marker(text: str) -> bool:
    return any(text.endswith(marker[:n]) for marker in THINK for n in range(1, len(marker)))


WORDS = st.lists(st.sampled_from(["<think>", "</think>", "<", "</th", "k>", " ", "\n", "a", "é"]))


@given(WORDS, st.sampled_from(Stage), st.randoms(use_true_random=False))
@example(["<think>", " ", "a", " ", "</th", "</think>", "\n", "a"], Stage.AHEAD, random.Random(1))
def test_it_makes_no_difference_where_pieces_end(
    words: list[str], stage: Stage, draw: random.Random
) -> None:
    """And what can be no part of a marker is told at once."""
    text = "".join(words)
    reader = ReasoningReader(Reasoning(*THINK, stage))
    thought, answer, at = "", "", 0
    while at < len(text):
        start, at = at, draw.randint(at + 1, len(text))
        more = reader.push(text[start:at])
        thought, answer = thought + more[0], answer + more[1]
        if not text[at - 1].isspace() and not may_go_on_as_marker(text[:at]):
            assert (thought, answer) == parted(text[:at], stage)
    rest = reader.flush()
    assert (thought + rest[0], answer + rest[1]) == parted(text, stage)


SCHEMA: dict[str, Any] = {"enum": [1, "a", None, "</think>"]}
FUNCTION = Function("now", {"properties": {"at": SCHEMA}, "additionalProperties": False})
END = 0


TOLD_BY = {
    "ahead": Reasoning(*THINK, Stage.AHEAD),
    "begun": Reasoning(*THINK, Stage.BEGUN),
    "channels": Reasoning(*CHANNELS, Stage.AHEAD, DIRECT),
}


@pytest.mark.parametrize(
    ("told", "specials"),
    [
        *((told, specials) for told in ("ahead", "begun") for specials in ((), THINK)),
        ("channels", NAMES_OF_CHANNELS),
    ],
)
@pytest.mark.parametrize("name", ["qwen3", "llama", "mistral"])
def test_all_that_may_be_said_is_read(name: str, told: str, specials: tuple[str, ...]) -> None:
    """Whatever a model does, what it is held to comes after the reasoning, and not before."""
    tokenizer = open_family(FAMILIES[name])
    if specials:
        tokenizer._tokenizer.add_special_tokens([*specials])
        tokenizer = Tokenizer(tokenizer._tokenizer, tokenizer.chat_template, 1, 2)
    grammars = Grammars(tokenizer, VOCAB, [END])
    reasoning, form = TOLD_BY[told], FAMILIES[name].form
    calls = ToolCalls((FUNCTION,), form)
    thought = called = 0
    for seed in range(9):
        answer = (JsonSchema(SCHEMA), calls, ToolCalls((FUNCTION,), form, required=True))[seed % 3]
        text = walk(grammars, tokenizer, AfterReasoning(reasoning, answer), random.Random(seed))
        reader = ReasoningReader(reasoning)
        (before, said), (rest, held) = reader.push(text), reader.flush()
        thought += bool(before + rest)
        if isinstance(answer, JsonSchema):
            assert reader.is_over
            jsonschema_rs.validate(SCHEMA, json.loads(said + held))
        else:
            called += require_calls(answer, said + held)
    assert thought
    assert called


def require_calls(held_to: ToolCalls, text: str) -> int:
    """Let an answer pass that is as it must be, and return how many calls it has."""
    reader = CallReader(held_to.form, required=held_to.required)
    arguments: list[str] = []
    for said in [*reader.push(text), *reader.flush()]:
        match said:
            case CallBegun():
                arguments.append("")
            case Arguments(piece):
                arguments[-1] += piece
            case Text(piece):
                assert not held_to.required
                assert held_to.form.marker not in piece or not held_to.form.marks_anywhere
    assert not reader.is_within_call
    for one in arguments:
        jsonschema_rs.validate(dict(FUNCTION.parameters), json.loads(one))
    assert arguments or not held_to.required
    return len(arguments)


def walk(
    grammars: Grammars, tokenizer: Tokenizer, constraint: AfterReasoning, draw: random.Random
) -> str:
    """Draw any tokens that may come, and often those of a marker, to the end; return the text."""
    grammar = grammars.compile(constraint)
    specials = tokenizer.specials
    reasoning = constraint.reasoning
    decoder = IncrementalDecoder(tokenizer, grammar.shown | marking(reasoning, specials))
    markers = [reasoning.opening, *[reasoning.closing] * 2, reasoning.direct or reasoning.opening]
    if isinstance(constraint.answer, ToolCalls):
        markers.append(constraint.answer.form.marker)
    text, following = "", list[int]()
    for number in range(3000):
        if not following and draw.random() < 0.15:
            [*_, following] = tokenizer.encode_within(draw.choice(markers))
        token = int(draw.choice(np.flatnonzero(grammar.allowed)))
        if following and grammar.allowed[following[0]]:
            token = following.pop(0)
        elif grammar.allowed[END] and number > 20:
            break
        else:
            following = []
        if token == END:
            break
        text += decoder.push(token)
        grammar.advance(token)
        if grammar.is_complete:
            break
    else:
        raise AssertionError("it does not end")
    return text + decoder.flush()


def test_special_tokens_that_are_shown(make_tool_artifact: MakeToolArtifact) -> None:
    with Engine.load(make_tool_artifact("mistral"), backend="cpu", slots=1) as engine:
        marker = engine.tokenizer.specials["[INST]"]
        forced = SamplingParams(temperature=0.0, logit_bias={marker: 100.0})
        for shown, text in ((frozenset[int](), ""), (frozenset({marker}), "[INST]" * 3)):
            request = Request("r", "Once", 3, forced, shown=shown)
            assert submit(engine, request).finished()[0] == text
