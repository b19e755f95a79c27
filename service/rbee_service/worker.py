"""A worker's life: serve at once, load, report, beat, and stop in good order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import httpx
import structlog

from rbee_runtime.errors import ArtifactError, DeviceError, InvalidSetting, OutOfMemory
from rbee_runtime.events import Event
from rbee_runtime.request import Request
from rbee_service import __version__
from rbee_service.address import advertised_host
from rbee_service.callback import CallbackRefused, ReadyReport, report_ready
from rbee_service.engine_loader import CompletionBackend, Loader, load_engine
from rbee_service.exit_codes import ExitCode
from rbee_service.health import WorkerState
from rbee_service.heartbeat import Heartbeat
from rbee_service.http.app import create_app
from rbee_service.http.completions import Completions
from rbee_service.http.inference_routes import add_inference_routes
from rbee_service.http.job_routes import add_job_routes
from rbee_service.http.metrics_routes import add_metrics_routes
from rbee_service.http.openai_routes import add_openai_routes
from rbee_service.http.server import HttpServer
from rbee_service.http.status_routes import add_status_routes
from rbee_service.http.worker_contract_routes import add_worker_contract_routes
from rbee_service.identity import WorkerInfo, device_name
from rbee_service.inference import LiveInferences
from rbee_service.loading import LayerProgress, LoadingBoard
from rbee_service.metered import MeteredBackend, memory_gauges
from rbee_service.metrics import Metrics, status_gauges
from rbee_service.model_source import artifact_cache, resolve_model
from rbee_service.options import Options
from rbee_service.threads import in_daemon_thread
from rbee_service.timestamps import rfc3339_now

_CANCEL_SECONDS: Final = 2.0
_CLOSE_SECONDS: Final = 5.0


class StartupFault(Exception):
    """The worker cannot come up; the message is for the person who started it.

    Attributes:
        code: What the process exits with.
    """

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Worker:
    """One worker process.

    Args:
        options: What it was asked to be.
        listener: Bound socket it serves on.
        environment: Of the process.
        load: Brings the model in.
    """

    def __init__(
        self,
        options: Options,
        listener: socket.socket,
        environment: Mapping[str, str],
        load: Loader = load_engine,
    ) -> None:
        self._options = options
        self._environment = environment
        self._load = load
        self._port: int = listener.getsockname()[1]
        self._state: WorkerState[Request, Event] = WorkerState()
        self._board = LoadingBoard()
        self._live = LiveInferences()
        self._metrics = Metrics()
        self._backend: CompletionBackend | None = None
        self._stop_asked = asyncio.Event()
        self._beating: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger()
        app = create_app(f"worker_{options.worker_id}", options.token)
        add_status_routes(app, self._state, self._board)
        completions = Completions(self._state, self._live)
        add_inference_routes(app, completions, options.sse_dialect)
        add_job_routes(app, completions, options.sse_dialect)
        add_worker_contract_routes(app, completions, self._info)
        add_openai_routes(app, completions, self._render_chat)
        add_metrics_routes(app, self._metrics)
        self._server = HttpServer(app, listener)

    async def run(self) -> None:
        """Live until a signal to stop.

        Raises:
            StartupFault: It did not come up; everything has been closed.
        """
        self._obey_signals()
        await self._server.start()
        self._announce()
        headers = {"authorization": self._options.token.header} if self._options.token else {}
        # Worker and hive share a network: no proxy of the environment belongs between them.
        async with httpx.AsyncClient(headers=headers, trust_env=False) as client:
            heartbeats = self._worker_heartbeats(client)
            for heartbeat in heartbeats:
                self._keep_beating(heartbeat)
            startup = asyncio.create_task(self._start_up(client, heartbeats))
            stopping = asyncio.create_task(self._stop_asked.wait())
            try:
                await asyncio.wait({startup, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if startup.done():
                    startup.result()
                    await stopping
            finally:
                startup.cancel()
                stopping.cancel()
                await self._shut_down(heartbeats)
                with suppress(asyncio.CancelledError, StartupFault):
                    await startup

    def stop(self) -> None:
        """Begin to stop: refuse new work, let what runs finish within the grace period."""
        self._state.stop()
        self._stop_asked.set()

    def _obey_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stop_asked.is_set():
            self._log.warning("Stopping at once", signal=number.name)
            sys.stderr.flush()
            os._exit(128 + number)
        self._log.info(
            "Stopping", signal=number.name, running=len(self._live), grace=self._options.grace
        )
        self.stop()

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

    async def _start_up(self, client: httpx.AsyncClient, heartbeats: list[Heartbeat]) -> None:
        options = self._options
        backend = await self._bring_in()
        self._backend = backend
        model = options.model_ref or backend.manifest.model_ref
        self._state.serve(MeteredBackend(backend, self._metrics), model)
        self._metrics.watch(lambda: status_gauges(backend.status()))
        self._metrics.watch(lambda: memory_gauges(backend.memory()))
        self._board.close()
        self._log.info(
            "Ready", model=model, backend=backend.backend_name, vram_bytes=backend.memory().total
        )
        for heartbeat in heartbeats:
            heartbeat.hurry()
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
            await report_ready(
                client,
                options.callback_url,
                report,
                max_retries=options.callback_max_retries,
                count=lambda outcome: self._metrics.callbacks.labels(outcome).inc(),
            )
        except CallbackRefused as refused:
            raise StartupFault(ExitCode.CALLBACK_REFUSED, str(refused)) from refused
        self._log.info("Reported ready", url=options.callback_url)
        self._keep_beating(self._health_heartbeat(client, options.callback_url))

    async def _bring_in(self) -> CompletionBackend:
        options = self._options
        loop = asyncio.get_running_loop()

        def post(progress: LayerProgress) -> None:
            # Where the loop has closed, nobody watches any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._board.post, progress)

        try:
            artifact = await resolve_model(options.model, artifact_cache(self._environment))
            self._log.info("Loading", artifact=str(artifact))
            load = partial(self._load, artifact, options, post)
            return await in_daemon_thread(load, "model-loader")
        except ArtifactError as error:
            raise StartupFault(ExitCode.MODEL_UNUSABLE, str(error)) from error
        except OutOfMemory as error:
            message = f"{options.model}: does not fit into memory: {error}"
            raise StartupFault(ExitCode.MODEL_UNUSABLE, message) from error
        except InvalidSetting as error:
            message = f"{options.model}: {error}"
            raise StartupFault(ExitCode.BAD_ARGUMENTS, message) from error
        except DeviceError as error:
            raise StartupFault(ExitCode.DEVICE_UNUSABLE, str(error)) from error
        except Exception as error:
            self._log.exception("Loading failed")
            message = f"{options.model}: cannot be loaded: {type(error).__name__}: {error}"
            raise StartupFault(ExitCode.MODEL_UNUSABLE, message) from error

    def _worker_heartbeats(self, client: httpx.AsyncClient) -> list[Heartbeat]:
        bases = (self._options.hive_url, self._options.queen_url)
        return [
            Heartbeat(
                client,
                f"{base.rstrip('/')}/v1/worker-heartbeat",
                lambda: {"worker": self._info().body(), "timestamp": rfc3339_now()},
                self._options.heartbeat_interval,
                self._count_heartbeat,
            )
            for base in bases
            if base is not None
        ]

    def _health_heartbeat(self, client: httpx.AsyncClient, callback_url: str) -> Heartbeat:
        origin = urlsplit(callback_url)
        return Heartbeat(
            client,
            f"{origin.scheme}://{origin.netloc}/v1/heartbeat",
            lambda: {
                "worker_id": self._options.worker_id,
                "timestamp": rfc3339_now(),
                "health_status": "healthy" if self._state.health().healthy else "degraded",
            },
            self._options.heartbeat_interval,
            self._count_heartbeat,
        )

    def _count_heartbeat(self, outcome: str) -> None:
        self._metrics.heartbeats.labels(outcome).inc()

    def _keep_beating(self, heartbeat: Heartbeat) -> None:
        task = asyncio.create_task(heartbeat.run())
        self._beating.add(task)

    def _info(self) -> WorkerInfo:
        options, backend = self._options, self._backend
        return WorkerInfo(
            id=options.worker_id,
            model_id=self._state.model or options.model_ref or options.model.name,
            device=device_name(
                backend.backend_name if backend else options.backend, options.device
            ),
            port=self._port,
            status=self._state.hive_status(),
        )

    def _render_chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        assert self._backend is not None, "the routes ask once there is a model"
        return self._backend.tokenizer.render_chat(messages)

    async def _shut_down(self, heartbeats: list[Heartbeat]) -> None:
        self._state.stop()
        self._board.close()
        if not await self._live.finished(self._options.grace):
            self._log.warning("Cancelling what still runs", running=len(self._live))
            self._live.cancel_all()
            await self._live.finished(_CANCEL_SECONDS)
        for task in self._beating:
            task.cancel()
        await asyncio.gather(*self._beating, return_exceptions=True)
        await asyncio.gather(*(heartbeat.beat() for heartbeat in heartbeats))
        await self._server.stop()
        if self._backend is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await in_daemon_thread(self._backend.close, "engine-closer")
        self._log.info("Stopped")
