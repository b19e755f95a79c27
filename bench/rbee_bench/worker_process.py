"""A worker in a process of its own, as a hive starts one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import httpx
import psutil

from rbee_bench.local_process import end, free_port, plain_environment

_PATIENCE_SECONDS = 60.0
_GRACE_SECONDS = 15.0

PROGRAM = (sys.executable, "-m", "rbee_service")


class StartFault(Exception):
    """The worker did not become ready, or did not answer; one line says why."""


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A started worker.

    Attributes:
        process: The process.
        port: Where it listens.
        log: All that it writes.
    """

    process: subprocess.Popen[bytes]
    port: int
    log: IO[bytes]

    @property
    def url(self) -> str:
        """Base of its routes."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def resident_bytes(self) -> int:
        """Memory it holds now."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def said(self) -> list[str]:
        """Return the lines it has written so far."""
        size = os.fstat(self.log.fileno()).st_size
        return os.pread(self.log.fileno(), size, 0).decode(errors="replace").splitlines()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def ended(self, timeout: float) -> int | None:
        """Wait for its end and return the exit code; ``None`` if it lives on."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def until_ready(self, token: str = "") -> None:
        """Wait until it takes work.

        Raises:
            StartFault: It ended, or took too long.
        """
        headers = {"authorization": f"Bearer {token}"} if token else {}
        deadline = time.perf_counter() + _PATIENCE_SECONDS
        with httpx.Client(base_url=self.url, headers=headers, timeout=30) as client:
            while time.perf_counter() < deadline:
                if self.process.poll() is not None:
                    lines = self.said() or ["(silent)"]
                    code = self.process.returncode
                    raise StartFault(f"the worker ended with code {code}: {lines[-1]}")
                try:
                    answer = client.get("/v1/ready").json()
                except httpx.TransportError:
                    answer = {}  # its port is not open yet
                if answer.get("ready"):
                    return
                # Nothing announces readiness without asking; this is also the clock's resolution.
                time.sleep(0.01)
        raise StartFault(f"the worker was not ready after {_PATIENCE_SECONDS:.0f} s")


@contextmanager
def started_worker(
    *flags: str,
    program: Sequence[str] = PROGRAM,
    environment: Mapping[str, str] | None = None,
    stderr: int | None = None,
    before: Callable[[], None] | None = None,
) -> Iterator[WorkerProcess]:
    """Start a worker on a free port; stop it after the block if it still runs.

    Args:
        flags: Its command line.
        program: What to run.
        environment: Variables it gets besides those of this process that do not configure workers.
        stderr: File descriptor for its log, if that is not to be kept.
        before: Called in the new process before the program.
    """
    port = free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*program, *flags, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log if stderr is None else stderr,
            env=plain_environment() | dict(environment or {}),
            preexec_fn=before,  # noqa: PLW1509 (it sets a limit and nothing else)
        )
        try:
            yield WorkerProcess(process, port, log)
        finally:
            end(process, _GRACE_SECONDS)
