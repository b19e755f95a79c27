"""What a hive does wrong: it is away, slow, broken, or does not know the worker's token."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from rbee_bench.faults.case import SERVES_ON, Broken, Case, Model
from rbee_bench.faults.worker import Worker, started, until
from rbee_bench.hive_stand_in import BEAT, HEALTH_BEAT, READY, Answer, Hive

_NOWHERE = "http://127.0.0.1:9"


def _down(model: Model) -> None:
    flags = ("--callback-url", _NOWHERE + READY, "--callback-max-retries", "1")
    with started(model, *flags) as worker:
        worker.must_end(4, "the ready callback")


def _down_for_heartbeats(model: Model) -> None:
    with started(model, "--hive-url", _NOWHERE) as worker:
        worker.until_ready()
        _until_a_heartbeat_fails(worker)
        worker.must_serve()
        worker.must_stop()


def _dies(model: Model) -> None:
    with ExitStack() as life:
        hive = life.enter_context(Hive())
        flags = ("--callback-url", hive.url + READY, "--queen-url", hive.url)
        with started(model, *flags) as worker:
            hive.wait_for(HEALTH_BEAT)
            life.close()
            _until_a_heartbeat_fails(worker)
            worker.must_serve()
            worker.must_stop()


def _until_a_heartbeat_fails(worker: Worker) -> None:
    until(lambda: "A heartbeat failed" in worker.said(), "a failed heartbeat")


def _callback(*script: Answer) -> Callable[[Model], None]:
    def run(model: Model) -> None:
        with Hive() as hive:
            hive.answer(READY, script)
            with started(model, "--callback-url", hive.url + READY) as worker:
                hive.wait_for(READY, len(script), 20)
                hive.wait_for(HEALTH_BEAT, timeout=20)
                worker.must_serve()
                worker.must_stop()

    return run


def _callback_refused(model: Model) -> None:
    with Hive() as hive:
        hive.answer(READY, [401])
        with started(model, "--callback-url", hive.url + READY) as worker:
            worker.must_end(4, "status 401")
        if len(hive.received(READY)) != 1:
            raise Broken("asked again")


def _heartbeats(answer: Answer) -> Callable[[Model], None]:
    def run(model: Model) -> None:
        with Hive() as hive:
            hive.answer(BEAT, [answer])
            with started(model, "--hive-url", hive.url) as worker:
                hive.wait_for(BEAT)
                worker.until_ready()
                worker.must_serve()
                if answer != "hang":
                    hive.wait_for(BEAT, 4)
                # The last heartbeat is waited for, but not for ever.
                worker.must_stop()

    return run


_RETRIES = f"retries; {SERVES_ON}"
_GIVES_UP = f"gives up after 5 s, {_RETRIES}"

CASES = (
    Case("hive down", "at start, callback", "retries, then 4 with one line", _down),
    Case("hive down", "at start, heartbeats", SERVES_ON, _down_for_heartbeats),
    Case("hive dies", "after ready", SERVES_ON, _dies),
    Case("hive slow", "callback", SERVES_ON, _callback("slow")),
    Case("hive answers 500", "callback", _RETRIES, _callback(500, 200)),
    Case("hive closes mid-body", "callback", _RETRIES, _callback("cut", 200)),
    Case("hive closes at once", "callback", _RETRIES, _callback("drop", 200)),
    Case("hive hangs", "callback", _GIVES_UP, _callback("hang", 200)),
    Case("hive hangs", "heartbeats", SERVES_ON, _heartbeats("hang")),
    Case("hive answers 500", "heartbeats", SERVES_ON, _heartbeats(500)),
    Case("hive closes mid-body", "heartbeats", SERVES_ON, _heartbeats("cut")),
    Case("token wrong", "callback", "4 with one line, at once", _callback_refused),
    Case("token wrong", "heartbeats", SERVES_ON, _heartbeats(401)),
)
