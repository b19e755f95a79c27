"""A worker's life: serve at once, load, report, beat, and stop in good order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Final

import structlog

from rbee_runtime.artifact.cache import artifact_cache
from rbee_service import __version__
from rbee_service.address import advertised_host
from rbee_service.callback import CallbackRefused, ReadyReport
from rbee_service.exit_codes import ExitCode, WorkerFault
from rbee_service.health import WorkerState
from rbee_service.hive_link import HiveLink
from rbee_service.http.app import create_app
from rbee_service.http.connection import DEFAULT_LIMITS, Limits
from rbee_service.http.docs_routes import add_docs_routes
from rbee_service.http.embedding_routes import add_embedding_routes
from rbee_service.http.inference_routes import add_inference_routes
from rbee_service.http.inferences import Inferences
from rbee_service.http.job_routes import add_job_routes
from rbee_service.http.message_routes import add_message_routes
from rbee_service.http.metrics_routes import add_metrics_routes
from rbee_service.http.model_routes import add_model_routes
from rbee_service.http.openai_routes import add_openai_routes
from rbee_service.http.rerank_routes import add_rerank_routes
from rbee_service.http.response_routes import add_response_routes
from rbee_service.http.server import HttpServer
from rbee_service.http.status_routes import add_status_routes
from rbee_service.http.worker_contract_routes import add_worker_contract_routes
from rbee_service.identity import WorkerInfo, device_name
from rbee_service.inference import LiveInferences
from rbee_service.loading import LayerProgress, LoadingBoard
from rbee_service.metered import memory_gauges
from rbee_service.metrics import Metrics, status_gauges
from rbee_service.model_loader import Loader, ModelBackend, bring_in, load_model
from rbee_service.model_source import model_reference
from rbee_service.options import Options
from rbee_service.threads import in_daemon_thread
from rbee_service.token_keeper import TokenKeeper

SAME_SIGNAL: Final = 0.25
"""Seconds within which a second signal is taken for the first: ``timeout`` sends it to the process
and to its group.
"""

_CANCEL_SECONDS: Final = 2.0
_CLOSE_SECONDS: Final = 5.0
_WATCH_SECONDS: Final = 0.25
_LAST_WORDS_SECONDS: Final = 1.0
_MANIFEST_SECONDS: Final = 1.0


class Worker:
    """One worker process.

    Args:
        options: What it was asked to be.
        listener: Bound socket it serves on.
        environment: Of the process.
        load: Brings the model in.
        limits: What clients may take of it.
    """

    def __init__(
        self,
        options: Options,
        listener: socket.socket,
        environment: Mapping[str, str],
        load: Loader = load_model,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._options = options
        self._environment = environment
        self._load = load
        self._port: int = listener.getsockname()[1]
        self._state: WorkerState[Any, Any] = WorkerState()
        self._board = LoadingBoard()
        self._running = LiveInferences()
        self._inferences = Inferences(self._state, self._running)
        self._metrics = Metrics()
        self._backend: ModelBackend[Any, Any] | None = None
        self._held = ExitStack()
        self._announced = options.model_ref or options.model.name
        self._stop_asked = asyncio.Event()
        self._stop_asked_at = 0.0
        self._rereading: asyncio.Task[None] | None = None
        self._log = structlog.get_logger()
        self._keeper = TokenKeeper(options.token, options.token_file)
        app = create_app(f"worker_{options.worker_id}", self._keeper, limits)
        add_status_routes(app, self._state, self._board)
        add_inference_routes(app, self._inferences, options.sse_dialect)
        add_job_routes(app, self._inferences, options.sse_dialect)
        add_worker_contract_routes(app, self._inferences, self._info)
        add_openai_routes(app, self._inferences)
        add_response_routes(app, self._inferences)
        add_message_routes(app, self._inferences)
        add_embedding_routes(app, self._inferences)
        add_rerank_routes(app, self._inferences)
        add_model_routes(app, self._inferences)
        add_metrics_routes(app, self._metrics)
        add_docs_routes(app, "rbee worker", __version__, "A model, served to a hive.")
        self._server = HttpServer(app, listener)

    async def run(self) -> None:
        """Live until a signal to stop.

        Raises:
            WorkerFault: It did not come up, or its engine died; everything has been closed.
        """
        self._obey_signals()
        await self._server.start()
        self._announce()
        async with HiveLink(
            self._options,
            self._keeper,
            self._info,
            lambda: self._state.health().healthy,
            self._metrics,
        ) as hive:
            life = asyncio.create_task(self._live(hive))
            stopping = asyncio.create_task(self._stop_asked.wait())
            try:
                await asyncio.wait({life, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if life.done():
                    life.result()
            finally:
                life.cancel()
                stopping.cancel()
                await self._shut_down(hive)
                with suppress(asyncio.CancelledError, WorkerFault):
                    await life

    def stop(self) -> None:
        """Begin to stop: refuse new work, let what runs finish within the grace period."""
        self._state.stop()
        self._stop_asked_at = time.monotonic()
        self._stop_asked.set()

    def _obey_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stop_asked.is_set():
            if time.monotonic() - self._stop_asked_at < SAME_SIGNAL:
                return
            self._log.warning("Stopping at once", signal=number.name)
            sys.stderr.flush()
            os._exit(128 + number)
        self._log.info(
            "Stopping", signal=number.name, running=len(self._running), grace=self._options.grace
        )
        self.stop()

    def _on_hangup(self) -> None:
        if self._keeper.file is None:
            self._log.info("Ignored SIGHUP: there is no --api-token-file to read again")
        elif self._rereading is None or self._rereading.done():
            self._rereading = asyncio.create_task(self._reread_token())

    async def _reread_token(self) -> None:
        try:
            await in_daemon_thread(self._keeper.reread, "token-reader")
        except ValueError as fault:
            self._log.warning("Kept the token, as its file holds none", reason=str(fault))
        else:
            token = self._keeper.token
            self._log.info("Read the token again", token=token.fingerprint if token else "none")

    def _announce(self) -> None:
        token = self._options.token
        self._log.info(
            "Listening",
            worker_id=self._options.worker_id,
            version=__version__,
            host=self._options.host,
            port=self._port,
            token=token.fingerprint if token else "none",
        )

    async def _live(self, hive: HiveLink) -> None:
        if self._options.model_ref is None:
            # A queen that keys on it must not take one worker for two.
            read = partial(model_reference, self._options.model)
            # From a disk that hangs no manifest comes, and heartbeats must.
            with suppress(TimeoutError):
                async with asyncio.timeout(_MANIFEST_SECONDS):
                    self._announced = await in_daemon_thread(read, "manifest-reader")
        hive.begin()
        backend = await self._bring_in()
        self._backend = backend
        model = self._options.model_ref or backend.manifest.model_ref
        self._inferences.serve(backend, model, self._metrics)
        self._metrics.watch(lambda: status_gauges(backend.status()))
        self._metrics.watch(lambda: memory_gauges(backend.memory()))
        self._board.close()
        self._log.info(
            "Ready", model=model, backend=backend.backend_name, vram_bytes=backend.memory().total
        )
        hive.hurry()
        tasks = [
            asyncio.create_task(self._watch(backend, hive)),
            asyncio.create_task(self._report(backend, model, hive)),
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _report(self, backend: ModelBackend[Any, Any], model: str, hive: HiveLink) -> None:
        options = self._options
        if options.callback_url is None:
            return
        host = await asyncio.to_thread(advertised_host, options.host, options.callback_url)
        report = ReadyReport(
            worker_id=options.worker_id,
            url=f"http://{host}:{self._port}",
            model_ref=model,
            backend=backend.backend_name,
            device=options.device,
            vram_bytes=backend.memory().total,
            port=self._port,
        )
        try:
            await hive.report(options.callback_url, report)
        except CallbackRefused as refused:
            raise WorkerFault(ExitCode.CALLBACK_REFUSED, str(refused)) from refused
        self._log.info("Reported ready", url=options.callback_url)

    async def _watch(self, backend: ModelBackend[Any, Any], hive: HiveLink) -> None:
        """Look after the engine for ever.

        Raises:
            WorkerFault: It has died. Whoever asked in the seconds before has been told so.
        """
        while (status := backend.status()).healthy:
            await asyncio.sleep(_WATCH_SECONDS)
        fault = " ".join((status.fault or "the engine stopped").split())
        self._log.error("The engine has died", reason=fault)
        hive.hurry()
        await asyncio.sleep(_LAST_WORDS_SECONDS)
        raise WorkerFault(
            ExitCode.ENGINE_DIED, f"{fault}; start the worker again, its log above says more"
        )

    async def _bring_in(self) -> ModelBackend[Any, Any]:
        loop = asyncio.get_running_loop()

        def post(progress: LayerProgress) -> None:
            # Where the loop has closed, nobody watches any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._board.post, progress)

        cache = artifact_cache(self._environment)
        return await bring_in(self._options, cache, self._load, post, self._held)

    def _info(self) -> WorkerInfo:
        options, backend = self._options, self._backend
        return WorkerInfo(
            id=options.worker_id,
            model_id=self._state.model or self._announced,
            device=device_name(
                backend.backend_name if backend else options.backend, options.device
            ),
            port=self._port,
            status=self._state.hive_status(),
        )

    async def _shut_down(self, hive: HiveLink) -> None:
        # Of a dead engine there is nothing to wait for.
        grace = self._options.grace if self._state.health().healthy else 0.0
        self._state.stop()
        self._board.close()
        if not await self._running.finished(grace):
            self._log.warning("Cancelling what still runs", running=len(self._running))
            self._running.cancel_all()
            await self._running.finished(_CANCEL_SECONDS)
        self._state.end()
        await hive.end()
        await self._server.stop()
        if self._backend is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await in_daemon_thread(self._backend.close, "engine-closer")
        self._held.close()
        self._log.info("Stopped")
