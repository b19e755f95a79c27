"""The pieces a GGUF file's tokenizer is made of, read from its metadata and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Self, TypeVar

from gguf import TokenType

from rbee_export.errors import CheckpointError

PREFIX = "tokenizer.ggml."
Merges = list[tuple[str, str]]
_T = TypeVar("_T")


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


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a model.

    Attributes:
        tokens: Text of each token, by id; no two alike.
        types: Kind of each token, by id.
    """

    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]

    @classmethod
    def read(cls, fields: Mapping[str, object]) -> Self:
        """Read tokens and their types; a file without types holds normal tokens only.

        Raises:
            CheckpointError: No tokens, two of the same text, or types that do not fit the tokens.
        """
        tokens = _read_list(fields, "tokens", str)
        if not tokens:
            raise CheckpointError(f"{PREFIX}tokens is missing: the GGUF file holds no vocabulary")
        # Some conversions leave gaps; each needs a name of its own.
        texts = tuple(token or f"[EMPTY_{index}]" for index, token in enumerate(tokens))
        ids: dict[str, int] = {}
        for index, text in enumerate(texts):
            if (first := ids.setdefault(text, index)) != index:
                raise CheckpointError(f"{PREFIX}tokens {first} and {index} are both {text!r}")
        types = _read_list(fields, "token_type", int) or [TokenType.NORMAL] * len(texts)
        _require_length(types, "token_type", len(texts))
        try:
            return cls(texts, tuple(TokenType(type_) for type_ in types))
        except ValueError as error:
            raise CheckpointError(f"{PREFIX}token_type: {error}") from None

    @property
    def ids(self) -> dict[str, int]:
        """Id of each token, by text."""
        return {token: index for index, token in enumerate(self.tokens)}

    def read_id(self, fields: Mapping[str, object], name: str) -> int | None:
        """Return the id the metadata give to a role, e.g. ``bos``; ``None`` where they do not.

        Raises:
            CheckpointError: The vocabulary has no such id.
        """
        value = fields.get(f"{PREFIX}{name}_token_id")
        if value is None:
            return None
        if not isinstance(value, int) or not 0 <= value < len(self.tokens):
            raise CheckpointError(
                f"{PREFIX}{name}_token_id is {value!r}, but the vocabulary has "
                f"{len(self.tokens)} tokens"
            )
        return value

    def merges_by_score(self, fields: Mapping[str, object]) -> Merges:
        """Return the merges that SentencePiece's scores amount to, first to apply first.

        SentencePiece joins the two neighbours whose joint piece has the highest score, the leftmost
        of equals. A ranked list of pairs says the same once each piece is listed in every way it
        can be cut in two, by descending score. Only pieces of text take part: control tokens and
        bytes are never the outcome of a merge, and user-defined ones are found before it starts.

        Raises:
            CheckpointError: No score, or not one for each token.
        """
        scores = _read_list(fields, "scores", float)
        if scores is None:
            raise CheckpointError(
                f"{PREFIX}scores is missing: a llama tokenizer needs scores or merges"
            )
        _require_length(scores, "scores", len(self.tokens))
        pieces = {
            token: score
            for token, type_, score in zip(self.tokens, self.types, scores, strict=True)
            if type_ in (TokenType.NORMAL, TokenType.UNUSED)
        }
        # A list cannot rank the cuts of one piece equal, and need not: by the time the piece's turn
        # comes, joining the halves that score higher has left one way to cut it.
        ranked = [
            (-score, token[:cut], token[cut:])
            for token, score in pieces.items()
            for cut in range(len(token) - 1, 0, -1)
            if token[:cut] in pieces and token[cut:] in pieces
        ]
        ranked.sort(key=itemgetter(0))
        return [(left, right) for _, left, right in ranked]


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
            raise CheckpointError(f"{PREFIX}merges: {line!r} is not two tokens")
        merges.append((line[:cut], line[cut + 1 :]))
    return merges


def _read_list(fields: Mapping[str, object], name: str, of: type[_T]) -> list[_T] | None:
    value = fields.get(PREFIX + name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, of) for item in value):
        raise CheckpointError(f"{PREFIX}{name} must be a list of {of.__name__}")
    return value


def _require_length(values: list[int] | list[float], name: str, length: int) -> None:
    if len(values) != length:
        raise CheckpointError(
            f"{PREFIX}{name} has {len(values)} entries, {PREFIX}tokens has {length}"
        )
