"""``gpu-check``: is the CUDA backend right, and how fast is it, on the GPU of this machine?"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from gpu_check import found
from gpu_check.outcome import Outcome, Status
from gpu_check.plan import CHECKS, OURS, PROVIDER, Check
from gpu_check.report import Document
from gpu_check.running import run_all

FAILED, BAD_ARGUMENTS, NO_GPU, INTERRUPTED = 1, 2, 5, 130

_RESULTS = Path(__file__).parent.parent / "results"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line."""
        self.exit(BAD_ARGUMENTS, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(
    arguments: Sequence[str] | None = None,
    *,
    child: Sequence[str] = (sys.executable, "-m", "gpu_check.child"),
    missing_gpu: Callable[[], str | None] = found.missing_gpu,
) -> int:
    """Run the checks and keep what they find.

    Args:
        arguments: Of the command line.
        child: What runs a check, its name apart.
        missing_gpu: Says what is missing for the use of a GPU.

    Returns:
        The exit code: 0 every check that ran passed, 1 one failed or a figure is not reached, 2 bad
        arguments, 5 no GPU or no library to use it, 130 interrupted.
    """
    asked = _parser().parse_args(arguments)
    checks = [c for c in CHECKS if not asked.only or c.name in (*asked.only, PROVIDER)]
    lacking = missing_gpu()
    absent = found.missing_modules(OURS) if lacking is None else []
    if absent:
        lacking = found.wheels(absent)
    if lacking is not None:
        print(f"gpu-check: {lacking}", file=sys.stderr)
        return NO_GPU
    document = Document(asked.out or _RESULTS, datetime.date.today(), [c.name for c in checks])
    try:
        asyncio.run(_run(checks, child, asked.minutes * 60, document))
    except KeyboardInterrupt:
        print("gpu-check: interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        print(f"gpu-check: the results cannot be kept: {error}", file=sys.stderr)
        return FAILED
    without = next((o for o in document.outcomes if o.status is Status.MISSING), None)
    if without is not None:
        print(f"gpu-check: {without.why}", file=sys.stderr)
        return NO_GPU
    for file in document.files:
        print(file)
    return 0 if document.holds else FAILED


async def _run(
    checks: Sequence[Check], child: Sequence[str], seconds: float, document: Document
) -> None:
    able = []
    for check in checks:
        absent = found.missing_modules(check.needs)
        if absent:
            _tell(document, Outcome(check.name, Status.SKIPPED, found.wheels(absent)))
        else:
            able.append(check)
    await run_all(able, child, found.environment, seconds, lambda one: _tell(document, one))


def _tell(document: Document, outcome: Outcome) -> None:
    document.add(outcome)
    why = f": {outcome.why}" if outcome.why else ""
    print(f"{outcome.name}: {outcome.status}, {outcome.seconds:.0f} s{why}", flush=True)


def _parser() -> _Parser:
    parser = _Parser(prog="gpu-check", description=__doc__)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where to keep the results (default: bench/results)"
    )
    parser.add_argument(
        "--minutes",
        type=_minutes,
        default=8.0,
        metavar="N",
        help="time for all of it (default: %(default)g)",
    )
    names = [check.name for check in CHECKS]
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="CHECK", help=f"of {', '.join(names)}"
    )
    return parser


def _minutes(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 1440.0:
        raise argparse.ArgumentTypeError("must be above 0, and less than a day")
    return value


def slug(name: str) -> str:
    """Return a GPU's name as part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"
