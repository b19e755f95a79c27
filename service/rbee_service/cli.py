"""The program ``rbee-worker``."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rbee_service.address import AddressFault, listen
from rbee_service.exit_codes import ExitCode, WorkerFault
from rbee_service.lean_imports import without
from rbee_service.options import LOG_FORMAT_VARIABLE, PROGRAM, Options, UsageFault, parse_options

if TYPE_CHECKING:
    from rbee_service.model_loader import Loader


def main(arguments: Sequence[str] | None = None, load: Loader | None = None) -> int:
    """Run a worker until it is told to stop; return its exit code.

    Args:
        arguments: Its command line; ``None`` takes that of the process.
        load: Brings the model in; ``None`` takes what the runtime has for it.
    """
    _have_standard_streams()
    try:
        options = parse_options(sys.argv[1:] if arguments is None else arguments, os.environ)
        listener = listen(options.host, options.port)
    except UsageFault as fault:
        _complain(*fault.lines)
        return ExitCode.BAD_ARGUMENTS
    except AddressFault as fault:
        _complain(str(fault))
        return ExitCode.BAD_ARGUMENTS
    code = _serve(options, listener, load)
    if threading.active_count() > 1:
        # A thread is still inside native code (a model that was loading when the signal came):
        # it cannot be stopped, and the interpreter must not be taken down under it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _serve(options: Options, listener: socket.socket, load: Loader | None) -> ExitCode:
    # The socket already accepts; what these import takes most of the time until it answers. All of
    # it stays: it is no garbage to look for, now or in the pauses of a worker that serves.
    gc.disable()
    with without("click", "rich"):  # a sixth of that time, for programs of httpx and structlog
        from structlog import get_logger

        from rbee_service.logs import configure_logging
        from rbee_service.model_loader import load_model
        from rbee_service.worker import Worker
    gc.freeze()
    gc.enable()

    async def live() -> None:
        await Worker(options, listener, os.environ, load or load_model).run()

    configure_logging(options.log_style)
    asked = os.environ.get(LOG_FORMAT_VARIABLE)
    if options.log_style == "console" and asked not in (None, "", "console"):
        # The hive's own variable, for more than its workers: none of them stays away for it.
        get_logger().warning(f"{LOG_FORMAT_VARIABLE} may be json or console, not {asked!r}")
    try:
        asyncio.run(live())
    except KeyboardInterrupt:
        # Ctrl-C before the worker listens to signals: there is nothing to stop yet.
        return ExitCode.STOPPED
    except WorkerFault as fault:
        _complain(str(fault))
        return fault.code
    return ExitCode.STOPPED


def _have_standard_streams() -> None:
    # Where the parent closed them, the next files and sockets would get their numbers, and native
    # libraries write their warnings to number 2.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _complain(*lines: str) -> None:
    for line in lines:
        print(f"{PROGRAM}: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
