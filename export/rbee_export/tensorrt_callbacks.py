"""What TensorRT calls back: its log, its progress, and where its bytes go.

The classes derive from those of whichever TensorRT was loaded, so they are made when one is. None
may let an exception unwind through the library: it is kept, and the build asked to stop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

BuildProgress = Callable[[str, int, int], None]
"""Called with a phase's name, its steps done and its steps in total. Phases contain others."""


def error_log(trt: Any, errors: list[str]) -> Any:
    """Return a logger that keeps errors, and nothing else."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                errors.append(message)

    return Logger()


def monitor(trt: Any, progress: BuildProgress, raised: list[BaseException]) -> Any:
    """Return a monitor for ``progress``. What that raises goes to ``raised``, and stops it."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, _parent: str | None, steps: int) -> None:
            self._steps[phase] = steps
            self._tell(phase, 0)

        def phase_finish(self, phase: str) -> None:
            self._tell(phase, self._steps[phase])

        def step_complete(self, phase: str, step: int) -> bool:
            self._tell(phase, step + 1)
            return not raised

        def _tell(self, phase: str, done: int) -> None:
            if raised:
                return
            try:
                progress(phase, done, self._steps[phase])
            except BaseException as error:
                raised.append(error)

    return Monitor()


def writer(trt: Any, stream: BinaryIO, raised: list[BaseException]) -> Any:
    """Return a writer to ``stream``. What that raises goes to ``raised``, and stops it."""

    class Writer(trt.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def write(self, data: bytes) -> int:
            if raised:
                return 0
            try:
                return stream.write(data)
            except OSError as error:
                raised.append(error)
                return 0

    return Writer()
