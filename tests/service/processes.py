"""Worker processes for tests."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rbee_bench.local_process import plain_environment

STAND_IN = (sys.executable, str(Path(__file__).parent / "stand_in_worker.py"))
REAL = (str(Path(sys.executable).parent / "rbee-worker"),)


@dataclass
class WorkerProcess:
    """A started worker; everything it says goes to a file."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def said(self) -> str:
        """Return all it has written so far."""
        self.output.seek(0)
        return self.output.read().decode()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self, timeout: float = 20.0) -> int:
        """Wait for its end."""
        return self.process.wait(timeout)


@contextmanager
def started(
    program: Sequence[str], *arguments: str, environment: dict[str, str] | None = None
) -> Iterator[WorkerProcess]:
    """Start a worker, and kill it if it still runs after the block."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=plain_environment() | (environment or {}),
        )
        try:
            yield WorkerProcess(process, output)
        finally:
            process.kill()
            process.wait()


def run(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """Run the real program to its end; return its exit code and the lines it wrote."""
    with started(REAL, *arguments, environment=environment) as worker:
        return worker.exit_code(), worker.said().splitlines()
