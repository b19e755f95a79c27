"""Does in a check's place what no check should.

Run as a program with the name of what to do, as ``gpu_check.child`` is with a check's: ``hang``,
``crash``, ``die``; or end as a check does, as ``passed``. It imports next to nothing, so that tests
of what is ended after a time are not tests of how long imports take.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time

from gpu_check import child
from gpu_check.plan import Check


def misbehave(how: str) -> None:
    """Find something, and then do what no check should."""
    report = child.Report(os.dup(1), None)  # type: ignore[arg-type]
    report.row(what="found in time", holds=True)
    if how == "crash":
        print("what it said last", file=sys.stderr, flush=True)
        sys.exit(3)
    if how == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "hang":
        time.sleep(1000)
    report.end(child.Status(how))


wrong = functools.partial(Check, entry="", needs=())
"""``wrong(name)``: a check that misbehaves so."""

if __name__ == "__main__":
    misbehave(sys.argv[1])
