"""All that a worker tells the hive that started it, and the queen."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Generator
from typing import Self
from urllib.parse import urlsplit

import httpx

from rbee_service.callback import ReadyReport, report_ready
from rbee_service.heartbeat import Heartbeat
from rbee_service.identity import WorkerInfo
from rbee_service.metrics import Metrics
from rbee_service.options import Options
from rbee_service.timestamps import rfc3339_now
from rbee_service.token_keeper import TokenKeeper


class HiveLink:
    """Reports and heartbeats of one worker. Use as an asynchronous context manager.

    Args:
        options: Say where to, and how often.
        keeper: Knows what token to show.
        info: Says who the worker is, and what it is doing.
        healthy: Says whether it is well.
        metrics: Where outcomes are counted.
    """

    def __init__(
        self,
        options: Options,
        keeper: TokenKeeper,
        info: Callable[[], WorkerInfo],
        healthy: Callable[[], bool],
        metrics: Metrics,
    ) -> None:
        self._options = options
        self._info = info
        self._healthy = healthy
        self._metrics = metrics
        bases = (options.hive_url, options.queen_url)
        secure = any(url and url.startswith("https:") for url in (*bases, options.callback_url))
        # Whom to trust takes a while to read, at the start of all times, and only https needs it.
        trust = True if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Worker and hive share a network: no proxy of the environment belongs between them.
        self._client = httpx.AsyncClient(auth=_Bearer(keeper), trust_env=False, verify=trust)
        self._worker_beats = [self._worker_heartbeat(base) for base in bases if base is not None]
        self._health_beats: list[Heartbeat] = []
        self._beating: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    def begin(self) -> None:
        """Send heartbeats from now on."""
        for heartbeat in self._worker_beats:
            self._keep_beating(heartbeat)

    def hurry(self) -> None:
        """Beat now: there is news."""
        for heartbeat in (*self._worker_beats, *self._health_beats):
            heartbeat.hurry()

    async def report(self, url: str, report: ReadyReport) -> None:
        """Report readiness to ``url``, and beat there too from now on.

        Raises:
            CallbackRefused: After all retries.
        """
        await report_ready(
            self._client,
            url,
            report,
            max_retries=self._options.callback_max_retries,
            count=lambda outcome: self._metrics.callbacks.labels(outcome).inc(),
        )
        heartbeat = self._health_heartbeat(url)
        self._health_beats.append(heartbeat)
        self._keep_beating(heartbeat)

    async def end(self) -> None:
        """Send no heartbeats any more but a last one to whoever is told the worker's status.

        One that is under way comes to its end first, within its timeout: broken off, it might
        still reach a hive after the last one, and say that the worker lives.
        """
        for heartbeat in (*self._worker_beats, *self._health_beats):
            heartbeat.end()
        await asyncio.gather(*self._beating)
        await asyncio.gather(*(heartbeat.beat() for heartbeat in self._worker_beats))

    def _keep_beating(self, heartbeat: Heartbeat) -> None:
        self._beating.add(asyncio.create_task(heartbeat.run()))

    def _worker_heartbeat(self, base: str) -> Heartbeat:
        return Heartbeat(
            self._client,
            f"{base.rstrip('/')}/v1/worker-heartbeat",
            lambda: {"worker": self._info().body(), "timestamp": rfc3339_now()},
            self._options.heartbeat_interval,
            self._count,
        )

    def _health_heartbeat(self, callback_url: str) -> Heartbeat:
        origin = urlsplit(callback_url)
        return Heartbeat(
            self._client,
            f"{origin.scheme}://{origin.netloc}/v1/heartbeat",
            lambda: {
                "worker_id": self._options.worker_id,
                "timestamp": rfc3339_now(),
                "health_status": "healthy" if self._healthy() else "degraded",
            },
            self._options.heartbeat_interval,
            self._count,
        )

    def _count(self, outcome: str) -> None:
        self._metrics.heartbeats.labels(outcome).inc()


class _Bearer(httpx.Auth):
    def __init__(self, keeper: TokenKeeper) -> None:
        self._keeper = keeper

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        token = self._keeper.token
        if token is not None:
            request.headers["authorization"] = token.header
        yield request
