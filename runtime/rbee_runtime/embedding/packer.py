"""Which texts the next step embeds. Pure: no I/O, no clock, no threads."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.errors import QueueFull


@dataclass(frozen=True, slots=True)
class Text:
    """An input of a request, as the model reads it.

    Attributes:
        request_id: Whose it is.
        index: Which input of the request.
        ids: Token ids, special ones included: ``int32[tokens]``.
        types: Type of each, of models that tell two texts in one apart: ``int32[tokens]``.
    """

    request_id: str
    index: int
    ids: NDArray[np.int32]
    types: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class Pack:
    """Texts to run through the model together.

    Attributes:
        texts: At least one; those of a request stand together, in order.
        tokens: Of all of them.
    """

    texts: tuple[Text, ...]
    tokens: int


class _Waiting:
    """A request with texts that have not run.

    Attributes:
        turn: Who has less goes first.
        rest: Its texts, in order.
    """

    def __init__(self, turn: tuple[int, int], texts: Iterable[Text]) -> None:
        self.turn = turn
        self.rest = deque(texts)

    def __lt__(self, other: _Waiting) -> bool:
        return self.turn < other.turn


class Packer:
    """Packs texts of waiting requests.

    A pack takes whole texts up to a budget of tokens, short ones of many requests together; a text
    beyond the budget runs alone. The request goes first that would be done first if each ran from
    its arrival on by itself: its turn is the tokens that had run when it came, and its own. So a
    short request passes a long one, but no request waits for others that came after as many tokens
    had run as it has itself.

    Attributes:
        most: Requests that may be there.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._line: list[_Waiting] = []
        self._waiting: dict[str, _Waiting] = {}
        self._arrivals = 0
        self._run = 0

    def __len__(self) -> int:
        """Return how many requests are there."""
        return len(self._waiting)

    def add(self, request_id: str, texts: Iterable[Text]) -> None:
        """Let a request in, with its texts in order, until it is removed.

        Raises:
            QueueFull: As many are there as may.
        """
        if len(self) >= self.most:
            raise QueueFull(f"as many requests are being served or wait as may ({len(self)})")
        texts = tuple(texts)
        tokens = sum(len(text.ids) for text in texts)
        self._arrivals += 1
        waiting = _Waiting((self._run + tokens, self._arrivals), texts)
        self._waiting[request_id] = waiting
        insort(self._line, waiting)

    def remove(self, request_id: str) -> None:
        """Take a request out, with what has not run of it."""
        waiting = self._waiting.pop(request_id, None)
        if waiting is not None and waiting.rest:
            self._line.remove(waiting)

    def next(self, budget: int) -> Pack | None:
        """Return what to run next, or ``None`` when there is nothing; it counts as run.

        Args:
            budget: Tokens of the pack at most, unless it is of one text.
        """
        texts: list[Text] = []
        room = budget
        for waiting in self._line:
            while waiting.rest and (not texts or len(waiting.rest[0].ids) <= room):
                text = waiting.rest.popleft()
                texts.append(text)
                room -= len(text.ids)
            if room <= 0:
                break
        if not texts:
            return None
        self._line = [waiting for waiting in self._line if waiting.rest]
        tokens = budget - room
        self._run += tokens
        return Pack(tuple(texts), tokens)
