"""The tokenizer of a directory: what its files say, and what is said when they are damaged."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sentencepiece_models import gemma_model, trained_model
from support.texts import NASTY
from support.tiny_tokenizer import CHAT_TEMPLATE, VOCAB, save_tokenizer, tokenizer_json
from tokenizers import Tokenizer

from rbee_export.checkpoint.checkpoint import TokenizerSource
from rbee_export.checkpoint.tokenizer_directory import TOKENIZER_FILES, read_directory_tokenizer
from rbee_export.errors import CheckpointError

LLAMA = {
    "tokenizer_class": "LlamaTokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "add_bos_token": True,
    "add_eos_token": False,
    "add_prefix_space": True,
}
GEMMA = {
    "tokenizer_class": "GemmaTokenizer",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
}
TEXT = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="ab 1\n\t▁<é你🙂", max_size=40),
    st.lists(st.sampled_from(NASTY), max_size=3).map("".join),
)


def write(directory: Path, **files: Any) -> Path:
    """Write files, by name with ``__`` for a dot: bytes and texts as they are, others as JSON."""
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        file = directory / name.replace("__", ".")
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            file.write_text(text, encoding="utf-8")
    return directory


def library(source: TokenizerSource) -> Tokenizer:
    return Tokenizer.from_str(source.tokenizer_json)


def added(content: str, **flags: bool) -> dict[str, object]:
    usual = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word", "special"), False)
    return {"content": content, **usual, **flags}


# Only a SentencePiece model


def llama_directory(directory: Path, **options: Any) -> Path:
    model = trained_model()
    return write(directory, tokenizer__model=model, tokenizer_config__json={**LLAMA, **options})


@pytest.fixture(scope="module", params=["llama", "newer llama", "gemma", "added tokens"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("directory")
    if request.param == "gemma":
        return write(path, tokenizer__model=gemma_model(), tokenizer_config__json=GEMMA)
    if request.param == "newer llama":
        return llama_directory(path, legacy=False)
    if request.param == "llama":
        return llama_directory(path, legacy=True)
    named = {"0": "<unk>", "1": "<s>", "2": "</s>"}
    decoder = {
        **{index: added(content, special=True) for index, content in named.items()},
        "520": added("<|user|>", special=True, rstrip=True),
        "521": added(" == "),
        "522": added("<|end|>", special=True),
    }
    return llama_directory(path, legacy=True, added_tokens_decoder=decoder)


@pytest.fixture(scope="module")
def reference(directory: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    found: Tokenizer = AutoTokenizer.from_pretrained(directory).backend_tokenizer
    return found


@pytest.fixture(scope="module")
def ours(directory: Path) -> Tokenizer:
    return library(read_directory_tokenizer(directory, {"vocab_size": 600}))


@given(text=TEXT)
@settings(max_examples=60, deadline=None)
def test_a_sentencepiece_model_equals_transformers(
    ours: Tokenizer, reference: Tokenizer, text: str
) -> None:
    ids = ours.encode(text).ids
    assert ids == reference.encode(text).ids
    assert ours.decode(ids) == reference.decode(ids)


def test_a_sentencepiece_model_on_nasty_texts(ours: Tokenizer, reference: Tokenizer) -> None:
    for text in (*NASTY, "<|user|> \n the == the<|end|> x", "<s>the</s> the", "x" + " " * 9 + "y"):
        assert ours.encode(text).ids == reference.encode(text).ids, text


def test_a_bare_sentencepiece_model_is_enough(tmp_path: Path) -> None:
    import sentencepiece

    source = read_directory_tokenizer(write(tmp_path, tokenizer__model=trained_model()), {})
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained_model())
    assert library(source).encode("the worker").ids == [1, *pieces.encode("the worker")]
    assert (source.bos_token_id, source.eos_token_ids) == (1, (2,))
    assert source.chat_template is None


@pytest.mark.parametrize(
    ("options", "edges"),
    [
        ({}, (1, None)),
        ({"add_bos_token": False}, (None, None)),
        ({"add_eos_token": True}, (1, 2)),
        ({"bos_token": None}, (None, None)),
        ({"bos_token": added("</s>")}, (2, None)),
    ],
)
def test_edges_of_a_text(
    options: dict[str, Any], edges: tuple[int | None, int | None], tmp_path: Path
) -> None:
    source = read_directory_tokenizer(llama_directory(tmp_path, **options), {})
    assert library(source).encode("").ids == [index for index in edges if index is not None]


def test_tokens_added_without_properties(tmp_path: Path) -> None:
    directory = write(llama_directory(tmp_path), added_tokens__json={"<tool>": 521, "[PAD]": 600})
    tokenizer = library(read_directory_tokenizer(directory, {"vocab_size": 600}))
    assert 521 in tokenizer.encode("a <tool> b").ids
    assert tokenizer.decode([521]) == "<tool>"
    assert tokenizer.id_to_token(520) == "[PAD520]"
    assert tokenizer.token_to_id("[PAD]") is None  # the model has no row for it
    assert tokenizer.get_vocab_size() == 522


def test_more_tokens_than_the_model_has(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has 520 tokens, but .* vocab_size is 500"):
        read_directory_tokenizer(llama_directory(tmp_path), {"vocab_size": 500})


# A serialised tokenizer


@pytest.fixture
def fast(tmp_path: Path) -> Path:
    """``<|endoftext|>``, ``<|im_start|>`` and ``<|im_end|>`` are its first three tokens."""
    save_tokenizer(tmp_path)
    return tmp_path


def changed(**changes: Any) -> str:
    return json.dumps({**json.loads(tokenizer_json()), **changes})


def test_a_serialised_tokenizer_comes_first(fast: Path) -> None:
    write(fast, tokenizer__model=b"anything")
    source = read_directory_tokenizer(fast, {"vocab_size": VOCAB})
    original = Tokenizer.from_str(tokenizer_json())
    for text in NASTY:
        assert library(source).encode(text).ids == original.encode(text).ids
    assert source.eos_token_ids == (2, 0)
    assert source.chat_template == CHAT_TEMPLATE


def test_texts_are_left_at_their_length(fast: Path) -> None:
    shape = {"direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"}
    padding = {"strategy": {"Fixed": 2**31}, "pad_to_multiple_of": None, **shape}
    short = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    write(fast, tokenizer__json=changed(padding=padding, truncation=short))
    assert len(library(read_directory_tokenizer(fast, {})).encode("xq9!").ids) == 4


def test_configured_tokens_are_found(fast: Path) -> None:
    decoder = {
        "1": added("<|im_start|>", special=True, rstrip=True),
        "384": added("<tool>"),
        "386": added("<gap>"),
    }
    options = {"added_tokens_decoder": decoder, "pad_token": "en", "eos_token": "<none>"}
    write(fast, tokenizer_config__json=options)
    tokenizer = library(read_directory_tokenizer(fast, {"vocab_size": 400}))
    assert tokenizer.encode("<|im_start|> \n <tool>").ids == [1, 384]
    assert tokenizer.token_to_id("<gap>") is None
    assert tokenizer.token_to_id("<none>") is None
    role = tokenizer.token_to_id("en")
    assert role is not None
    assert tokenizer.decode([role]) == ""  # special, since it has a role


@pytest.mark.parametrize(
    ("name", "begins"), [("LlamaTokenizerFast", True), ("Qwen2Tokenizer", False)]
)
def test_some_classes_put_a_token_before_a_text(name: str, begins: bool, fast: Path) -> None:
    options = {"tokenizer_class": name, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    write(fast, tokenizer_config__json=options)
    source = read_directory_tokenizer(fast, {})
    assert library(source).encode("").ids == [1] * begins
    write(fast, tokenizer_config__json={**options, "add_bos_token": False, "add_eos_token": True})
    assert library(read_directory_tokenizer(fast, {})).encode("").ids == [2] * begins


def test_tokens_without_a_row_of_the_model_are_left_out(fast: Path) -> None:
    image = {"id": 384, **added("<image>", special=True)}
    tokens = [*json.loads(tokenizer_json())["added_tokens"], image]
    write(fast, tokenizer__json=changed(added_tokens=tokens))
    assert library(read_directory_tokenizer(fast, {})).encode("<image>").ids == [384]
    tokenizer = library(read_directory_tokenizer(fast, {"text_config": {"vocab_size": 384}}))
    assert max(tokenizer.encode("<image>").ids) < 384
    assert tokenizer.decode(tokenizer.encode("<image>").ids) == "<image>"
    with pytest.raises(CheckpointError, match=r"a token with id 383, but .* vocab_size is 300"):
        read_directory_tokenizer(fast, {"vocab_size": 300})


# Roles, ends, templates


@pytest.mark.parametrize(
    ("settings", "generation", "options", "expected"),
    [
        ({}, {}, {}, (None, (0,))),
        ({"bos_token_id": 1, "eos_token_id": 2}, {}, {}, (1, (2, 0))),
        ({"eos_token_id": 2}, {"eos_token_id": [5, 6]}, {}, (None, (5, 6, 2, 0))),
        ({"text_config": {"bos_token_id": 1, "eos_token_id": [7]}}, {}, {}, (1, (7, 0))),
        ({"bos_token_id": 1}, {}, {"bos_token": None}, (None, (0,))),
        ({"bos_token_id": 1}, {}, {"bos_token": "<|im_end|>"}, (2, (0,))),
        ({}, {}, {"eos_token": added("<|im_end|>")}, (None, (2, 0))),
        ({}, {}, {"chat_template": "{{ x }}<|im_end|>"}, (None, (0, 2))),
        ({}, {}, {"chat_template": "{{ x }}"}, (None, (0,))),
    ],
)
def test_which_tokens_begin_and_end_a_text(
    settings: dict[str, Any],
    generation: dict[str, Any],
    options: dict[str, Any],
    expected: tuple[int | None, tuple[int, ...]],
    tmp_path: Path,
) -> None:
    write(
        tmp_path,
        tokenizer__json=tokenizer_json(),
        generation_config__json=generation,
        tokenizer_config__json=options,
    )
    source = read_directory_tokenizer(tmp_path, settings)
    assert (source.bos_token_id, source.eos_token_ids) == expected


def test_special_tokens_map_is_second_to_the_configuration(tmp_path: Path) -> None:
    write(
        tmp_path,
        tokenizer__json=tokenizer_json(),
        special_tokens_map__json={"bos_token": "<|im_start|>", "eos_token": added("<|im_start|>")},
        tokenizer_config__json={"eos_token": "<|im_end|>"},
    )
    source = read_directory_tokenizer(tmp_path, {})
    assert (source.bos_token_id, source.eos_token_ids) == (1, (2, 0))


def test_where_a_template_is_looked_for(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "named"}]

    def found() -> str | None:
        return read_directory_tokenizer(tmp_path, {}).chat_template

    write(tmp_path, tokenizer__json=tokenizer_json())
    assert found() is None
    write(tmp_path, tokenizer_config__json={"chat_template": named})
    assert found() == "named"
    write(tmp_path, tokenizer_config__json={"chat_template": "configured"})
    assert found() == "configured"
    write(tmp_path, chat_template__json={"chat_template": "in a file"})
    assert found() == "in a file"
    write(tmp_path, chat_template__jinja="bare {{ messages }}")
    assert found() == "bare {{ messages }}"
    assert set(TOKENIZER_FILES) >= {file.name for file in tmp_path.iterdir()}


# Damage

PICKLE = pickle.dumps({"model": "os.system"})
BYTES_FALLEN = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
UNKNOWN = {"type": "BPE", "unk_token": "<no>", "vocab": {"a": 0}, "merges": []}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "none": (
        {"tokenizer__json": None},
        "tokenizer.json: missing; save the model's fast tokenizer, or its tokenizer.model",
    ),
    "a pickle": ({"tokenizer__json": PICKLE}, "tokenizer.json: not UTF-8 text"),
    "no JSON": ({"tokenizer__json": "{"}, "tokenizer.json: not a tokenizer ("),
    "other JSON": ({"tokenizer__json": {"a": 1}}, "tokenizer.json: not a tokenizer ("),
    "deep JSON": ({"tokenizer__json": "[" * 99999}, "tokenizer.json: not a tokenizer ("),
    "one that panics": (
        {"tokenizer__json": changed(normalizer=BYTES_FALLEN)},
        "tokenizer.json: not a tokenizer (Precompiled",
    ),
    "one that fails": ({"tokenizer__json": changed(model=UNKNOWN, added_tokens=[])}, "`<no>`"),
    "a model that is none": (
        {"tokenizer__json": None, "tokenizer__model": PICKLE},
        "tokenizer.model: not a SentencePiece model (",
    ),
    "options no JSON": ({"tokenizer_config__json": "{"}, "tokenizer_config.json: cannot be read"),
    "options a pickle": ({"tokenizer_config__json": PICKLE}, "tokenizer_config.json: not UTF-8"),
    "options a list": ({"tokenizer_config__json": []}, "tokenizer_config.json: not a JSON object"),
    "deep options": ({"tokenizer_config__json": "[" * 99999}, "tokenizer_config.json: cannot be"),
    "map no JSON": ({"special_tokens_map__json": "x"}, "special_tokens_map.json: cannot be read"),
    "added no JSON": ({"added_tokens__json": b"\xff"}, "added_tokens.json: not UTF-8"),
    "added without id": ({"added_tokens__json": {"a": "b"}}, "added_tokens.json: 'a' has no id"),
    "added list": (
        {"tokenizer_config__json": {"added_tokens_decoder": [1]}},
        "tokenizer_config.json: added_tokens_decoder is not an object",
    ),
    "added no token": (
        {"tokenizer_config__json": {"added_tokens_decoder": {"3": "x"}}},
        "added_tokens_decoder holds no token at '3'",
    ),
    "added no id": (
        {"tokenizer_config__json": {"added_tokens_decoder": {"9" * 5000: added("x")}}},
        "added_tokens_decoder holds no token at '99",
    ),
    "eos beyond": (
        {"generation_config__json": {"eos_token_id": 384}},
        "eos_token_id 384 is none",
    ),
    "eos among others": ({"generation_config__json": {"eos_token_id": [2, -1]}}, "_id -1 is none"),
    "eos huge": (
        {"generation_config__json": {"eos_token_id": 2**70}},
        "is none of the tokenizer's",
    ),
    "eos a name": ({"generation_config__json": {"eos_token_id": "</s>"}}, "'</s>' is none"),
    "template no jinja": (
        {"chat_template__jinja": "{% if %}"},
        "chat_template.jinja: its chat template is not a chat template: Expected an expression",
    ),
    "template a pickle": ({"chat_template__jinja": PICKLE}, "chat_template.jinja: not UTF-8 text"),
    "template file no JSON": ({"chat_template__json": "{"}, "chat_template.json: cannot be read"),
    "template file no jinja": (
        {"chat_template__json": {"chat_template": "{{"}},
        "chat_template.json: its chat template is not",
    ),
    "template in the options": (
        {"tokenizer_config__json": {"chat_template": "{% x %}"}},
        "tokenizer_config.json: its chat template is not",
    ),
    "template endless": ({"chat_template__jinja": "x" * 999_999}, "it is longer than"),
}


@pytest.mark.parametrize("name", BAD)
def test_damage_is_said_in_one_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files, message = BAD[name]
    files = {"tokenizer__json": tokenizer_json(), **files}
    write(tmp_path, **{key: content for key, content in files.items() if content is not None})
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        read_directory_tokenizer(tmp_path, {"vocab_size": VOCAB})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert str(tmp_path) in str(caught.value)
    capfd.readouterr()  # where a panic leaves its trace
