"""A worker process around an engine that never finishes, for tests of signals.

With ``--loads-forever`` as its first argument it never gets that far.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from stand_in import Gate, StandInEngine

from rbee_runtime.events import Event, Piece, Started
from rbee_runtime.request import Request
from rbee_service.address import listen
from rbee_service.logs import configure_logging
from rbee_service.options import parse_options
from rbee_service.worker import Worker


def endless(_: Request) -> Iterator[Event]:
    yield Started(3, 7)
    yield Piece("x", 1)


async def live(arguments: list[str], gate: Gate) -> None:
    options = parse_options(arguments, os.environ)
    await Worker(options, listen(options.host, options.port), os.environ, gate).run()


def main() -> None:
    arguments = sys.argv[1:]
    gate = Gate(StandInEngine(endless))
    if arguments[0] == "--loads-forever":
        del arguments[0]
    else:
        gate.open()
    configure_logging("console")
    asyncio.run(live(arguments, gate))


if __name__ == "__main__":
    main()
    sys.stderr.flush()
    # As the program does: a loader in its thread is not waited for.
    os._exit(0)
