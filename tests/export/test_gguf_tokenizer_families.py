"""What single families do to a text, out of GGUF metadata as llama.cpp's converter writes them."""

from __future__ import annotations

import functools
import itertools
import time
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from gguf import TokenType
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sentencepiece_models import gemma_model, trained_model
from support.texts import NASTY
from tokenizers import Tokenizer

from rbee_export.checkpoint.gguf_tokenizer import read_tokenizer
from rbee_export.errors import CheckpointError

SPACED = (
    *NASTY,
    *(f"x{' ' * n}y{' ' * n}" for n in range(1, 20)),
    "\n\n\nx\n\n",
    "<h1>a</h1> <h1>",
)
TEXT = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="ab 1\n\t▁<é你🙂", max_size=40),
    st.lists(st.sampled_from(SPACED), max_size=3).map("".join),
)


def fields_of(
    model: bytes, added: dict[int, tuple[str, bool]] | None = None, **more: object
) -> dict[str, object]:
    """The metadata of a SentencePiece model, with tokens of its configuration over it.

    Args:
        added: Content of tokens, by id, and whether each is special.
    """
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokens, types, scores = [], [], []
    for index in range(pieces.get_piece_size()):
        tokens.append(pieces.id_to_piece(index))
        scores.append(pieces.get_score(index))
        kind = TokenType.NORMAL
        if pieces.is_unknown(index):
            kind = TokenType.UNKNOWN
        elif pieces.is_control(index):
            kind = TokenType.CONTROL
        elif pieces.is_byte(index):
            kind = TokenType.BYTE
        types.append(int(kind))
    for index, (content, special) in (added or {}).items():
        while len(tokens) <= index:
            tokens.append(f"[PAD{len(tokens)}]")
            types.append(int(TokenType.UNUSED))
            scores.append(-10000.0)
        tokens[index] = content if special else content.replace("▁", " ")
        types[index] = int(TokenType.CONTROL if special else TokenType.USER_DEFINED)
        scores[index] = -1000.0
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": pieces.bos_id(),
        "tokenizer.ggml.eos_token_id": pieces.eos_id(),
        "tokenizer.ggml.unknown_token_id": pieces.unk_id(),
        **more,
    }


def library(fields: dict[str, object]) -> Tokenizer:
    return Tokenizer.from_str(read_tokenizer(fields).tokenizer_json)


def transformers_tokenizer(name: str, model: bytes, directory: Path, **options: Any) -> Tokenizer:
    import transformers

    file = directory / "tokenizer.model"
    file.write_bytes(model)
    made = getattr(transformers, name)(vocab_file=str(file), **options)
    found: Tokenizer = made.backend_tokenizer
    return found


# Gemma


@functools.cache
def gemma() -> Tokenizer:
    # Of the user-defined pieces, the converter finds what they are in the configuration only.
    runs = {index: ("▁" * (index - 4), False) for index in range(6, 12)}
    turns = {4: ("<start_of_turn>", True), 5: ("<end_of_turn>", True)}
    added = {**turns, **runs, 12: ("<h1>", False)}
    return library(fields_of(gemma_model(), added, **{"tokenizer.ggml.add_space_prefix": False}))


@pytest.fixture(scope="module")
def gemma_reference(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("gemma")
    return transformers_tokenizer("GemmaTokenizerFast", gemma_model(), directory)


@given(text=TEXT)
@settings(max_examples=150, deadline=None)
def test_gemma_equals_transformers(gemma_reference: Tokenizer, text: str) -> None:
    ids = gemma().encode(text).ids
    assert ids == gemma_reference.encode(text).ids
    assert gemma().decode(ids) == gemma_reference.decode(ids)


def test_gemma_on_nasty_texts(gemma_reference: Tokenizer) -> None:
    for text in SPACED:
        assert gemma().encode(text).ids == gemma_reference.encode(text).ids, text


def test_gemma_joins_spaces_to_the_tokens_for_them() -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_proto=gemma_model())
    for count in range(8):
        text = f"a{' ' * count}b"
        assert gemma().encode(text, add_special_tokens=False).ids == pieces.encode(text)
        assert gemma().decode(gemma().encode(text).ids) == text


# Phi-3


def phi(architecture: str) -> Tokenizer:
    names = ("<|endoftext|>", "<|assistant|>", "<|user|>", "<|end|>")
    added = {520 + i: (name, True) for i, name in enumerate(names)}
    fields = fields_of(trained_model(), added, **{"tokenizer.ggml.add_bos_token": False})
    return library({**fields, "general.architecture": architecture})


def test_in_phi_3_the_marks_of_turns_swallow_what_follows_them() -> None:
    chat = "<|user|>\n the<|end|>\n<|assistant|>"
    word = phi("phi3").encode("the").ids
    assert phi("phi3").encode(chat).ids == [522, *word, 523, 521]
    assert phi("phi3").encode("<|endoftext|> x").ids[1:3] == phi("llama").encode(" x").ids[:2]
    assert len(phi("llama").encode(chat).ids) > len(phi("phi3").encode(chat).ids)


# Mistral


def mistral(*, is_mark_special: bool) -> Tokenizer:
    added = {3: ("[INST]", True), 4: ("[/INST]", True)} if is_mark_special else {}
    model = trained_model(control_symbols="[INST],[/INST]")
    return library(fields_of(model, added))


