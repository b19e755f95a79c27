"""Tells a hive at fixed intervals that the worker lives, whatever else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import httpx
import structlog

from rbee_service.callback import reason

TIMEOUT_SECONDS: Final = 5.0


class Heartbeat:
    """Heartbeats to one endpoint.

    Args:
        client: Carries the authorization.
        url: Where to post.
        body: Says what to post, at the moment of posting.
        interval: Seconds between the beginnings of two heartbeats.
        count: Told of each heartbeat's outcome: ``ok``, ``refused``, ``timeout`` or ``failed``.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        body: Callable[[], Mapping[str, object]],
        interval: float,
        count: Callable[[str], object],
    ) -> None:
        self._client = client
        self._url = url
        self._body = body
        self._interval = interval
        self._count = count
        self._news = asyncio.Event()
        self._ending = False

    async def run(self) -> None:
        """Beat until :meth:`end`; a beat that falls due while one is under way is left out."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self._ending:
            self._news.clear()
            await self.beat()
            due = max(due + self._interval, loop.time())
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._news.wait()
                    due = loop.time()

    def hurry(self) -> None:
        """Beat now, and from now on counted from here: there is news the hive waits for."""
        self._news.set()

    def end(self) -> None:
        """Begin no more beats. One that is under way goes on: it cannot be taken back."""
        self._ending = True
        self._news.set()

    async def beat(self) -> None:
        """Post once; a failure is logged and never raised."""
        log = structlog.get_logger()
        outcome = "ok"
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                answer = await self._client.post(self._url, json=dict(self._body()))
                answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            outcome, status = "refused", error.response.status_code
            log.warning("A heartbeat was refused", url=self._url, status=status)
        except TimeoutError:
            outcome = "timeout"
            log.warning("A heartbeat got no answer in time", url=self._url)
        except Exception as error:
            outcome = "failed"
            log.warning("A heartbeat failed", url=self._url, reason=reason(error))
        self._count(outcome)
