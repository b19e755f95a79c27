"""Sequences in, events out: what the scheduler orders, done on the backend, step by step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.backend import Backend
from rbee_runtime.crank import Crank, TooLate
from rbee_runtime.errors import DeviceLost, InferenceFailed, RuntimeFault
from rbee_runtime.events import Failed, Finished, Piece, StopReason
from rbee_runtime.live import Live, Sink
from rbee_runtime.pace import Pace
from rbee_runtime.sampling import sample
from rbee_runtime.scheduler import Scheduler, Work
from rbee_runtime.sequence import Phase, Sequence
from rbee_runtime.speculation import Speculation
from rbee_runtime.status import EngineStatus
from rbee_runtime.step import Row, Step


class _Ran(NamedTuple):
    """What came of a step.

    Attributes:
        step: What ran: the step as it was ordered, or without its guesses.
        tokens: The tokens of the rows that ran, ``None`` for one without.
        faults: Those of the others.
        guessed: Of each row that has guesses, the logits after each, ``float32[guesses, vocab]``.
    """

    step: Step
    tokens: dict[int, int | None]
    faults: dict[int, RuntimeFault]
    guessed: Mapping[int, NDArray[np.float32]] = MappingProxyType({})


class DecodeLoop(Crank[Live, tuple[Work, int]]):
    """Runs what the scheduler orders on the backend, on a thread of its own.

    Every public method may be called from any thread. Only the loop's thread touches a sequence
    that holds a slot.

    Args:
        backend: Runs the steps.
        scheduler: Orders them.
        step_limit: Seconds after which a step that has not come back is given up, and the loop
            with it; see :data:`~rbee_runtime.watchdog.DEFAULT_STEP_LIMIT`.
        draft_tokens: Guesses of tokens that a step runs along at most, where the backend can.
    """

    def __init__(
        self, backend: Backend, scheduler: Scheduler, step_limit: float, *, draft_tokens: int
    ) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._pace = Pace(scheduler.chunk)
        self._speculation = Speculation(min(draft_tokens, backend.most_drafted))
        super().__init__(step_limit)

    @property
    def guesses(self) -> bool:
        """Whether it guesses tokens."""
        return self._speculation.most > 0

    def submit(self, sequence: Sequence, sink: Sink) -> None:
        """Queue a sequence, whose events go to ``sink``. Returns at once.

        Raises:
            InvalidRequest: Its request's id is already in use.
            QueueFull: The waiting line is at its limit.
            EngineClosed: No more sequences are taken.
        """
        request_id = sequence.request.request_id
        with self._changed:
            self._require_new(request_id)
            self._scheduler.add(sequence)
            self._live[request_id] = Live(sequence, sink)
            self._changed.notify()

    def status(self) -> EngineStatus:
        """Return what it is doing."""
        with self._changed:
            return EngineStatus(
                slots_total=self._scheduler.slots,
                slots_available=self._scheduler.slots_available,
                queued=self._scheduler.queued,
                queue_total=self._scheduler.max_queue,
                healthy=self._healthy,
                fault=self._fault,
            )

    # --- below: the loop's thread ---

    def _next(self) -> tuple[Work, int] | None:
        # The streams that run wait for a prompt; the prompts behind it wait for the streams.
        waiting = max(1, self._scheduler.prompts)
        work = self._scheduler.next(self._pace.chunk * waiting)
        return None if work is None else (work, waiting)

    def _perform(self, ordered: tuple[Work, int]) -> None:
        work, waiting = ordered
        sequences, step = work.sequences, work.step
        decodes = sequences[0].phase is Phase.DECODE
        if decodes and self._speculation.most:
            step = self._speculation.extend(step, sequences)
        lives = [self._live[sequence.request.request_id] for sequence in sequences]
        for live in lives:
            live.start()
        began = time.monotonic()
        self._watchdog.begin(step)
        try:
            ran = self._run_step(work, step)
        finally:
            # From then on what it was for belongs to nobody.
            if not self._watchdog.end():
                raise TooLate
        seconds, (step, tokens, faults, guessed) = time.monotonic() - began, ran
        if decodes:
            self._pace.decoded(seconds)
            self._speculation.took(len(step.rows) + step.guesses, seconds)
        elif self._scheduler.decoding:
            self._pace.prefilled(step.tokens / waiting, seconds / waiting)
        ends: list[tuple[Live, Finished | Failed]] = [
            (lives[number], Failed(fault)) for number, fault in faults.items()
        ]
        rows = step.rows
        for number, token in tokens.items():
            row = rows[number]
            guesses = row.guesses
            if sequences[number].advance(len(row.tokens) - guesses):
                end = self._accept(lives[number], token)
                if guesses:
                    end = self._follow(lives[number], row, guessed[number], end)
                if end is not None:
                    ends.append((lives[number], end))
        # After what was drawn is told, for which somebody waits; before any of them ends, which may
        # change the others' slots.
        for number in tokens:
            for store in self._scheduler.keep(sequences[number]):
                self._backend.transfer(store)
        for live, event in ends:
            self._end(live, event)

    def _run_step(self, work: Work, step: Step) -> _Ran:
        """Run what was ordered; what fails for all rows together is tried row by row.

        Args:
            work: What was ordered.
            step: Its step, with guesses that are to run along, and are not tried again.

        Raises:
            DeviceLost: No step will run any more.
        """
        rows, last = work.step.rows, None
        # Several rows decode, all of them.
        if len(rows) > 1 or work.sequences[0].draws_after(len(rows[0].tokens)):
            last = [sequence.sampler for sequence in work.sequences]
        numbers = range(len(rows))
        try:
            for transfer in work.transfers:
                self._backend.transfer(transfer)
            if step.guesses and last is not None:
                logits = self._backend.run(step)
                tokens = sample(logits[: len(last)], last)
                ends = list(accumulate((row.guesses for row in step.rows), initial=len(last)))
                guessed = {n: logits[ends[n] : ends[n + 1]] for n in numbers}
                return _Ran(step, dict(zip(numbers, tokens, strict=True)), {}, guessed)
            tokens = self._backend.advance(step, last)
            return _Ran(step, dict(zip(numbers, tokens or [None] * len(numbers), strict=True)), {})
        except DeviceLost:
            raise
        except RuntimeFault as error:
            if len(rows) == 1 and not step.guesses:
                return _Ran(step, {}, {0: error})
        drawn: dict[int, int | None] = {}
        faults: dict[int, RuntimeFault] = {}
        for number, row in enumerate(rows):
            alone = Step(step.slot + number, (row,))
            try:
                (drawn[number],) = self._backend.advance(alone, last and [last[number]])
            except DeviceLost:
                raise
            except RuntimeFault as error:
                faults[number] = error
        return _Ran(work.step, drawn, faults)

    def _follow(
        self,
        live: Live,
        row: Row,
        guessed: NDArray[np.float32],
        end: Finished | Failed | None,
    ) -> Finished | Failed | None:
        """Give a request a token more for each guess of its row that has come true.

        Args:
            live: The request, which has been given what was drawn before the first guess.
            row: What ran.
            guessed: The logits after each guess, ``float32[guesses, vocab]``.
            end: How the request has ended, if it has.

        Returns:
            How it ends, if it does.
        """
        sequence = live.sequence
        sequence.drafted += row.guesses
        for guess, logits in zip(row.tokens[1:], guessed, strict=True):
            if end is not None or sequence.tokens[-1] != guess:
                break
            sequence.accepted += 1
            sequence.advance(1)
            (token,) = sample(logits[None], [sequence.sampler])
            end = self._accept(live, token)
        return end

    def _accept(self, live: Live, token: int | None) -> Finished | Failed | None:
        """Give a request its next token; return how it ends, if it does, be it for want of one."""
        if token is None:
            message = "the model's logits are not finite; export it at --precision fp32"
            return Failed(InferenceFailed(message))
        sequence = live.sequence
        live.count_token()
        try:
            text = sequence.accept(token)
        except InferenceFailed as fault:
            return Failed(fault)
        if sequence.untold is not None:
            live.tell_text(text)
        elif text:
            live.tell(Piece(text, len(sequence.tokens)))
        return live.finished() if sequence.phase is Phase.FINISHED else None

    def _drop(self, live: Live) -> None:
        live.tell_text(live.sequence.finish(StopReason.CANCELLED))
        self._end(live, live.finished())

    def _free(self, live: Live) -> None:
        self._scheduler.remove(live.sequence)
