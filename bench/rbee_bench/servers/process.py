"""The process of a server."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from contextlib import suppress
from typing import Self

import httpx
import psutil

from rbee_bench.local_process import end, free_port, last_words, plain_environment
from rbee_bench.servers.client import Answer, Question, ask
from rbee_bench.servers.spec import ServerSpec

_PATIENCE_SECONDS, _SLOW_SECONDS = 60.0, 300.0
_RETRY_SECONDS = 0.02
_GRACE_SECONDS = 10.0
_SETTLING_SECONDS, _LOOK_SECONDS, _TICK_SECONDS = 3.0, 0.05, 0.01
_OPENING = Question("Once upon a time", 1)


class ServerFault(Exception):
    """A server is not installed, or did not answer; one line says why."""


class ServerProcess:
    """A server that has answered once; it ends with the ``with`` block.

    Attributes:
        spec: What was started.
        url: Where it listens.
        model: The model's name there.
        seconds: From the start of its process to the first token of its first answer.

    Args:
        spec: What to start.

    Raises:
        ServerFault: It cannot be started, ended, or gave no answer in a minute, of a slow one in
            five.
    """

    def __init__(self, spec: ServerSpec) -> None:
        if spec.fault:
            raise ServerFault(spec.fault)
        self.spec = spec
        self._patience = _SLOW_SECONDS if spec.slow else _PATIENCE_SECONDS
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        began = time.perf_counter()
        try:
            self._process = subprocess.Popen(
                spec.at(port),
                stdout=self._log,
                stderr=self._log,
                env=plain_environment() | dict(spec.variables),
            )
        except OSError as error:
            self._log.close()
            raise ServerFault(f"not installed: {error}") from None
        try:
            self.model, answer = asyncio.run(self._open(began + self._patience))
        except BaseException:
            self.close()
            raise
        self.seconds = answer.times[0] - began

    @property
    def process_id(self) -> int:
        """Its process, while it lives; it may have started others."""
        return self._process.pid

    def settle(self) -> None:
        """Wait until it computes nothing, so as not to do it in the next one's turn.

        vLLM's worker looks out for more work for a second, on one of the cores.
        """
        deadline = time.monotonic() + _SETTLING_SECONDS
        spent = -_TICK_SECONDS
        while time.monotonic() < deadline:
            before, spent = spent, self._processor_seconds()
            if spent - before < _TICK_SECONDS:
                return
            time.sleep(_LOOK_SECONDS)

    def _processor_seconds(self) -> float:
        total = 0.0
        with suppress(psutil.NoSuchProcess):  # who dies has settled
            first = psutil.Process(self._process.pid)
            for one in (first, *first.children(recursive=True)):
                times = one.cpu_times()
                total += times.user + times.system
        return total

    def close(self) -> None:
        """End the process and what it has started, and wait for that."""
        started: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            started = psutil.Process(self._process.pid).children(recursive=True)
        end(self._process, _GRACE_SECONDS)
        for one in started:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(started, _GRACE_SECONDS)
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _open(self, deadline: float) -> tuple[str, Answer]:
        """Ask until there is an answer, which is also the clock's resolution."""
        latest = "nothing listens"
        async with httpx.AsyncClient(base_url=self.url, timeout=self._patience) as client:
            while time.perf_counter() < deadline:
                if self._process.poll() is not None:
                    raise ServerFault(self._death())
                try:
                    models = await client.get("/v1/models")
                    model = models.json()["data"][0]["id"]
                except httpx.HTTPError:
                    pass  # its port is not open yet
                except (ValueError, LookupError):
                    latest = f"/v1/models answers {models.status_code}"
                else:
                    answer = await ask(client, model, _OPENING)
                    if not answer.fault:
                        return model, answer
                    latest = answer.fault
                await asyncio.sleep(_RETRY_SECONDS)
        raise ServerFault(f"no answer in {self._patience:.0f} s: {latest}")

    def _death(self) -> str:
        last = last_words(self._log) or "(silent)"
        if "ModuleNotFoundError" in last or "No module named" in last:
            return f"not installed: {last}"
        return f"its process ended with code {self._process.returncode}: {last}"
