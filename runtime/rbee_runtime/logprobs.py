"""How likely the tokens of a completion were, and which others."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

MOST_ALTERNATIVES: Final = 20
"""How many of the likeliest tokens may be asked for."""


class TokenLogprob(NamedTuple):
    """A token and how likely it was.

    Attributes:
        token: Its id.
        logprob: The natural logarithm of its probability.
    """

    token: int
    logprob: float


class TokenLogprobs(NamedTuple):
    """What is known of one token of a completion.

    Probabilities are the model's: the softmax of its logits as they are, before penalties, bias,
    mask, temperature and filters. Those say how a request wants its tokens drawn, not what the
    model holds to be likely, and of tokens that a filter bars they leave nothing to be told.

    Attributes:
        token: Its id.
        logprob: The natural logarithm of its probability.
        top: The likeliest tokens in its place, as many as were asked for, the likeliest first; of
            equal ones those of the lowest ids. The drawn one need not be among them.
        offset: Characters of the completion's text that came before it. Tokens whose text could
            only be told together, as the parts of one character, have the same.
    """

    token: int
    logprob: float
    top: tuple[TokenLogprob, ...]
    offset: int = 0


class UntoldLogprobs:
    """Tokens that wait for their text to become certain, to be told together with it.

    A token is told as soon as the first character is that was decoded with it. One whose text a
    stop string took away is never told.
    """

    def __init__(self) -> None:
        self._waiting: deque[TokenLogprobs] = deque()
        self._decoded = self._told = 0

    def add(self, known: TokenLogprobs, characters: int) -> None:
        """Add the next token.

        Args:
            known: What is known of it, but for its offset.
            characters: How many could be decoded with it.
        """
        self._waiting.append(known._replace(offset=self._decoded))
        self._decoded += characters

    def take(self, characters: int, *, rest: bool) -> tuple[TokenLogprobs, ...]:
        """Return the tokens that are to be told with text.

        Args:
            characters: How many are told.
            rest: Whether all of the text is told with them: then tokens without any are, too.
        """
        self._told += characters
        taken = []
        while self._waiting and (rest or self._waiting[0].offset < self._told):
            taken.append(self._waiting.popleft())
        return tuple(taken)
