"""The installed programs, each from before its first import on.

What they import takes up to a second, and cannot be interrupted cleanly: a Ctrl-C was a traceback,
or, from inside of a native library, an error that named another cause. So nothing is imported here
before there is somebody to take it.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import Final

_FAILED: Final = 1
_UNUSABLE: Final = 3
_INTERRUPTED: Final = 130
_MORE: Final = "give the process more memory (ulimit -v)"


def export() -> int:
    """Be ``rbee-export``; return its exit code."""
    return _run("rbee-export", "rbee_export.cli", _UNUSABLE)


def generate() -> int:
    """Be ``rbee-generate``; return its exit code."""
    return _run("rbee-generate", "rbee_runtime.cli", _FAILED)


def embed() -> int:
    """Be ``rbee-embed``; return its exit code."""
    return _run("rbee-embed", "rbee_runtime.embed_cli", _FAILED)


def bench() -> int:
    """Be ``rbee-bench``; return its exit code."""
    return _run("rbee-bench", "rbee_bench.cli", _FAILED)


def worker() -> int:
    """Be ``rbee-worker``; return its exit code.

    Until it listens to signals itself there is nothing to finish when it is told to stop.
    """
    _leave_on(signal.SIGTERM, 0)
    return _run("rbee-worker", "rbee_service.cli", _UNUSABLE, interrupted=0)


def _run(name: str, module: str, failed: int, interrupted: int = _INTERRUPTED) -> int:
    interrupt = signal.getsignal(signal.SIGINT)
    _leave_on(signal.SIGINT, interrupted)
    _write_any_text()
    try:
        # All that is imported stays: it is no garbage to look for, now or at the end.
        gc.disable()
        program = import_module(module)
        gc.freeze()
        gc.enable()
        # A worker imports more, and has signals told to its event loop after that.
        if interrupted:
            signal.signal(signal.SIGINT, interrupt)
        return int(program.main())
    except KeyboardInterrupt:
        return interrupted
    except ModuleNotFoundError:
        raise
    except MemoryError:
        print(f"{name}: out of memory; {_MORE}", file=sys.stderr)
    except ImportError as error:
        # Libraries explain their failure at length, and the cause last.
        why = str(error).strip().rpartition("\n")[2]
        remedy = f"{_MORE}, or install the program again"
        print(f"{name}: a library cannot be loaded: {why}; {remedy}", file=sys.stderr)
    return failed


def _write_any_text() -> None:
    """Have what standard output's encoding lacks written as Python, and mostly JSON, escape it."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _leave_on(number: signal.Signals, code: int) -> None:
    """End the process at once on a signal, with this exit code; one that is ignored stays so."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        # An exception would be raised inside of an import, which may make another of it.
        os._exit(code)

    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, leave)
