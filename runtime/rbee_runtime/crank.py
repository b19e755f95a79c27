"""A thread that serves requests, one piece of work after another, until it is closed or fails."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from rbee_runtime.errors import (
    DeadlineExceeded,
    DeviceLost,
    EngineClosed,
    InvalidRequest,
    RuntimeFault,
)
from rbee_runtime.events import Failed
from rbee_runtime.served import Served
from rbee_runtime.watchdog import Watchdog

AnyServed = TypeVar("AnyServed", bound=Served[Any])
Work = TypeVar("Work")


class TooLate(Exception):
    """Work came back after it had been given up, and the engine with it."""


class Crank(ABC, Generic[AnyServed, Work]):
    """Takes requests and turns until they are served: the thread of an engine.

    Every public method may be called from any thread.

    Args:
        step_limit: Seconds after which a step that has not come back is given up, and the engine
            with it; see :data:`~rbee_runtime.watchdog.DEFAULT_STEP_LIMIT`.
    """

    def __init__(self, step_limit: float) -> None:
        """Start the thread; whatever that needs is there before."""
        # Everything below is guarded by the condition's lock.
        self._changed = threading.Condition()
        self._live: dict[str, AnyServed] = {}
        self._cancelled: set[str] = set()
        self._closing = False
        self._resting = False  # the thread waits for something to do
        self._lent: int | None = None  # the thread that turns the crank in its place
        self._broke: BaseException | None = None  # what that ended with
        self._job: tuple[Callable[[], object], Future[None]] | None = None
        self._fault: str | None = None
        self._ended = threading.Event()
        self._watchdog = Watchdog(step_limit, self._give_up)
        self._thread = threading.Thread(target=self._run, name="rbee-engine", daemon=True)
        self._thread.start()
        _close_in_forks(self)

    def cancel(self, request_id: str) -> bool:
        """Have a live request finish as ``CANCELLED`` before its next step; say if there is one."""
        with self._changed:
            if request_id not in self._live:
                return False
            self._cancelled.add(request_id)
            self._changed.notify()
            return True

    def run(self, job: Callable[[], object]) -> None:
        """Run a job on the engine's thread, between two steps, and wait for it.

        Raises:
            EngineClosed: The thread has ended.
            Exception: What the job raised.
        """
        done: Future[None] = Future()
        with self._changed:
            self._require_open()
            self._job = job, done
            self._changed.notify()
        done.result()

    def close(self) -> None:
        """Finish every live request as ``CANCELLED`` and stop. May be called more than once."""
        self.begin_to_close()
        if threading.current_thread() is self._thread or self._watchdog.raised:
            return
        self._ended.wait()
        # A thread that hangs is left to itself.
        if not self._watchdog.raised:
            self._thread.join()

    def begin_to_close(self) -> None:
        """Have :meth:`close` done, and wait for nothing."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    @property
    def _healthy(self) -> bool:
        return self._fault is None and not self._closing

    def _require_open(self) -> None:
        if not self._healthy:
            raise EngineClosed(self._fault or "the engine has been closed")

    def _require_new(self, request_id: str) -> None:
        """Refuse a request that cannot be let in, whatever it asks for.

        Raises:
            InvalidRequest: Its id is already in use.
            EngineClosed: No more requests are taken.
        """
        self._require_open()
        if request_id in self._live:
            raise InvalidRequest("request_id", f"{request_id!r} is already being served")

    def _give_up(self, reason: str) -> None:
        """End everything in the place of the thread, which hangs; the watchdog calls it."""
        self._fail_all(EngineClosed(reason))
        logging.getLogger(__name__).error("The engine hangs: %s", reason)
        self._ended.set()

    def _be_forked(self) -> None:
        """Take no more requests: in this process, nothing is there that would serve them."""
        # What the threads held of either when they were lost is not told.
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._fault = "the engine is of the process that this one was forked from: load it here"
        self._ended.set()

    def _borrow(self, served: AnyServed) -> Work | None:
        """Take a request in, with the lock held, and return what the caller is to do for it.

        There is something if the thread rests and serves nobody: to wake it takes longer than a
        short step. The crank is the caller's then, until :meth:`_give_back`.
        """
        alone = self._resting and not (self._live or self._lent or self._job)
        self._live[served.request_id] = served
        if not alone:
            self._changed.notify()
            return None
        self._lent = threading.get_ident()
        return self._next()

    def _do_borrowed(self, work: Work) -> None:
        """Do what was borrowed. If that fails, the thread ends as if it had done it itself."""
        try:
            self._perform(work)
        except Exception as error:
            self._broke = error

    def _give_back(self) -> None:
        """Give the crank back, if this thread has it."""
        with self._changed:
            if self._lent == threading.get_ident():
                self._lent = None
                if self._has_to_turn():
                    self._changed.notify()

    # --- below: the engine's thread ---

    @abstractmethod
    def _next(self) -> Work | None:
        """Return what to do next, with the lock held; ``None`` when there is nothing to do."""

    @abstractmethod
    def _perform(self, work: Work) -> None:
        """Do it. Steps are watched by the watchdog.

        Raises:
            TooLate: A step came back too late.
            DeviceLost: No step will run any more.
        """

    @abstractmethod
    def _drop(self, served: AnyServed) -> None:
        """End a request as ``CANCELLED``."""

    @abstractmethod
    def _free(self, served: AnyServed) -> None:
        """Take a request out of what :meth:`_next` chooses from, with the lock held."""

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except TooLate:
            logging.getLogger(__name__).warning("The step came back after it had been given up")
        except BaseException as error:  # whatever it is, no caller may be left waiting
            self._fail_all(error)
            logging.getLogger(__name__).exception("The engine stopped")
        finally:
            self._watchdog.stop()
            self._ended.set()

    def _turn(self) -> bool:
        """Wait for work and do one piece of it; return ``False`` when the thread is to end."""
        with self._changed:
            self._resting = True
            self._changed.wait_for(self._has_to_turn)
            self._resting = False
            if self._broke is not None:
                raise self._broke
            job, self._job = self._job, None
            unwanted = self._take_unwanted()
        if job is not None:
            _do(*job)
        for served, fault in unwanted:
            if fault is None:
                self._drop(served)
            else:
                self._end(served, Failed(fault))
        with self._changed:
            if self._closing and not self._live:
                return False
            work = self._next()
        if work is not None:
            self._perform(work)
        return True

    def _has_to_turn(self) -> bool:
        wanted = self._live or self._closing or self._job or self._broke
        return bool(wanted) and self._lent is None

    def _take_unwanted(self) -> list[tuple[AnyServed, RuntimeFault | None]]:
        """Return what was cancelled, and what is too late with the fault to say so."""
        now = time.monotonic()
        unwanted: list[tuple[AnyServed, RuntimeFault | None]] = []
        for request_id, served in self._live.items():
            deadline = served.deadline
            if self._closing or served.deaf or request_id in self._cancelled:
                unwanted.append((served, None))
            elif deadline is not None and now >= deadline:
                unwanted.append((served, DeadlineExceeded("the request's deadline has passed")))
        return unwanted

    def _end(self, served: AnyServed, event: Any) -> None:
        """Free what a request holds, then say that it ended."""
        with self._changed:
            self._free(served)
            self._live.pop(served.request_id, None)
            self._cancelled.discard(served.request_id)
        served.tell(event)

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
        for served in lives:
            served.tell(Failed(fault))


def _close_in_forks(crank: Crank[Any, Any]) -> None:
    """See to it that a process forked from this one, which gets no threads, waits for none."""
    there = weakref.ref(crank)

    def in_child() -> None:
        forked = there()
        if forked is not None:
            forked._be_forked()

    os.register_at_fork(after_in_child=in_child)


def _do(job: Callable[[], object], done: Future[None]) -> None:
    """Run a job and tell how it went."""
    try:
        job()
    except BaseException as error:  # for whoever waits, whatever it is
        done.set_exception(error)
    else:
        done.set_result(None)
