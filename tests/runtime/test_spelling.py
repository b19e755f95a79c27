"""The bytes of tokens, beside what the library of grammars itself reads from tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llguidance
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from support.makers import OpenOnce
from support.sentencepiece_models import gemma_model, trained_model
from support.texts import NASTY
from support.tiny_tokenizer import tokenizer_json
from tokenizers import decoders, models

from rbee_runtime.constraint.spelling import Unspelled
from rbee_runtime.constraint.words import Words, known_to_library
from rbee_runtime.tokenizer import Tokenizer

KINDS = ["byte-level", "llama", "gemma", "real"]


@pytest.fixture(scope="module")
def kinds(
    open_once: OpenOnce, sample_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tokenizers.Tokenizer]:
    import transformers

    def of_sentencepiece(name: str, model: bytes) -> tokenizers.Tokenizer:
        file = tmp_path_factory.mktemp(name) / "tokenizer.model"
        file.write_bytes(model)
        made: Any = getattr(transformers, name)(vocab_file=str(file))
        found: tokenizers.Tokenizer = made.backend_tokenizer
        return found

    read = tokenizers.Tokenizer.from_str
    return {
        "byte-level": read(tokenizer_json()),
        "llama": of_sentencepiece("LlamaTokenizerFast", trained_model()),
        "gemma": of_sentencepiece("GemmaTokenizerFast", gemma_model()),
        "real": read(open_once(sample_gguf).tokenizer().tokenizer_json),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_spelled_as_the_library_spells_them(
    kind: str, kinds: dict[str, tokenizers.Tokenizer]
) -> None:
    tokenizer = kinds[kind]
    theirs = llguidance.LLTokenizer(tokenizer.to_str())
    spelling = Tokenizer(tokenizer).spelling()
    assert len(spelling) == tokenizer.get_vocab_size()
    assert sum(spelled is not None for spelled in spelling) > 250
    for number, spelled in enumerate(spelling):
        if spelled is None:
            assert theirs.is_special_token(number) or not theirs.decode_bytes([number])
        else:
            assert spelled == theirs.decode_bytes([number])


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.one_of(st.sampled_from(NASTY), st.text(alphabet='ab 1\n{":é你🙂\x02</s>▁')))
@settings(max_examples=40, deadline=None)
def test_a_text_is_written_with_tokens_of_its_bytes(
    kind: str, kinds: dict[str, tokenizers.Tokenizer], text: str
) -> None:
    words = Words(Tokenizer(kinds[kind]), 1000 if kind != "real" else 49152)
    data = text.encode(errors="replace")
    for given_bytes in (data, data[:-1]):
        ids = words(given_bytes)
        assert b"".join(words.tokens[i] for i in ids) == given_bytes
        assert not set(ids) & set(words.special_token_ids)


def test_usually_with_those_that_the_tokenizer_takes(
    kinds: dict[str, tokenizers.Tokenizer],
) -> None:
    text = '{"name": "A hive", "bees": 12}'
    for kind, vocab in (("byte-level", 384), ("real", 49152)):
        words = Words(Tokenizer(kinds[kind]), vocab)
        assert words(text.encode()) == kinds[kind].encode(text, add_special_tokens=False).ids
    # One that puts a space before what it is given does so only once.
    words = Words(Tokenizer(kinds["llama"]), 520)
    whole = kinds["llama"].encode("x" + text, add_special_tokens=False).ids
    assert words(text.encode())[-8:] == whole[-8:]


def test_a_model_may_have_more_logits_than_tokens_and_fewer() -> None:
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(tokenizer_json()))
    assert known_to_library(tokenizer, 500).vocab_size == 501
    words = Words(tokenizer, 300)
    assert len(words.tokens) == 301
    assert set(words(b"once upon a time")) <= set(range(300))


def test_tokens_that_are_no_bytes() -> None:
    plain = tokenizers.Tokenizer(models.WordLevel({"bee": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(Unspelled):
        Tokenizer(plain).spelling()
    plain.decoder = decoders.WordPiece()
    with pytest.raises(Unspelled):
        Tokenizer(plain).spelling()
    plain.decoder = decoders.Metaspace("_")
    assert Tokenizer(plain).spelling() == [b"bee", b"[UNK]"]
