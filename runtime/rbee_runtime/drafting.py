"""Tokens that may come next, guessed from what is known without the model. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

_GRAM = 3
"""Tokens that must have stood before for what followed them to be a guess."""

_RATES = (0.55, 0.6, 0.75, 0.8, 0.9)
"""How often a guess is right at first, by how many in a row were right before it: none, one, two
or more, four or more, eight or more. So it was with a small model that was asked to repeat, to edit
and to summarise, and to write freely.
"""
_SMOOTHING = 0.15

_NO_TOKEN = -1
"""Stands before all tokens, so that none is at 0."""


class Draft(NamedTuple):
    """Tokens that may come next.

    Attributes:
        tokens: Their ids, in order.
        chances: Of each, how likely it is that it comes, and all before it; none is larger than
            the one before.
    """

    tokens: Sequence[int]
    chances: Sequence[float]


class Lookup:
    """The tokens of a sequence, and where the latest of them have stood before.

    What followed there is the guess (prompt lookup decoding, Saxena 2023). It goes on from there
    for as long as it is right, whether anybody asks for it or not: how often guesses are right is
    known for nothing.

    Attributes:
        at: Where the next guess is among the tokens; 0 where nothing is known.

    Args:
        prompt: The tokens that completions follow; at least one.
        expected: What the completion is likely to repeat, from its beginning on.
    """

    def __init__(self, prompt: Sequence[int], expected: Sequence[int] = ()) -> None:
        self._tokens = [_NO_TOKEN, *expected, *prompt[:-1]]
        grams = zip(self._tokens, self._tokens[1:], self._tokens[2:], strict=False)
        # Where the text goes on that came last after these tokens.
        self._after: dict[tuple[int, ...], int] = dict(zip(grams, count(_GRAM), strict=False))
        self._rates = list(_RATES)
        self.at = 0
        self._right = 0  # guesses in a row that were right
        self.push(prompt[-1])
        if expected:
            self.at = 1

    def push(self, token: int) -> None:
        """Take the token that came."""
        tokens, at = self._tokens, self.at
        if at:
            rates, number = self._rates, _kind(self._right)
            if tokens[at] == token:
                rates[number] += _SMOOTHING * (1.0 - rates[number])
                self.at, self._right = at + 1, self._right + 1
            else:
                rates[number] -= _SMOOTHING * rates[number]
                self.at = self._right = 0
        tokens.append(token)
        gram, after = tuple(tokens[-_GRAM:]), self._after
        if not self.at:
            self.at = after.get(gram, 0)
        after[gram] = len(tokens)

    def draft(self, most: int) -> Draft | None:
        """Return so many tokens that may come next; ``None`` where nothing is known."""
        at = self.at
        if not at:
            return None
        guessed = self._tokens[at : at + most]
        while len(guessed) < most:
            # It has come to its own beginning: what repeats once may go on to.
            guessed += guessed[: most - len(guessed)]
        chance, chances = 1.0, []
        for right in range(self._right, self._right + most):
            chance *= self._rates[_kind(right)]
            chances.append(chance)
        return Draft(guessed, chances)


def _kind(right: int) -> int:
    """Return which rate goes for a guess, by how many in a row were right before."""
    return min(right.bit_length(), len(_RATES) - 1)
