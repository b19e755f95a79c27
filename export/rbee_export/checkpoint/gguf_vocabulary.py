"""The pieces a GGUF file's tokenizer is made of, read from its metadata and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from gguf import TokenType

from rbee_export.checkpoint.tokenizer_vocabulary import SPACE, Merges, Vocabulary
from rbee_export.errors import CheckpointError, shown

PREFIX = "tokenizer.ggml."

_T = TypeVar("_T")
_TYPES = {int(type_): type_ for type_ in TokenType}


def read_string(fields: Mapping[str, object], name: str) -> str | None:
    """Return a string of the tokenizer's metadata, ``None`` where the key is absent or empty.

    Raises:
        CheckpointError: The value is not a string.
    """
    value = fields.get(PREFIX + name)
    if value is None or isinstance(value, str):
        return value or None
    raise CheckpointError(f"{PREFIX}{name} must be a string, not {value!r}")


def read_flag(fields: Mapping[str, object], name: str) -> bool | None:
    """Return a truth value of the tokenizer's metadata, ``None`` where the key is absent.

    Raises:
        CheckpointError: The value is not a truth value.
    """
    value = fields.get(PREFIX + name)
    if value is None or isinstance(value, bool):
        return value
    raise CheckpointError(f"{PREFIX}{name} must be true or false, not {value!r}")


def read_bytes(fields: Mapping[str, object], name: str) -> bytes:
    """Return an array of bytes of the tokenizer's metadata, empty where the key is absent.

    Raises:
        CheckpointError: The value is nothing of the kind.
    """
    values = _read_list(fields, name, int) or []
    try:
        return bytes(value & 0xFF if -128 <= value < 0 else value for value in values)
    except ValueError as error:
        raise CheckpointError(f"{PREFIX}{name} must be a list of bytes") from error


def read_vocabulary(fields: Mapping[str, object], *, spaces_marked: bool) -> Vocabulary:
    """Read tokens, their types and scores; a file without types holds normal tokens only.

    Args:
        fields: Metadata of the file.
        spaces_marked: Whether tokens have ``▁`` for a space. llama.cpp's converter undoes this in
            user-defined tokens; it is done again here in those made of spaces only, which the
            models' own tokenizers look for after spaces have been marked.

    Raises:
        CheckpointError: No tokens, two of the same text, or types that do not fit the tokens.
    """
    tokens = _read_list(fields, "tokens", str)
    if not tokens:
        raise CheckpointError(f"{PREFIX}tokens is missing: the GGUF file holds no vocabulary")
    numbers = _read_list(fields, "token_type", int) or [int(TokenType.NORMAL)] * len(tokens)
    scores = _read_list(fields, "scores", (float, int))
    for name, values in (("token_type", numbers), ("scores", scores)):
        if values is not None and len(values) != len(tokens):
            raise CheckpointError(
                f"{PREFIX}{name} has {len(values)} entries, {PREFIX}tokens has {len(tokens)}"
            )
    try:
        types = tuple(_TYPES[number] for number in numbers)
    except KeyError as error:
        raise CheckpointError(f"{PREFIX}token_type: there is no type {error}") from None
    if spaces_marked:
        tokens = _mark_spaces(tokens, types)
    # Some conversions leave gaps; each needs a name of its own.
    texts = tuple(token or f"[EMPTY_{index}]" for index, token in enumerate(tokens))
    try:
        return Vocabulary(texts, types, None if scores is None else tuple(map(float, scores)))
    except CheckpointError as error:
        raise CheckpointError(f"{PREFIX}tokens: {error}") from error


def _mark_spaces(tokens: list[str], types: tuple[TokenType, ...]) -> list[str]:
    taken = set(tokens)
    return [
        SPACE * len(token)
        if type_ is TokenType.USER_DEFINED
        and token
        and not token.strip(" ")
        and SPACE * len(token) not in taken
        else token
        for token, type_ in zip(tokens, types, strict=True)
    ]


def read_id(fields: Mapping[str, object], name: str, vocabulary: Vocabulary) -> int | None:
    """Return the id the metadata give to a role, e.g. ``bos``; ``None`` where they do not.

    Raises:
        CheckpointError: The vocabulary has no such id.
    """
    value = fields.get(f"{PREFIX}{name}_token_id")
    if value is None:
        return None
    size = len(vocabulary.tokens)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < size:
        raise CheckpointError(
            f"{PREFIX}{name}_token_id is {value!r}, but the vocabulary has {size} tokens"
        )
    return value


def read_merges(fields: Mapping[str, object]) -> Merges | None:
    """Return the merges of byte pair encoding, first to apply first; ``None`` where there are none.

    Raises:
        CheckpointError: An entry is not two tokens with a space between.
    """
    lines = _read_list(fields, "merges", str)
    if lines is None:
        return None
    merges = []
    for line in lines:
        # A token may itself begin with a space, never hold one further on.
        cut = line.find(" ", 1)
        if cut < 0 or cut + 1 == len(line):
            raise CheckpointError(f"{PREFIX}merges: {shown(line)} is not two tokens")
        merges.append((line[:cut], line[cut + 1 :]))
    return merges


def _read_list(
    fields: Mapping[str, object], name: str, of: type[_T] | tuple[type[_T], ...]
) -> list[_T] | None:
    value = fields.get(PREFIX + name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, of) for item in value):
        kind = of[0] if isinstance(of, tuple) else of
        raise CheckpointError(f"{PREFIX}{name} must be a list of {kind.__name__}")
    return value
