"""Whatever a model may say that is held to calls is read as calls, by every kind of tokenizer."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
import tokenizers
from support.tool_families import FAMILIES, VOCAB, tokenizer_of
from support.two_tokenizers import byte_fallback

from rbee_runtime.constraint import Function, ToolCalls
from rbee_runtime.constraint.grammar import Grammars
from rbee_runtime.incremental_decoder import IncrementalDecoder
from rbee_runtime.tokenizer import Tokenizer
from rbee_runtime.tools import Arguments, CallBegun, CallReader, Said, Text

SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": {
        "properties": {"city": {"type": "string", "maxLength": 4}, "at": {"enum": [1, "}", None]}},
        "required": ["at"],
        "additionalProperties": False,
    },
    "weather_2": {"properties": {}, "additionalProperties": False},
}
FUNCTIONS = tuple(Function(name, schema) for name, schema in SCHEMAS.items())
END = 0


def bytes_with(name: str) -> Tokenizer:
    return Tokenizer(tokenizer_of(FAMILIES[name]))


def words_with(name: str) -> Tokenizer:
    """Return a tokenizer of words, which strips the space that its texts begin with."""
    words = tokenizers.Tokenizer.from_str(byte_fallback()._tokenizer.to_str())
    words.add_special_tokens(list(FAMILIES[name].specials))
    words.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in FAMILIES[name].plain])
    return Tokenizer(words, bos_token_id=1)


@pytest.mark.parametrize("make", [bytes_with, words_with])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("required", [False, True])
def test_all_that_may_be_said_is_read(
    make: Callable[[str], Tokenizer], name: str, required: bool
) -> None:
    tokenizer = make(name)
    grammars = Grammars(tokenizer, VOCAB, [END])
    constraint = ToolCalls(FUNCTIONS, FAMILIES[name].form, required=required)
    called = 0
    for seed in range(6):
        text, calls, reader = walk(grammars, tokenizer, constraint, random.Random(seed))
        assert not reader.is_within_call
        if constraint.form.marks_anywhere:
            assert constraint.form.marker not in text
        for function, arguments in calls:
            jsonschema_rs.validate(SCHEMAS[function], json.loads(arguments))
        if required:
            assert calls
            assert text == ""
        called += len(calls)
    assert called


def walk(
    grammars: Grammars, tokenizer: Tokenizer, constraint: ToolCalls, draw: random.Random
) -> tuple[str, list[tuple[str, str]], CallReader]:
    """Draw any tokens that may come, and often those of a marker, to the end; and read them."""
    grammar = grammars.compile(constraint)
    decoder = IncrementalDecoder(tokenizer, grammar.shown)
    reader = CallReader(constraint.form, required=constraint.required)
    [*_, marker] = tokenizer.encode_within(constraint.form.marker)
    said: list[Said] = []
    following: list[int] = []
    for number in range(3000):
        if not following and draw.random() < 0.2:
            following = [*marker]
        token = int(draw.choice(np.flatnonzero(grammar.allowed)))
        if following and grammar.allowed[following[0]]:
            token = following.pop(0)
        elif grammar.allowed[END] and number > 20:
            token = END
        else:
            following = []
        if token == END:
            break
        said += reader.push(decoder.push(token))
        grammar.advance(token)
        if grammar.is_complete:
            break
    else:
        raise AssertionError("it does not end")
    said += [*reader.push(decoder.flush()), *reader.flush()]
    calls: list[tuple[str, str]] = []
    for one in said:
        match one:
            case CallBegun(name):
                calls.append((name, ""))
            case Arguments(piece):
                calls[-1] = (calls[-1][0], calls[-1][1] + piece)
    return "".join(one.text for one in said if isinstance(one, Text)), calls, reader
