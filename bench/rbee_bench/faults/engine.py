"""What the engine does wrong: it refuses, raises what nobody expects, or does not come back."""

from __future__ import annotations

from collections.abc import Callable

from rbee_bench.faults.case import SERVES_ON, Broken, Case, Model
from rbee_bench.faults.worker import must_know_of_the_end, started
from rbee_bench.faulty_worker import Plan
from rbee_bench.hive_stand_in import Hive

_FAILED = b'"code":"INFERENCE_FAILED"'


def _load_fails(kind: str) -> Callable[[Model], None]:
    def run(model: Model) -> None:
        with started(model, plan=Plan(stage="load", kind=kind)) as worker:
            worker.must_end(3, "as planned")

    return run


def _refuses(stage: str) -> Callable[[Model], None]:
    def run(model: Model) -> None:
        with started(model, plan=Plan(stage=stage)) as worker:
            worker.until_ready()
            worker.ask().must_end(_FAILED)
            worker.must_serve()
            worker.must_stop()

    return run


def _dies(stage: str, kind: str, reason: str) -> Callable[[Model], None]:
    def run(model: Model) -> None:
        plan = Plan(stage=stage, kind=kind, step_seconds=0.1, step_limit=1.0)
        with Hive() as hive, started(model, "--hive-url", hive.url, plan=plan) as worker:
            worker.until_ready()
            streams = [worker.ask() for _ in range(3)]
            for stream in streams:
                stream.must_end(_FAILED)
            with worker.client() as client:
                status = client.get("/health").status_code
            if status != 503:
                raise Broken(f"/health answered {status}")
            worker.must_end(6, reason)
            must_know_of_the_end(hive)

    return run


def _raises(stage: str) -> Callable[[Model], None]:
    return _dies(stage, "crash", "the engine stopped: MemoryError")


def _hangs(stage: str) -> Callable[[Model], None]:
    return _dies(stage, "hang", "has not come back within")


_COMPLAINS = "3 with one line"
_FAILS_ONE = f"error, [DONE]; {SERVES_ON}"
_FAILS_ALL = "error, [DONE] to all; /health 503; stopped; 6 with one line"
_GIVES_UP = f"gives the step up; {_FAILS_ALL}"

CASES = (
    Case("engine refuses", "loading", _COMPLAINS, _load_fails("fault")),
    Case("engine raises", "loading", _COMPLAINS, _load_fails("crash")),
    Case("engine refuses", "prefill", _FAILS_ONE, _refuses("prefill")),
    Case("engine refuses", "decode", _FAILS_ONE, _refuses("decode")),
    Case("engine raises", "prefill", _FAILS_ALL, _raises("prefill")),
    Case("engine raises", "decode", _FAILS_ALL, _raises("decode")),
    Case("engine hangs", "prefill", _GIVES_UP, _hangs("prefill")),
    Case("engine hangs", "decode", _GIVES_UP, _hangs("decode")),
)
