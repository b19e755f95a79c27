"""Reports a worker's readiness to the hive that started it, until the hive takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

import httpx
import structlog
import tenacity

ATTEMPT_SECONDS: Final = 5.0
FIRST_WAIT_SECONDS: Final = 1.0

_WORTH_RETRYING: Final = frozenset({408, 429})


class CallbackRefused(Exception):
    """The hive did not take the report; the message says what its last answer was."""


@dataclass(frozen=True, slots=True)
class ReadyReport:
    """A worker that answers; the fields are the JSON's keys, in order.

    Attributes:
        worker_id: Its name.
        url: Where it answers.
        model_ref: What it serves.
        backend: ``cpu``, ``cuda`` or ``tensorrt``.
        device: Index of its device.
        vram_bytes: Bytes it holds there.
        port: The port in ``url``.
    """

    worker_id: str
    url: str
    model_ref: str
    backend: str
    device: int
    vram_bytes: int
    port: int


async def report_ready(
    client: httpx.AsyncClient,
    url: str,
    report: ReadyReport,
    *,
    max_retries: int,
    count: Callable[[str], object],
    attempt_seconds: float = ATTEMPT_SECONDS,
    first_wait_seconds: float = FIRST_WAIT_SECONDS,
) -> None:
    """Post the report, and again with doubling pauses while the hive is not reached or not well.

    Args:
        client: Carries the authorization.
        url: Where to post.
        report: What to post.
        max_retries: Tries after the first.
        count: Told of each try's outcome: ``ok`` or ``failed``.
        attempt_seconds: Bound on each try.
        first_wait_seconds: Pause before the second try.

    Raises:
        CallbackRefused: After the last try, or at once on an answer that would not change.
    """
    log = structlog.get_logger()

    def tell(state: tenacity.RetryCallState) -> None:
        wait = state.next_action.sleep if state.next_action else 0.0
        error = state.outcome.exception() if state.outcome else None
        log.warning("The ready callback failed", reason=reason(error), retry_in_seconds=wait)

    attempts = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(max_retries + 1),
        wait=tenacity.wait_exponential(multiplier=first_wait_seconds),
        retry=tenacity.retry_if_exception(_worth_retrying),
        before_sleep=tell,
        reraise=True,
    )
    try:
        async for attempt in attempts:
            with attempt:
                outcome = "failed"
                try:
                    async with asyncio.timeout(attempt_seconds):
                        answer = await client.post(url, json=asdict(report))
                        answer.raise_for_status()
                    outcome = "ok"
                finally:
                    count(outcome)
    except (httpx.HTTPError, TimeoutError) as error:
        raise CallbackRefused(
            f"the ready callback to {url} failed: {reason(error)}; check --callback-url and "
            "that the hive expects this worker"
        ) from error


def _worth_retrying(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        return status >= 500 or status in _WORTH_RETRYING
    return isinstance(error, httpx.TransportError | TimeoutError)


def reason(error: BaseException | None) -> str:
    """Return in a few words why the hive was not reached, or did not take what it was told."""
    match error:
        case httpx.HTTPStatusError():
            return f"status {error.response.status_code}"
        case TimeoutError() | httpx.TimeoutException():
            return "no answer in time"
        case httpx.ReadError() | httpx.WriteError():
            return "the connection broke"
    return str(error).rstrip(".") or type(error).__name__
