"""Sequences in, events out: what the scheduler orders, done on the backend, step by step."""

from __future__ import annotations

import time

from rbee_runtime.backend import Backend
from rbee_runtime.crank import Crank, TooLate
from rbee_runtime.errors import DeviceLost, InferenceFailed, RuntimeFault
from rbee_runtime.events import Failed, Finished, Piece, StopReason
from rbee_runtime.live import Live, Sink
from rbee_runtime.pace import Pace
from rbee_runtime.scheduler import Scheduler, Work
from rbee_runtime.sequence import Phase, Sequence
from rbee_runtime.status import EngineStatus
from rbee_runtime.step import Step


class DecodeLoop(Crank[Live, tuple[Work, int]]):
    """Runs what the scheduler orders on the backend, on a thread of its own.

    Every public method may be called from any thread. Only the loop's thread touches a sequence
    that holds a slot.

    Args:
        backend: Runs the steps.
        scheduler: Orders them.
        step_limit: Seconds after which a step that has not come back is given up, and the loop
            with it; see :data:`~rbee_runtime.watchdog.DEFAULT_STEP_LIMIT`.
    """

    def __init__(self, backend: Backend, scheduler: Scheduler, step_limit: float) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._pace = Pace(scheduler.chunk)
        super().__init__(step_limit)

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
        lives = [self._live[sequence.request.request_id] for sequence in work.sequences]
        for live in lives:
            live.start()
        began = time.monotonic()
        self._watchdog.begin(work.step)
        try:
            tokens, faults = self._run_step(work)
        finally:
            # From then on what it was for belongs to nobody.
            if not self._watchdog.end():
                raise TooLate
        self._keep_pace(work, time.monotonic() - began, waiting)
        ends: list[tuple[Live, Finished | Failed]] = [
            (lives[number], Failed(fault)) for number, fault in faults.items()
        ]
        for number, token in tokens.items():
            if work.sequences[number].advance(len(work.step.rows[number].tokens)):
                end = self._accept(lives[number], token)
                if end is not None:
                    ends.append((lives[number], end))
        # After what was drawn is told, for which somebody waits; before any of them ends, which may
        # change the others' slots.
        for number in tokens:
            for store in self._scheduler.keep(work.sequences[number]):
                self._backend.transfer(store)
        for live, event in ends:
            self._end(live, event)

    def _keep_pace(self, work: Work, seconds: float, waiting: int) -> None:
        if work.sequences[0].phase is Phase.DECODE:
            self._pace.decoded(seconds)
        elif self._scheduler.decoding:
            self._pace.prefilled(work.step.tokens / waiting, seconds / waiting)

    def _run_step(self, work: Work) -> tuple[dict[int, int | None], dict[int, RuntimeFault]]:
        """Run a step; one that fails for all rows together is tried row by row.

        Returns:
            The tokens of the rows that ran, ``None`` for one without, and the faults of the others.

        Raises:
            DeviceLost: No step will run any more.
        """
        step, last = work.step, None
        rows = zip(work.sequences, step.rows, strict=True)
        if all(sequence.draws_after(len(row.tokens)) for sequence, row in rows):
            last = [sequence.sampler for sequence in work.sequences]
        numbers = range(len(step.rows))
        try:
            for transfer in work.transfers:
                self._backend.transfer(transfer)
            tokens = self._backend.advance(step, last)
            return dict(zip(numbers, tokens or [None] * len(numbers), strict=True)), {}
        except DeviceLost:
            raise
        except RuntimeFault as error:
            if len(step.rows) == 1:
                return {}, {0: error}
        drawn: dict[int, int | None] = {}
        faults: dict[int, RuntimeFault] = {}
        for number, row in enumerate(step.rows):
            alone = Step(step.slot + number, (row,))
            try:
                (drawn[number],) = self._backend.advance(alone, last and [last[number]])
            except DeviceLost:
                raise
            except RuntimeFault as error:
                faults[number] = error
        return drawn, faults

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
