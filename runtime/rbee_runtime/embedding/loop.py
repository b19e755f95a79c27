"""Texts in, vectors out: what the packer chooses, run by the encoder, pack by pack."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.crank import Crank, TooLate
from rbee_runtime.embedding.encoder import Encoder
from rbee_runtime.embedding.events import Embedded, EmbeddingEvent, EmbeddingFinished
from rbee_runtime.embedding.pace import PackPace
from rbee_runtime.embedding.packer import Pack, Packer, Text
from rbee_runtime.errors import DeviceLost, InferenceFailed, RuntimeFault
from rbee_runtime.events import Failed, StopReason
from rbee_runtime.served import Served
from rbee_runtime.status import EngineStatus

SLOTS = 16
"""Requests that count as being served; what is beyond counts as waiting."""

Sink = Callable[[EmbeddingEvent], None]
"""Takes a request's events, on the embedder's thread: it must return at once."""


class _Live(Served[EmbeddingEvent]):
    """A request's texts, where its events go, and how far it has come."""

    def __init__(
        self, request_id: str, deadline: float | None, sink: Sink, texts: Sequence[Text]
    ) -> None:
        super().__init__(request_id, deadline, sink)
        self._left = len(texts)
        self._tokens = 0
        self._started = 0.0
        self._ended = 0.0

    def start(self, now: float) -> None:
        """Note when its first step begins."""
        self._started = self._started or now

    def give(self, texts: Sequence[Text], vectors: NDArray[np.float32], now: float) -> bool:
        """Tell vectors of some of its texts; return whether those were the last."""
        self._ended = now
        self._left -= len(texts)
        for text, vector in zip(texts, vectors, strict=True):
            self._tokens += len(text.ids)
            self.tell(Embedded(text.request_id, text.index, vector))
        return self._left == 0

    def finished(self) -> EmbeddingFinished:
        """Return the event that tells of its end, which has come."""
        seconds = max(0.0, self._ended - self._started)
        if self._left:
            return EmbeddingFinished(self.request_id, self._tokens, seconds, StopReason.CANCELLED)
        return EmbeddingFinished(self.request_id, self._tokens, seconds, StopReason.EOS)


class EmbeddingLoop(Crank[_Live, Pack]):
    """Runs what the packer chooses on the encoder, on a thread of its own.

    Every public method may be called from any thread.

    Args:
        encoder: Runs the packs.
        packer: Chooses them.
        step_limit: See :class:`~rbee_runtime.crank.Crank`.
    """

    def __init__(self, encoder: Encoder, packer: Packer, step_limit: float) -> None:
        self._encoder = encoder
        self._packer = packer
        self._pace = PackPace(encoder.pack_tokens, encoder.weight_bytes)
        super().__init__(step_limit)

    def submit(
        self, request_id: str, deadline: float | None, texts: Sequence[Text], sink: Sink
    ) -> None:
        """Queue texts of a request, whose events go to ``sink``. Returns at once.

        Raises:
            InvalidRequest: The request's id is already in use.
            QueueFull: The waiting line is at its limit.
            EngineClosed: No more requests are taken.
        """
        with self._changed:
            live = self._admit(request_id, deadline, texts, sink)
            self._live[request_id] = live
            self._changed.notify()

    def serve(self, request_id: str, texts: Sequence[Text], sink: Sink) -> None:
        """Queue texts as :meth:`submit` does, for a caller who waits for them anyway.

        Where nobody else is being served and the encoder runs on the CPU, the caller's thread runs
        the first step itself: a question is answered before the other thread would be awake.

        Raises:
            RuntimeFault: As :meth:`submit`.
        """
        if self._encoder.name != "cpu":
            return self.submit(request_id, None, texts, sink)
        try:
            with self._changed:
                live = self._admit(request_id, None, texts, sink)
                pack = self._borrow(live)
            if pack is not None:
                self._do_borrowed(pack)
        finally:
            self._give_back()
        return None

    def status(self) -> EngineStatus:
        """Return what it is doing."""
        with self._changed:
            there = len(self._packer)
            return EngineStatus(
                slots_total=SLOTS,
                slots_available=max(0, SLOTS - there),
                queued=max(0, there - SLOTS),
                queue_total=self._packer.most - SLOTS,
                healthy=self._healthy,
                fault=self._fault,
            )

    def _admit(
        self, request_id: str, deadline: float | None, texts: Sequence[Text], sink: Sink
    ) -> _Live:
        """Queue a request's texts, with the lock held."""
        self._require_new(request_id)
        self._packer.add(request_id, texts)
        return _Live(request_id, deadline, sink, texts)

    # --- below: the loop's thread, or one that stands in for it ---

    def _next(self) -> Pack | None:
        return self._packer.next(self._pace.tokens)

    def _perform(self, pack: Pack) -> None:
        shares = list(_by_request(pack))
        lives = [self._live[share.texts[0].request_id] for share in shares]
        began = time.monotonic()
        for live in lives:
            live.start(began)
        self._watchdog.begin(pack)
        try:
            outcomes = self._run_pack(pack, shares)
        finally:
            # From then on what it was for belongs to nobody.
            if not self._watchdog.end():
                raise TooLate
        now = time.monotonic()
        self._pace.ran(pack.tokens, now - began)
        for live, share, outcome in zip(lives, shares, outcomes, strict=True):
            if isinstance(outcome, RuntimeFault):
                self._end(live, Failed(outcome))
            elif live.give(share.texts, outcome, now):
                self._end(live, live.finished())

    def _run_pack(
        self, pack: Pack, shares: Sequence[Pack]
    ) -> list[NDArray[np.float32] | RuntimeFault]:
        """Run a pack; one that fails for all requests together is tried for each by itself.

        Returns:
            The vectors of each share, or its fault.

        Raises:
            DeviceLost: No step will run any more.
        """
        try:
            vectors = self._encoder.run(pack)
        except DeviceLost:
            raise
        except RuntimeFault as error:
            if len(shares) == 1:
                return [error]
            return [outcome for share in shares for outcome in self._run_pack(share, [share])]
        if len(shares) == 1:
            return [_finite(vectors)]
        ends = list(itertools.accumulate(len(share.texts) for share in shares))
        return [_finite(part) for part in np.split(vectors, ends[:-1])]

    def _drop(self, live: _Live) -> None:
        self._end(live, live.finished())

    def _free(self, live: _Live) -> None:
        self._packer.remove(live.request_id)


def _by_request(pack: Pack) -> Iterator[Pack]:
    """Yield a pack's share of each request."""
    if pack.texts[0].request_id == pack.texts[-1].request_id:  # whose texts stand together
        yield pack
        return
    for _, texts in itertools.groupby(pack.texts, attrgetter("request_id")):
        share = tuple(texts)
        yield Pack(share, sum(len(text.ids) for text in share))


def _finite(vectors: NDArray[np.float32]) -> NDArray[np.float32] | RuntimeFault:
    if np.isfinite(vectors).all():
        return vectors
    return InferenceFailed("what the model gives is not finite; export it at --precision fp32")