def test_mistral_puts_a_space_only_before_the_whole_text(tmp_path: Path) -> None:
    model = trained_model(control_symbols="[INST],[/INST]")
    reference = transformers_tokenizer(
        "LlamaTokenizerFast", model, tmp_path, legacy=False, add_prefix_space=True
    )
    ours = mistral(is_mark_special=True)
    for text in (
        *SPACED,
        "[INST] the[/INST] a</s>",
        "[INST]the [INST] the",
        "<s>[INST] the[/INST]",
    ):
        assert ours.encode(text).ids == reference.encode(text).ids, text
        ids = ours.encode(text).ids
        assert ours.decode(ids) == reference.decode(ids)


def test_other_models_put_a_space_after_each_special_token(tmp_path: Path) -> None:
    reference = transformers_tokenizer(
        "LlamaTokenizerFast", trained_model(), tmp_path, legacy=True, add_prefix_space=True
    )
    ours = library(fields_of(trained_model()))
    for text in (*SPACED, "<s>the</s>the</s> the"):
        assert ours.encode(text).ids == reference.encode(text).ids, text


# T5


def t5_fields(model: bytes, charsmap: bytes) -> dict[str, object]:
    fields = fields_of(model)
    del fields["tokenizer.ggml.bos_token_id"]
    return {
        **fields,
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
        # The converter writes them as signed bytes.
        "tokenizer.ggml.precompiled_charsmap": [b - 256 if b > 127 else b for b in charsmap],
    }


def charsmap_of(model: bytes) -> bytes:
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    found: bytes = proto.normalizer_spec.precompiled_charsmap
    return found


@functools.cache
def unigram_model() -> bytes:
    return trained_model(
        model_type="unigram",
        vocab_size=420,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
        remove_extra_whitespaces=True,
        allow_whitespace_only_pieces=False,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_id=0,
    )


def test_unigram_equals_sentencepiece() -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_proto=unigram_model())
    ours = library(t5_fields(unigram_model(), charsmap_of(unigram_model())))
    # Two things differ by design of the library: what it takes for one character, and which of two
    # equal sums it prefers.
    for text in (text for text in SPACED if "\r\n" not in text and "==" not in text):
        if any(mark in text for mark in ("<unk>", "</s>", "\x00", "▁")):
            continue
        ids = ours.encode(text).ids
        assert ids == [*pieces.encode(text), 1], text
        assert ours.decode(ids) == pieces.decode(ids[:-1]), text
    assert ours.encode("ﬁ  Ⅳ ").ids == ours.encode("fi IV").ids


def test_the_name_of_a_byte_is_no_byte() -> None:
    ours = library(t5_fields(unigram_model(), b""))
    assert ours.decode(ours.encode("x <0x41> y").ids) == "x <0x41> y"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rules: rules[:100], "cut short"),
        (lambda rules: b"\x00", "cut short"),
        (lambda rules: b"\xff\xff\xff\xff" + rules[4:], "cut short"),
        (
            lambda rules: b"\x04\x00\x00\x00" + b"\xff\xff\xff\x7f" + b"abc\x00",
            "outside their trie",
        ),
        (lambda rules: rules[:-60], "outside their text"),
        (lambda rules: rules[:-1] + b"\xff", "not UTF-8"),
        (lambda rules: [300], "list of bytes"),
        (lambda rules: ["a"], "list of int"),
    ],
)
def test_damaged_normalisation_rules(change: Any, message: str) -> None:
    rules = change(charsmap_of(unigram_model()))
    fields = t5_fields(unigram_model(), b"")
    fields["tokenizer.ggml.precompiled_charsmap"] = list(rules)
    with pytest.raises(CheckpointError, match=message):
        read_tokenizer(fields)


@given(flips=st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 255)), max_size=8))
@settings(max_examples=60, deadline=None)
def test_rules_that_pass_can_be_used(flips: list[tuple[int, int]]) -> None:
    rules = bytearray(charsmap_of(unigram_model()))
    for place, mask in flips:
        rules[place % len(rules)] ^= mask
    try:
        tokenizer = library(t5_fields(unigram_model(), bytes(rules)))
    except CheckpointError:
        return
    for text in NASTY:
        tokenizer.encode(text)  # or the library panics


# Templates


def test_a_template_that_is_none_is_refused() -> None:
    fields = fields_of(trained_model(), **{"tokenizer.chat_template": "{% for m in %}"})
    message = r"tokenizer.chat_template is not a chat template: Expected .* \(line 1\)"
    with pytest.raises(CheckpointError, match=message):
        read_tokenizer(fields)


# Size


def test_a_vocabulary_of_gemmas_size_takes_seconds() -> None:
    letters = "abcdefghij"
    pairs, triples = (["".join(p) for p in itertools.product(letters, repeat=n)] for n in (2, 3))
    words = ["".join(pair) for pair in itertools.product(triples[:512], repeat=2)]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *bytes_, "▁", *letters, *pairs, *triples, *words][:262_144]
    fields = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(i) for i in range(len(tokens))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)],
    }
    started = time.process_time()
    source = read_tokenizer(fields)
    taken = time.process_time() - started
    assert taken < 8, f"{taken:.1f} s"  # two, on a machine with nothing else to do
    assert len(source.tokenizer_json) > 5_000_000
