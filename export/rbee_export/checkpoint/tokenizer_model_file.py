"""A SentencePiece model file (``tokenizer.model``): a small protocol buffer, read without protobuf.

The fields are those of ``sentencepiece_model.proto``; all others are passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf import TokenType

from rbee_export.checkpoint.own_file import LARGEST_TOKENIZER, require_own
from rbee_export.checkpoint.tokenizer_vocabulary import Vocabulary
from rbee_export.errors import CheckpointError, UnsupportedModel

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # of the model
_TEXT, _SCORE, _TYPE = 1, 2, 3  # of a piece
_MODEL_TYPE, _SPACE_AS_SUFFIX, _BOS_ID, _EOS_ID = 3, 24, 41, 42  # of the trainer
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_SPACES = 2, 3, 4  # of the normalizer
_UNIGRAM, _BPE = 1, 2

# SentencePiece numbers the kinds of tokens as GGUF does.
_TYPES = {int(type_): type_ for type_ in TokenType}


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """What a SentencePiece model file says.

    Attributes:
        vocabulary: Its pieces, with scores.
        is_unigram: Whether a text is cut to the highest sum of scores, not merged by rank.
        bos, eos: Tokens for the beginning and the end of a text, where it has them.
        adds_space: Whether a space is put before a text.
        removes_spaces: Whether several spaces become one, and those at either end none.
        charsmap: Compiled normalisation rules, empty for none.
    """

    vocabulary: Vocabulary
    is_unigram: bool
    bos: int | None
    eos: int | None
    adds_space: bool
    removes_spaces: bool
    charsmap: bytes


def read_model_file(path: Path) -> SentencePieceModel:
    """Read a SentencePiece model.

    Raises:
        CheckpointError: The file cannot be read, or holds no such model.
        UnsupportedModel: The model is of a kind other than unigram and byte pair encoding.
    """
    try:
        require_own(path, LARGEST_TOKENIZER)
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        return _read_model(content)
    except (ValueError, struct.error, CheckpointError) as error:
        raise CheckpointError(
            f"{path}: not a SentencePiece model ({error}); save the model's tokenizer.json instead"
        ) from error
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{path}: {error}") from error


def _read_model(content: bytes) -> SentencePieceModel:
    texts: list[str] = []
    types: list[TokenType] = []
    scores: list[float] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(content):
        if number == _PIECES:
            piece = dict(_fields(_bytes(value)))
            texts.append(_bytes(piece.get(_TEXT, b"")).decode())
            scores.append(struct.unpack("<f", _bytes(piece.get(_SCORE, bytes(4))))[0])
            types.append(_type(piece.get(_TYPE, int(TokenType.NORMAL))))
        elif number == _TRAINER:
            trainer.update(_fields(_bytes(value)))
        elif number == _NORMALIZER:
            normalizer.update(_fields(_bytes(value)))
    vocabulary = Vocabulary(tuple(texts), tuple(types), tuple(scores))
    model_type = trainer.get(_MODEL_TYPE, _UNIGRAM)
    if model_type not in (_UNIGRAM, _BPE):
        raise UnsupportedModel("a SentencePiece model of words or characters is not supported")
    if trainer.get(_SPACE_AS_SUFFIX):
        raise UnsupportedModel("a SentencePiece model with spaces after words is not supported")
    return SentencePieceModel(
        vocabulary,
        is_unigram=model_type == _UNIGRAM,
        bos=_control_id(trainer.get(_BOS_ID, 1), vocabulary),
        eos=_control_id(trainer.get(_EOS_ID, 2), vocabulary),
        adds_space=bool(normalizer.get(_DUMMY_PREFIX, True)),
        removes_spaces=bool(normalizer.get(_REMOVE_SPACES, True)),
        charsmap=_bytes(normalizer.get(_CHARSMAP, b"")),
    )


def _control_id(value: int | bytes, vocabulary: Vocabulary) -> int | None:
    # There are models that say nothing and have other tokens there, and some that say -1.
    if isinstance(value, bytes) or not value < len(vocabulary.types):
        return None
    return value if vocabulary.types[value] is TokenType.CONTROL else None


def _type(value: int | bytes) -> TokenType:
    if isinstance(value, bytes) or value not in _TYPES:
        raise ValueError(f"a piece has type {value!r}")
    return _TYPES[value]


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a field has a number where it should have bytes")
    return value


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a message; fixed-size values as their bytes.

    Raises:
        ValueError: This is no message.
    """
    at, end = 0, len(content)
    while at < end:
        tag, at = _varint(content, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(content, at)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, at = _varint(content, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"it has a field of wire type {wire}")
        if size > end - at:
            raise ValueError("it is cut short")
        yield tag >> 3, content[at : at + size]
        at += size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(content) or shift > 63:
            raise ValueError("it is cut short")
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
