"""Which tokens may come where a completion may call functions."""

from __future__ import annotations

from dataclasses import replace

import tokenizers
from support.makers import MakeToolArtifact
from support.tiny_tokenizer import tokenizer_json
from support.tool_families import FAMILIES
from support.two_tokenizers import byte_level

from rbee_runtime.constraint import Function, ToolCalls
from rbee_runtime.constraint.grammar import Grammars
from rbee_runtime.engine import Engine
from rbee_runtime.tokenizer import Tokenizer

FUNCTIONS = (Function("weather", {}), Function("now", {}))


def held_to(engine: Engine) -> ToolCalls:
    return ToolCalls(FUNCTIONS, engine.tokenizer.call_manner.form)


def test_a_marker_is_one_in_letters_too(make_tool_artifact: MakeToolArtifact) -> None:
    """As its special token and its name in letters are the same in the text that is told."""
    with Engine.load(make_tool_artifact("mistral"), backend="cpu", slots=1) as engine:
        constraint = held_to(engine)
        grammar = engine._grammars.compile(constraint)
        letters = [engine.tokenizer.encode(c)[0] for c in "[TOOL_CALLS] "]
        for token in letters:
            assert grammar.allowed[token]
            grammar.advance(token)
        assert grammar.allowed.sum() <= 2
        assert "[TOOL_CALLS]" in engine.tokenizer.specials


def test_in_text_any_special_token_may_come(make_tool_artifact: MakeToolArtifact) -> None:
    with Engine.load(make_tool_artifact("mistral"), backend="cpu", slots=1) as engine:
        specials = engine.tokenizer.specials
        grammar = engine._grammars.compile(held_to(engine))
        assert grammar.allowed[list(specials.values())].all()
        grammar.advance(specials["[INST]"])
        grammar.advance(engine.tokenizer.encode("a")[0])
        assert grammar.allowed[list(specials.values())].all()
        bare = replace(held_to(engine), form=FAMILIES["llama"].form)
        grammar = engine._grammars.compile(bare)
        # Text that is not told must not stand before what is a call only at the beginning.
        assert not grammar.allowed[specials["[INST]"]]
        assert grammar.allowed[list(engine.manifest.eos_token_ids)].all()


def test_special_tokens_that_the_model_has_no_logits_for() -> None:
    library = tokenizers.Tokenizer.from_str(tokenizer_json())
    vocab = library.get_vocab_size()
    library.add_special_tokens(["<pad>", "[TOOL_CALLS]"])
    tokenizer = Tokenizer(library)
    constraint = ToolCalls(FUNCTIONS, FAMILIES["mistral"].form)
    grammar = Grammars(tokenizer, vocab, [1]).compile(constraint)
    for letter in "[TOOL_CALLS] [":
        [token] = tokenizer.encode(letter)
        assert grammar.allowed[token]
        grammar.advance(token)
    assert grammar.allowed.sum() <= 2


def test_no_text_looks_like_a_call_once_its_first_space_is_left_out() -> None:
    """As decoders of Llama 2's kind do: where calls have no marker, it would be read as one."""
    tokenizer = byte_level()
    end, *others = tokenizer.specials.values()
    space, brace, letter = (tokenizer.encode(c)[0] for c in " {a")
    grammars = Grammars(tokenizer, 384, [end])
    constraint = ToolCalls(FUNCTIONS, FAMILIES["llama"].form)
    for text in ([letter, brace], [brace], [space, letter, brace], [space, space, brace]):
        grammar = grammars.compile(constraint)
        for token in text:
            assert grammar.allowed[token]
            grammar.advance(token)
    grammar = grammars.compile(constraint)
    grammar.advance(space)
    assert grammar.allowed[end]
    # What is not told, as a special token, is nothing between them.
    assert not grammar.allowed[[brace, *others]].any()
