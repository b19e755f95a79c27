"""Everything that goes wrong, one after the other, and what the worker did."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import httpx

from rbee_bench.faults import clients, engine, hive, host, signals
from rbee_bench.faults.case import Broken, Case, Model
from rbee_bench.sse_client import StreamFault
from rbee_bench.subject import Progress
from rbee_bench.worker_process import StartFault

_CASE_SECONDS = 60.0

CASES: tuple[Case, ...] = (
    *hive.CASES,
    *clients.CASES,
    *engine.CASES,
    *host.CASES,
    *signals.CASES,
)


@dataclass(frozen=True, slots=True)
class FaultRow:
    """One thing that went wrong.

    Attributes:
        fault: What.
        stage: When.
        did: What the worker did.
        held: Whether that is what it must do.
        seconds: That it took, the start of the worker included.
    """

    fault: str
    stage: str
    did: str
    held: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Faults:
    """All that went wrong."""

    rows: tuple[FaultRow, ...]

    @property
    def held(self) -> bool:
        """Whether the worker did what it must, every time."""
        return all(row.held for row in self.rows)


def measure_faults(model: Model, progress: Progress) -> Faults:
    """Let everything go wrong, one after the other."""
    rows = []
    for number, case in enumerate(CASES):
        progress(f"{case.fault}, {case.stage}", number, len(CASES))
        rows.append(run_case(case, model))
    return Faults(tuple(rows))


def run_case(case: Case, model: Model) -> FaultRow:
    """Let one thing go wrong; a worker that hangs does not hang the caller."""
    said: list[str] = []

    def run() -> None:
        try:
            case.run(model)
        except (Broken, StartFault, StreamFault, OSError, httpx.HTTPError, AssertionError) as fault:
            said.append(f"{type(fault).__name__}: {fault}")

    began = time.monotonic()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_CASE_SECONDS)
    if thread.is_alive():
        said.append(f"nothing within {_CASE_SECONDS:.0f} s")
    did = said[0] if said else case.expected
    return FaultRow(case.fault, case.stage, did, not said, time.monotonic() - began)
