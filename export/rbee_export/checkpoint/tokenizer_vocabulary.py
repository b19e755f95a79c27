"""The tokens of a model, whatever file they came in."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter

from gguf import TokenType

from rbee_export.errors import CheckpointError, shown

SPACE = "▁"
"""What SentencePiece writes for a space."""

Merges = list[tuple[str, str]]

_TEXT = frozenset({TokenType.NORMAL, TokenType.UNUSED})


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a model.

    Attributes:
        tokens: Text of each token, by id; no two alike, none empty.
        types: Kind of each token, by id.
        scores: SentencePiece's score of each token, by id, where the model has any.
        ids: Id of each token, by text.

    Raises:
        CheckpointError: No tokens, an empty one, two of the same text, or a list of another length.
    """

    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    scores: tuple[float, ...] | None = None
    ids: Mapping[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.tokens:
            raise CheckpointError("the vocabulary is empty")
        for name, values in (("types", self.types), ("scores", self.scores)):
            if values is not None and len(values) != len(self.tokens):
                raise CheckpointError(
                    f"the vocabulary has {len(self.tokens)} tokens, but {len(values)} {name}"
                )
        ids = {token: index for index, token in enumerate(self.tokens)}
        object.__setattr__(self, "ids", ids)
        if len(ids) != len(self.tokens):
            first = next(i for i, token in enumerate(self.tokens) if ids[token] != i)
            raise CheckpointError(
                f"tokens {first} and {ids[self.tokens[first]]} are both {shown(self.tokens[first])}"
            )
        if "" in ids:
            raise CheckpointError(f"token {ids['']} is empty")

    @property
    def unknown(self) -> int:
        """The token for what no other token covers; SentencePiece puts it first by default."""
        return self.types.index(TokenType.UNKNOWN) if TokenType.UNKNOWN in self.types else 0

    def merges_by_score(self) -> Merges:
        """Return the merges that SentencePiece's scores amount to, first to apply first.

        SentencePiece joins the two neighbours whose joint piece has the highest score, the leftmost
        of equals. A ranked list of pairs says the same once each piece is listed in every way it
        can be cut in two, by descending score, longer left halves first. Only pieces of text take
        part: control tokens and bytes are never the outcome of a merge, and user-defined tokens are
        found before it starts. Those of several spaces are the exception: spaces are marked only
        then, and joined before anything else.

        Raises:
            CheckpointError: There are no scores.
        """
        if self.scores is None:
            raise CheckpointError("the vocabulary has neither scores nor merges")
        pieces = {
            token: score if type_ in _TEXT else float("inf")
            for token, type_, score in zip(self.tokens, self.types, self.scores, strict=True)
            if type_ in _TEXT or (type_ is TokenType.USER_DEFINED and not token.strip(SPACE))
        }
        merges: Merges = []
        by_score = sorted(pieces.items(), key=itemgetter(1), reverse=True)
        for _, equals in itertools.groupby(by_score, key=itemgetter(1)):
            cuts = [
                (left, right)
                for token, _ in equals
                for cut in range(len(token) - 1, 0, -1)
                if (left := token[:cut]) in pieces and (right := token[cut:]) in pieces
            ]
            cuts.sort(key=_lengths, reverse=True)
            merges += cuts
        return merges


def _lengths(pair: tuple[str, str]) -> tuple[int, int]:
    return len(pair[0]), len(pair[1])
