"""The thread that turns the crank: sequences in, events out. The only room that knows time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from rbee_runtime.backend import Backend
from rbee_runtime.errors import (
    DeadlineExceeded,
    DeviceLost,
    EngineClosed,
    InferenceFailed,
    InvalidRequest,
    RuntimeFault,
)
from rbee_runtime.events import Failed, Finished, Piece, StopReason
from rbee_runtime.live import Live, Sink
from rbee_runtime.pace import Pace
from rbee_runtime.scheduler import Scheduler, Work
from rbee_runtime.sequence import Phase, Sequence
from rbee_runtime.status import EngineStatus
from rbee_runtime.step import Step
from rbee_runtime.watchdog import Watchdog


class _TooLate(Exception):
    """A step came back after it had been given up, and the engine with it."""


class DecodeLoop:
    """Runs what the scheduler orders on the backend, on a thread of its own.

    Every public method may be called from any thread.

    Args:
        backend: Runs the steps.
        scheduler: Orders them.
        step_limit: Seconds after which a step that has not come back is given up, and the loop
            with it; see :data:`~rbee_runtime.watchdog.DEFAULT_STEP_LIMIT`.
    """

    def __init__(self, backend: Backend, scheduler: Scheduler, step_limit: float) -> None:
        self._backend = backend
        # Everything below is guarded by the condition's lock, except that only the loop's thread
        # touches a sequence that holds a slot.
        self._changed = threading.Condition()
        self._scheduler = scheduler
        self._pace = Pace(scheduler.chunk)
        self._live: dict[str, Live] = {}
        self._cancelled: set[str] = set()
        self._closing = False
        self._job: tuple[Callable[[], object], Future[None]] | None = None
        self._fault: str | None = None
        self._ended = threading.Event()
        self._watchdog = Watchdog(step_limit, self._give_up)
        self._thread = threading.Thread(target=self._run, name="rbee-engine", daemon=True)
        self._thread.start()

    def submit(self, sequence: Sequence, sink: Sink) -> None:
        """Queue a sequence, whose events go to ``sink``. Returns at once.

        Raises:
            InvalidRequest: Its request's id is already in use.
            QueueFull: The waiting line is at its limit.
            EngineClosed: No more sequences are taken.
        """
        request_id = sequence.request.request_id
        with self._changed:
            if self._closing or self._fault is not None:
                raise EngineClosed(self._fault or "the engine has been closed")
            if request_id in self._live:
                raise InvalidRequest("request_id", f"{request_id!r} is already being served")
            self._scheduler.add(sequence)
            self._live[request_id] = Live(sequence, sink)
            self._changed.notify()

    def cancel(self, request_id: str) -> bool:
        """Have a live request finish as ``CANCELLED`` before its next step; say if there is one."""
        with self._changed:
            if request_id not in self._live:
                return False
            self._cancelled.add(request_id)
            self._changed.notify()
            return True

    def run(self, job: Callable[[], object]) -> None:
        """Run a job on the loop's thread, between two steps, and wait for it.

        Raises:
            EngineClosed: The loop has ended.
            Exception: What the job raised.
        """
        done: Future[None] = Future()
        with self._changed:
            if self._closing or self._fault is not None:
                raise EngineClosed(self._fault or "the engine has been closed")
            self._job = job, done
            self._changed.notify()
        done.result()

    def status(self) -> EngineStatus:
        """Return what it is doing."""
        with self._changed:
            return EngineStatus(
                slots_total=self._scheduler.slots,
                slots_available=self._scheduler.slots_available,
                queued=self._scheduler.queued,
                healthy=self._fault is None and not self._closing,
                fault=self._fault,
            )

    def close(self) -> None:
        """Finish every live request as ``CANCELLED`` and stop. May be called more than once."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is self._thread or self._watchdog.raised:
            return
        self._ended.wait()
        # A thread that hangs is left to itself.
        if not self._watchdog.raised:
            self._thread.join()

    def _give_up(self, reason: str) -> None:
        """End everything in the place of the loop's thread, which hangs; the watchdog calls it."""
        self._fail_all(EngineClosed(reason))
        logging.getLogger(__name__).error("The engine hangs: %s", reason)
        self._ended.set()

    # --- below: the loop's thread ---

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except _TooLate:
            logging.getLogger(__name__).warning("The step came back after it had been given up")
        except BaseException as error:  # whatever it is, no caller may be left waiting
            self._fail_all(error)
            logging.getLogger(__name__).exception("The engine stopped")
        finally:
            self._watchdog.stop()
            self._ended.set()

    def _turn(self) -> bool:
        """Wait for work and do one piece of it; return ``False`` when the loop is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._live or self._closing or self._job)
            job, self._job = self._job, None
            unwanted = self._take_unwanted()
        if job is not None:
            _perform(*job)
        for live, fault in unwanted:
            self._drop(live, fault)
        with self._changed:
            if self._closing and not self._live:
                return False
            # The streams that run wait for a prompt; the prompts behind it wait for the streams.
            waiting = max(1, self._scheduler.prompts)
            work = self._scheduler.next(self._pace.chunk * waiting)
        if work is not None:
            self._perform(work, waiting)
        return True

    def _perform(self, work: Work, waiting: int) -> None:
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
                raise _TooLate
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
        text = sequence.accept(token)
        if text:
            live.tell(Piece(text, len(sequence.tokens)))
        return live.finished() if sequence.phase is Phase.FINISHED else None

    def _take_unwanted(self) -> list[tuple[Live, RuntimeFault | None]]:
        """Return what was cancelled, and what is too late with the fault to say so."""
        now = time.monotonic()
        unwanted: list[tuple[Live, RuntimeFault | None]] = []
        for request_id, live in self._live.items():
            deadline = live.sequence.request.deadline
            if self._closing or live.deaf or request_id in self._cancelled:
                unwanted.append((live, None))
            elif deadline is not None and now >= deadline:
                unwanted.append((live, DeadlineExceeded("the request's deadline has passed")))
        return unwanted

    def _drop(self, live: Live, fault: RuntimeFault | None) -> None:
        if fault is not None:
            self._end(live, Failed(fault))
            return
        text = live.sequence.finish(StopReason.CANCELLED)
        if text:
            live.tell(Piece(text, len(live.sequence.tokens)))
        self._end(live, live.finished())

    def _end(self, live: Live, event: Finished | Failed) -> None:
        """Free what a request holds, then say that it ended."""
        with self._changed:
            self._scheduler.remove(live.sequence)
            self._live.pop(live.request_id, None)
            self._cancelled.discard(live.request_id)
        live.tell(event)

    def _fail_all(self, error: BaseException) -> None:
        with self._changed:
            kind = "" if isinstance(error, RuntimeFault) else f"{type(error).__name__}: "
            self._fault = f"the engine stopped: {kind}{error}"
            lives = list(self._live.values())
            self._live.clear()
            job, self._job = self._job, None
        if job is not None:
            job[1].set_exception(EngineClosed(self._fault))
        fault = error if isinstance(error, DeviceLost) else EngineClosed(self._fault)
        for live in lives:
            live.tell(Failed(fault))


def _perform(job: Callable[[], object], done: Future[None]) -> None:
    """Run a job and tell how it went."""
    try:
        job()
    except BaseException as error:  # for whoever waits, whatever it is
        done.set_exception(error)
    else:
        done.set_result(None)
