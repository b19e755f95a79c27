"""What clients do wrong: they have the wrong token, or go away."""

from __future__ import annotations

import socket
from collections.abc import Callable

from rbee_bench.faults.case import SERVES_ON, Broken, Case, Model
from rbee_bench.faults.stream import job
from rbee_bench.faults.worker import Worker, started, until
from rbee_bench.faulty_worker import Plan

_LONG_PROMPT = "one two three four five six seven eight nine ten " * 12


def _wrong_token(model: Model) -> None:
    with started(model, token="right") as worker:
        worker.until_ready()
        with worker.client("wrong") as client:
            status = client.post("/v1/inference", json=job()).status_code
        if status != 401:
            raise Broken(f"answered {status}")
        worker.must_serve()
        if "right" in worker.said() or "wrong" in worker.said():
            raise Broken("logged a token")
        worker.must_stop()


def _vanishes(how: Callable[[Worker], None]) -> Callable[[Model], None]:
    def run(model: Model) -> None:
        plan = Plan(step_seconds=0.03)
        with started(model, "--max-prefill-chunk", "4", plan=plan) as worker:
            worker.until_ready()
            how(worker)
            # Idle again long before what was asked for could have been computed.
            worker.must_serve()
            worker.must_stop()

    return run


def _before_it_asks(worker: Worker) -> None:
    socket.create_connection(("127.0.0.1", worker.process.port)).close()


def _before_the_first_byte(worker: Worker) -> None:
    worker.ask(prompt=_LONG_PROMPT).leave()


def _queued(worker: Worker) -> None:
    first = worker.ask()
    first.until(b'"output"')
    second = worker.ask()
    second.until(b'"accept"')
    second.leave()
    _until_cancelled(worker)
    first.leave()


def _in_prefill(worker: Worker) -> None:
    stream = worker.ask(prompt=_LONG_PROMPT)
    stream.until(b'"prefill"')
    stream.leave()
    _until_cancelled(worker)


def _decoding(worker: Worker) -> None:
    stream = worker.ask()
    stream.until(b'"output"')
    stream.leave()
    _until_cancelled(worker)


def _until_cancelled(worker: Worker) -> None:
    until(lambda: worker.said().count("not read to its end") == 1, "it is cancelled")


_CANCELS = f"cancels within a step; {SERVES_ON}"

CASES = (
    Case("token wrong", "of a client", f"401; {SERVES_ON}", _wrong_token),
    Case("client vanishes", "before it asks", _CANCELS, _vanishes(_before_it_asks)),
    Case("client vanishes", "before the first byte", _CANCELS, _vanishes(_before_the_first_byte)),
    Case("client vanishes", "queued", _CANCELS, _vanishes(_queued)),
    Case("client vanishes", "prefill", _CANCELS, _vanishes(_in_prefill)),
    Case("client vanishes", "decoding", _CANCELS, _vanishes(_decoding)),
)
