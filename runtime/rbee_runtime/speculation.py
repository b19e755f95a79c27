"""How many guessed tokens a step carries. Pure: told the times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log, log1p

from rbee_runtime.drafting import Draft
from rbee_runtime.sequence import Sequence as TokenSequence
from rbee_runtime.step import Row, Step

_SHARE = 0.2
"""What a token more costs at first, in steps of one token: on a CPU a small model's arithmetic has
that part in what is otherwise spent on reading weights.
"""
_LEAST_SHARE, _MOST_SHARE = 0.01, 1.0
_SMOOTHING = 0.2
_FORGETTING = 0.01


class Speculation:
    """Puts as many guesses into a step as are worth what they cost (Leviathan et al. 2023).

    A step gives each row a token, and one more for each guess that comes true. As many guesses go
    in as make the product of all rows' tokens a second largest, as far as can be expected: for one
    row that is its speed, and of several none is made faster at a greater loss to the others.

    How much longer a step of n tokens takes than one of one is learned from step to step, as the
    share of such a step that each token more costs: one for every power of two that n comes under.

    Attributes:
        most: Guesses in a step at most.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._shares: dict[int, float] = {}
        self._last = (0, 0.0)  # tokens and seconds of the step before

    def extend(self, step: Step, sequences: Sequence[TokenSequence]) -> Step:
        """Return a step of rows that decode, with the guesses that it is to carry."""
        drafts = [sequence.draft(self.most) for sequence in sequences]
        if not any(drafts):
            return step
        counts = self._worth(drafts)
        if not any(counts):
            self._forget()
            return step
        rows = [
            Row(row.past, [*row.tokens, *draft.tokens[:count]], row.length, count) if draft else row
            for row, draft, count in zip(step.rows, drafts, counts, strict=True)
        ]
        return Step(step.slot, rows, sum(counts))

    def took(self, tokens: int, seconds: float) -> None:
        """Take in how long a step of so many tokens took."""
        last, self._last = self._last, (tokens, seconds)
        if last[0] != tokens:
            self._learn(*sorted([last, self._last]))

    def _learn(self, less: tuple[int, float], more: tuple[int, float]) -> None:
        """Compare two steps in a row, of different numbers: machine and context are the same."""
        (few, of_few), (many, of_many) = less, more
        if few == 0 or of_few <= 0.0:
            return
        found = (self._cost(few) * of_many / of_few - 1.0) / (many - 1)
        found = min(_MOST_SHARE, max(_LEAST_SHARE, found))
        share = self._share(many)
        self._shares[_kind(many)] = share + _SMOOTHING * (found - share)

    def _forget(self) -> None:
        """Take back a little of what was learned: what was too dear once is tried again."""
        for kind, share in self._shares.items():
            self._shares[kind] = share + _FORGETTING * (_SHARE - share)

    def _cost(self, tokens: int) -> float:
        """Return how long a step takes, in those of one token."""
        return 1.0 + self._share(tokens) * (tokens - 1)

    def _share(self, tokens: int) -> float:
        """Return what each token more costs among so many; of what is not known, as of fewer."""
        for kind in range(_kind(tokens), 0, -1):
            if kind in self._shares:
                return self._shares[kind]
        return _SHARE

    def _worth(self, drafts: Sequence[Draft | None]) -> list[int]:
        """Return how many guesses of each row are worth it."""
        rows = len(drafts)
        gains = sorted(_gains(drafts), reverse=True)[: self.most]
        raised, best, worth = 0.0, -rows * log(self._cost(rows)), 0
        for number, (gain, _) in enumerate(gains, 1):
            raised += gain
            score = raised - rows * log(self._cost(rows + number))
            if score > best:
                best, worth = score, number
        counts = [0] * rows
        for _, row in gains[:worth]:
            counts[row] += 1
        return counts


def _gains(drafts: Sequence[Draft | None]) -> Iterator[tuple[float, int]]:
    """Yield by how much each guess raises the logarithm of its row's tokens, and which row.

    Of one row none raises it by more than those before.
    """
    for row, draft in enumerate(drafts):
        expected = 1.0
        for chance in draft.chances if draft else ():
            yield log1p(chance / expected), row
            expected += chance


def _kind(tokens: int) -> int:
    """Return the power of two that a number of tokens comes under."""
    return (tokens - 1).bit_length()
