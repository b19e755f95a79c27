"""Jobs between their creation and the stream that tells of them.

A job's work begins when its stream is opened, not when it is created: no event is lost for want of
a reader, and none is kept for a reader who never comes.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from rbee_service.errors import ApiError, ErrorCode

EXPIRY_SECONDS: Final = 300.0
"""How long a job waits for its stream."""

MOST_WAITING: Final = 256
"""Jobs that may wait for their streams at a time."""

PayloadT = TypeVar("PayloadT")


class Job(Generic[PayloadT]):
    """One job.

    Attributes:
        job_id: Its name.
        payload: What it is to do; ``None`` once that will not be done.
        expires: Monotonic seconds at which it is forgotten, unless it has begun.
        cancelled: Whether somebody asked for its end.
    """

    def __init__(self, job_id: str, payload: PayloadT, expires: float) -> None:
        self.job_id = job_id
        self.payload: PayloadT | None = payload
        self.expires = expires
        self.cancelled = False
        self._cancel: Callable[[], None] | None = None

    def begun(self, cancel: Callable[[], None]) -> None:
        """Know from now on how to end the work; ends it if that has been asked for."""
        self._cancel = cancel
        if self.cancelled:
            cancel()

    def cancel(self) -> None:
        """End the work, now or as soon as it begins."""
        self.cancelled = True
        if self._cancel is not None:
            self._cancel()


class JobBoard(Generic[PayloadT]):
    """The jobs that wait for their streams, and those whose streams are being read.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[str, Job[PayloadT]] = {}
        self._running: dict[str, Job[PayloadT]] = {}

    def create(self, payload: PayloadT) -> str:
        """Keep a job for its stream and return its name.

        Raises:
            ApiError: Too many wait already.
        """
        self._forget_expired()
        if len(self._waiting) >= MOST_WAITING:
            raise ApiError(
                ErrorCode.INSUFFICIENT_RESOURCES,
                f"{MOST_WAITING} jobs wait for their streams; open or cancel some of them",
                retry_after=1,
            )
        job = Job(uuid.uuid4().hex, payload, self._clock() + EXPIRY_SECONDS)
        self._waiting[job.job_id] = job
        return job.job_id

    @contextmanager
    def streamed(self, job_id: str) -> Iterator[Job[PayloadT]]:
        """Give the job to the block that streams it, which no other will be given.

        A block that fails with what may pass (an error that is retriable) leaves the job waiting.

        Raises:
            ApiError: There is no such job, or it has been given away.
        """
        self._forget_expired()
        job = self._waiting.pop(job_id, None)
        if job is None:
            raise _unknown()
        self._running[job_id] = job
        try:
            yield job
        except ApiError as error:
            if error.code.retriable and not job.cancelled:
                # Jobs wait in the order in which they expire.
                self._waiting[job_id] = job
                self._waiting = dict(sorted(self._waiting.items(), key=lambda kv: kv[1].expires))
            raise
        finally:
            del self._running[job_id]

    def cancel(self, job_id: str) -> None:
        """End a job. Of one that waits, what it was to do is forgotten, and its stream says so.

        Raises:
            ApiError: There is no such job, or it is over.
        """
        self._forget_expired()
        job = self._waiting.get(job_id) or self._running.get(job_id)
        if job is None:
            raise _unknown()
        if job_id in self._waiting:
            job.payload = None
        job.cancel()

    def _forget_expired(self) -> None:
        now = self._clock()
        while self._waiting:
            oldest = next(iter(self._waiting.values()))
            if oldest.expires > now:
                break
            del self._waiting[oldest.job_id]


def _unknown() -> ApiError:
    return ApiError(ErrorCode.INVALID_REQUEST, "there is no job of this name", status=404)
