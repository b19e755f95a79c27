"""SentencePiece model files, read without SentencePiece, and what is no such file."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from support.sentencepiece_models import gemma_model, trained_model

from rbee_export.checkpoint.tokenizer_model_file import read_model_file
from rbee_export.errors import CheckpointError, UnsupportedModel


def proto_of(model: bytes) -> Any:
    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model)
    return proto


def written(model: bytes, directory: Path) -> Path:
    file = directory / "tokenizer.model"
    file.write_bytes(model)
    return file


@pytest.mark.parametrize(
    "model",
    [
        trained_model(),
        gemma_model(),
        trained_model(
            model_type="unigram",
            vocab_size=420,
            hard_vocab_limit=False,
            normalization_rule_name="nmt_nfkc",
            remove_extra_whitespaces=True,
            bos_id=-1,
        ),
    ],
    ids=["llama", "gemma", "unigram"],
)
def test_a_model_is_read_as_protobuf_reads_it(model: bytes, tmp_path: Path) -> None:
    proto = proto_of(model)
    found = read_model_file(written(model, tmp_path))
    assert found.vocabulary.tokens == tuple(piece.piece for piece in proto.pieces)
    assert found.vocabulary.scores == tuple(piece.score for piece in proto.pieces)
    assert [int(type_) for type_ in found.vocabulary.types] == [p.type for p in proto.pieces]
    assert found.is_unigram == (proto.trainer_spec.model_type == 1)
    assert found.adds_space == proto.normalizer_spec.add_dummy_prefix
    assert found.removes_spaces == proto.normalizer_spec.remove_extra_whitespaces
    assert found.charsmap == proto.normalizer_spec.precompiled_charsmap
    bos = proto.trainer_spec.bos_id
    assert found.bos == (bos if bos >= 0 else None)
    assert found.eos == proto.trainer_spec.eos_id


def test_fields_that_are_left_out_have_their_defaults(tmp_path: Path) -> None:
    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.pieces.add(piece="a")
    found = read_model_file(written(proto.SerializeToString(), tmp_path))
    assert found.vocabulary.tokens == ("a",)
    assert found.vocabulary.scores == (0.0,)
    assert found.is_unigram
    assert found.adds_space
    assert found.removes_spaces
    assert (found.bos, found.eos, found.charsmap) == (None, None, b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the vocabulary is empty"),
        (pickle.dumps({"vocab": ["a"]}), "not a SentencePiece model"),
        (b"PK\x03\x04" + bytes(99), "not a SentencePiece model"),
        (b"IQ== 0\nIg== 1\nIw== 2\n", "not a SentencePiece model"),  # tiktoken's
        (b'{"model": {}}', "not a SentencePiece model"),
        (b"\x0a\xff\xff\xff\xff\x0f", "cut short"),
        (b"\x0a" + b"\xff" * 20, "cut short"),
        (b"\x0a\x02\x0a\xff", "cut short"),
        (b"\x0b", "wire type 3"),
        (b"\x08\x01", "a number where it should have bytes"),
        (b"\x0a\x03\x0a\x01\xff", "not a SentencePiece model"),  # no UTF-8
        (b"\x0a\x03\x0a\x01a" * 2, "tokens 0 and 1 are both 'a'"),
        (b"\x0a\x00", "token 0 is empty"),
        (b"\x0a\x05\x0a\x01a\x18\x63", "a piece has type 99"),
        (b"\x0a\x06\x0a\x01a\x12\x01\x00", "not a SentencePiece model"),  # a score of one byte
    ],
)
def test_what_is_no_model_is_said_in_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    file = written(content, tmp_path)
    with pytest.raises(CheckpointError) as caught:
        read_model_file(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model_type", [3, 4])
def test_models_of_other_kinds(model_type: int, tmp_path: Path) -> None:
    proto = proto_of(trained_model())
    proto.trainer_spec.model_type = model_type
    with pytest.raises(UnsupportedModel, match="words or characters"):
        read_model_file(written(proto.SerializeToString(), tmp_path))


def test_spaces_after_words(tmp_path: Path) -> None:
    proto = proto_of(trained_model())
    proto.trainer_spec.treat_whitespace_as_suffix = True
    with pytest.raises(UnsupportedModel, match="spaces after words"):
        read_model_file(written(proto.SerializeToString(), tmp_path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_model_file(tmp_path / "tokenizer.model")


@given(
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=6),
    end=st.integers(0, 10**6),
)
@settings(max_examples=200, deadline=None)
def test_damage_is_found_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], end: int
) -> None:
    content = bytearray(trained_model())
    for place, mask in flips:
        content[place % len(content)] ^= mask
    file = written(bytes(content[: end % (2 * len(content))]), tmp_path_factory.getbasetemp())
    with contextlib.suppress(CheckpointError, UnsupportedModel):
        read_model_file(file)
