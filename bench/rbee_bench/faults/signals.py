"""A worker is told to stop, whatever it is doing."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from rbee_bench.faults.case import Case, Model
from rbee_bench.faults.stream import job
from rbee_bench.faults.worker import Worker, must_know_of_the_end, started, until
from rbee_bench.faulty_worker import Plan
from rbee_bench.hive_stand_in import BEAT, Hive
from rbee_service.worker import SAME_SIGNAL


def _loading(model: Model) -> None:
    with Hive() as hive:
        plan = Plan(load_seconds=30.0)
        with started(model, "--hive-url", hive.url, plan=plan) as worker:
            hive.wait_for(BEAT)
            worker.must_stop(within=10.0)
        must_know_of_the_end(hive)


def _idle(model: Model) -> None:
    with Hive() as hive:
        with started(model, "--hive-url", hive.url) as worker:
            worker.until_ready()
            worker.must_stop(within=10.0)
        must_know_of_the_end(hive)


def _streaming(grace: str, ending: bytes) -> Callable[[Model], None]:
    def run(model: Model) -> None:
        with started(model, "--grace", grace, plan=Plan(step_seconds=0.02)) as worker:
            worker.until_ready()
            stream = worker.ask(60)
            stream.until(b'"output"')
            worker.tell_to_stop()
            _until_it_refuses(worker)
            stream.must_end(ending)
            worker.must_end(0)

    return run


def _draining(model: Model) -> None:
    with started(model, "--grace", "3600", plan=Plan(step_seconds=0.05)) as worker:
        worker.until_ready()
        stream = worker.ask()
        stream.until(b'"output"')
        worker.tell_to_stop()
        _until_it_refuses(worker)
        time.sleep(SAME_SIGNAL)
        worker.tell_to_stop()
        # A signal's code is negative where the shell would add it to 128: this one is no death.
        worker.must_end(128 + signal.SIGTERM, within=5.0)


def _until_it_refuses(worker: Worker) -> None:
    def refuses() -> bool:
        with worker.client() as client:
            return client.post("/v1/inference", json=job()).status_code == 503

    until(refuses, "new work is refused")


CASES = (
    Case("SIGTERM", "loading", "stopped; 0 at once", _loading),
    Case("SIGTERM", "idle", "stopped; 0 at once", _idle),
    Case(
        "SIGTERM",
        "streaming, within the grace",
        "refuses new work, finishes; 0",
        _streaming("30", b'"stop_reason":"MAX_TOKENS"'),
    ),
    Case(
        "SIGTERM",
        "streaming, beyond it",
        "refuses new work, CANCELLED, [DONE]; 0",
        _streaming("0.3", b'"stop_reason":"CANCELLED"'),
    ),
    Case("SIGTERM", "draining", "143 at once", _draining),
)
