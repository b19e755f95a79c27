"""What a worker does when the hive, a client, its engine, its disk or its clock fails it."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from rbee_bench.faulty_worker import Plan
from rbee_bench.hive_stand_in import Answer, Hive
from rbee_bench.sse_client import StreamFault, events
from rbee_bench.subject import Progress
from rbee_bench.worker_process import PROGRAM, StartFault, WorkerProcess, started_worker

_READY, _BEAT, _HEALTH_BEAT = "/v1/workers/ready", "/v1/worker-heartbeat", "/v1/heartbeat"
_PATIENCE_SECONDS = 10.0
_CASE_SECONDS = 60.0
_LONG_PROMPT = "one two three four five six seven eight nine ten " * 12
_NOWHERE = "http://127.0.0.1:9"


class Broken(Exception):
    """The worker did not do what it must; one line says what it did."""


@dataclass(frozen=True, slots=True)
class Model:
    """What the workers serve.

    Attributes:
        artifact: An artifact.
        checkpoint: Something that can be exported.
    """

    artifact: Path
    checkpoint: Path


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that goes wrong.

    Attributes:
        fault: What.
        stage: When.
        expected: What the worker must do then, in the words of the table.
        run: Makes it happen. Raises :class:`Broken` if the worker does something else.
    """

    fault: str
    stage: str
    expected: str
    run: Callable[[Model], None]


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


# Workers


@contextmanager
def _worker(
    model: Model, *flags: str, plan: Plan | None = None, token: str = "", **settings: Any
) -> Iterator[WorkerProcess]:
    program: tuple[str, ...] = PROGRAM
    if plan is not None:
        document = json.dumps(asdict(plan))
        program = (sys.executable, "-m", "rbee_bench.faulty_worker", document)
    if token:
        settings["environment"] = {"LLORCH_API_TOKEN": token}
        flags = (*flags, "--host", "127.0.0.1")
    common = ("--model", str(model.artifact), "--heartbeat-interval", "0.3", "--slots", "1")
    with started_worker(*common, *flags, program=program, **settings) as worker:
        yield worker


def _ends(worker: WorkerProcess, code: int, line: str = "", within: float = 20.0) -> None:
    found = worker.ended(within)
    if found is None:
        raise Broken(f"still runs after {within:.0f} s")
    if found != code:
        raise Broken(f"ended with {found}, not with {code}: {worker.said()[-1:]}")
    complaints = [said for said in worker.said() if said.startswith("rbee-worker: ")]
    if (len(complaints) == 1) != bool(line) or not all(line in said for said in complaints):
        raise Broken(f"complained {complaints}, not of {line!r}")


def _stops(worker: WorkerProcess, within: float = 20.0) -> None:
    worker.send(signal.SIGTERM)
    _ends(worker, 0, within=within)


def _serves(worker: WorkerProcess, token: str = "") -> None:
    """Hold the worker to being well and idle, and to completing something."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with _client(worker, token) as client:
        if client.get("/health").status_code != 200:
            raise Broken("is unhealthy")
        while (ready := client.get("/v1/ready").json()).get("state") != "idle":
            if time.monotonic() > deadline:
                raise Broken(f"is still {ready.get('state')}")
            time.sleep(0.02)
        answer = client.post("/v1/inference", json=_job(2))
    if answer.status_code != 200 or events(answer.content)[-1]["type"] != "end":
        raise Broken(f"did not complete a prompt: {answer.text[-200:]}")


def _client(worker: WorkerProcess, token: str = "") -> httpx.Client:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=worker.url, headers=headers, timeout=_PATIENCE_SECONDS)


def _job(tokens: int = 400, prompt: str = "once upon a time") -> dict[str, Any]:
    return {"job_id": "j", "prompt": prompt, "max_tokens": tokens, "temperature": 0.0}


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise Broken(f"{what}: not within {_PATIENCE_SECONDS:.0f} s")
        time.sleep(0.02)


class _Stream:
    """A client's connection on which a completion was asked for."""

    def __init__(self, worker: WorkerProcess, job: dict[str, Any]) -> None:
        body = json.dumps(job).encode()
        head = f"POST /v1/inference HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket = socket.create_connection(("127.0.0.1", worker.port), _PATIENCE_SECONDS)
        self._socket.sendall(head.encode() + body)
        self.read = b""

    def until(self, needle: bytes) -> None:
        """Read until ``needle`` has come."""
        while needle not in self.read:
            piece = self._socket.recv(65536)
            if not piece:
                raise Broken(f"closed a stream before {needle!r}: {self.read[-200:]!r}")
            self.read += piece

    def ends(self, needle: bytes) -> None:
        """Read to the end, which must be ``[DONE]`` after an event with ``needle`` in it."""
        self.until(b"data: [DONE]\n\n")
        last = self.read.split(b"\n\n")[-3]
        if needle not in last:
            raise Broken(f"ended a stream with {last!r}")

    def leave(self) -> None:
        """Go away."""
        self._socket.close()


# The hive


def _hive_down(model: Model) -> None:
    flags = ("--callback-url", _NOWHERE + _READY, "--callback-max-retries", "1")
    with _worker(model, *flags) as worker:
        _ends(worker, 4, "the ready callback")


def _hive_down_for_heartbeats(model: Model) -> None:
    with _worker(model, "--hive-url", _NOWHERE) as worker:
        worker.until_ready()
        _until(lambda: "A heartbeat failed" in "\n".join(worker.said()), "a failed heartbeat")
        _serves(worker)
        _stops(worker)


def _hive_dies(model: Model) -> None:
    with ExitStack() as life:
        hive = life.enter_context(Hive())
        flags = ("--callback-url", hive.url + _READY, "--queen-url", hive.url)
        with _worker(model, *flags) as worker:
            hive.wait_for(_HEALTH_BEAT)
            life.close()
            _until(lambda: "A heartbeat failed" in "\n".join(worker.said()), "a failed heartbeat")
            _serves(worker)
            _stops(worker)


def _callback(*script: Answer) -> Callable[[Model], None]:
    def run(model: Model) -> None:
        with Hive() as hive:
            hive.answer(_READY, script)
            with _worker(model, "--callback-url", hive.url + _READY) as worker:
                hive.wait_for(_READY, len(script), 20)
                hive.wait_for(_HEALTH_BEAT, timeout=20)
                _serves(worker)
                _stops(worker)

    return run


def _callback_refused(model: Model) -> None:
    with Hive() as hive:
        hive.answer(_READY, [401])
        with _worker(model, "--callback-url", hive.url + _READY) as worker:
            _ends(worker, 4, "status 401")
        if len(hive.received(_READY)) != 1:
            raise Broken("asked again")


def _heartbeats(answer: Answer) -> Callable[[Model], None]:
    def run(model: Model) -> None:
        with Hive() as hive:
            hive.answer(_BEAT, [answer])
            with _worker(model, "--hive-url", hive.url) as worker:
                hive.wait_for(_BEAT)
                worker.until_ready()
                _serves(worker)
                if answer != "hang":
                    hive.wait_for(_BEAT, 4)
                # The last heartbeat is waited for, but not for ever.
                _stops(worker)

    return run


# Clients


def _wrong_token(model: Model) -> None:
    with _worker(model, token="right") as worker:
        worker.until_ready("right")
        with _client(worker, "wrong") as client:
            status = client.post("/v1/inference", json=_job()).status_code
        if status != 401:
            raise Broken(f"answered {status}")
        _serves(worker, "right")
        if any("right" in line or "wrong" in line for line in worker.said()):
            raise Broken("logged a token")
        _stops(worker)


def _client_vanishes(stage: str) -> Callable[[Model], None]:
    def run(model: Model) -> None:
        plan = Plan(step_seconds=0.03)
        with _worker(model, "--max-prefill-chunk", "4", plan=plan) as worker:
            worker.until_ready()
            match stage:
                case "before it asks":
                    socket.create_connection(("127.0.0.1", worker.port)).close()
                case "before the first byte":
                    _Stream(worker, _job(prompt=_LONG_PROMPT)).leave()
                case "queued":
                    first = _Stream(worker, _job())
                    first.until(b'"output"')
                    second = _Stream(worker, _job())
                    second.until(b'"accept"')
                    second.leave()
                    _until(lambda: _cancelled(worker) == 1, "the queued one is cancelled")
                    first.leave()
                case "prefill":
                    stream = _Stream(worker, _job(prompt=_LONG_PROMPT))
                    stream.until(b'"prefill"')
                    stream.leave()
                    _until(lambda: _cancelled(worker) == 1, "it is cancelled")
                case "decoding":
                    stream = _Stream(worker, _job())
                    stream.until(b'"output"')
                    stream.leave()
                    _until(lambda: _cancelled(worker) == 1, "it is cancelled")
            # Idle again long before what was asked for could have been computed.
            _serves(worker)
            _stops(worker)

    return run


def _cancelled(worker: WorkerProcess) -> int:
    return "\n".join(worker.said()).count("not read to its end")


# The engine


def _engine_fails(stage: str) -> Callable[[Model], None]:
    def run(model: Model) -> None:
        with _worker(model, plan=Plan(stage=stage)) as worker:
            worker.until_ready()
            _Stream(worker, _job()).ends(b'"code":"INFERENCE_FAILED"')
            _serves(worker)
            _stops(worker)

    return run


def _engine_dies(stage: str, kind: str, reason: str) -> Callable[[Model], None]:
    def run(model: Model) -> None:
        plan = Plan(stage=stage, kind=kind, step_seconds=0.1, step_limit=1.0)
        with Hive() as hive, _worker(model, "--hive-url", hive.url, plan=plan) as worker:
            worker.until_ready()
            streams = [_Stream(worker, _job()) for _ in range(3)]
            for stream in streams:
                stream.ends(b'"code":"INFERENCE_FAILED"')
            with _client(worker) as client:
                status = client.get("/health").status_code
            if status != 503:
                raise Broken(f"/health answered {status}")
            _ends(worker, 6, reason)
            if hive.received(_BEAT)[-1].body["worker"]["status"] != "stopped":
                raise Broken("did not tell the hive")

    return run


def _load_fails(kind: str) -> Callable[[Model], None]:
    def run(model: Model) -> None:
        with _worker(model, plan=Plan(stage="load", kind=kind)) as worker:
            _ends(worker, 3, "as planned")

    return run


# Disk and clock


def _no_room_for_an_export(model: Model) -> None:
    with tempfile.TemporaryDirectory() as cache:
        unexported = Model(model.checkpoint, model.checkpoint)
        settings: dict[str, Any] = {
            "environment": {"RBEE_ARTIFACT_CACHE": cache},
            "before": _fill_disk,
        }
        with _worker(unexported, **settings) as worker:
            _ends(worker, 3, "too large", within=50.0)
        if left := list(Path(cache).glob("**/artifact.json")):
            raise Broken(f"left {left[0]}")


def _fill_disk() -> None:
    # No file may become larger: what writes one is told so, as where the disk is full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


def _no_room_for_the_log(model: Model) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with _worker(model, stderr=full) as worker:
            worker.until_ready()
            _serves(worker)
            _stops(worker)
    finally:
        os.close(full)


def _clock_jumps(seconds: float) -> Callable[[Model], None]:
    def run(model: Model) -> None:
        plan = Plan(jump_seconds=seconds)
        with Hive() as hive, _worker(model, "--hive-url", hive.url, plan=plan) as worker:
            worker.until_ready()
            came = [beat.at for beat in hive.wait_for(_BEAT, 12)]
            gaps = [later - earlier for earlier, later in itertools.pairwise(came)]
            if max(gaps) > 2.3:
                raise Broken(f"sent no heartbeat for {max(gaps):.1f} s")
            _serves(worker)
            _stops(worker)

    return run


# Signals


def _told_to_stop_while_it_loads(model: Model) -> None:
    with Hive() as hive:
        plan = Plan(load_seconds=30.0)
        with _worker(model, "--hive-url", hive.url, plan=plan) as worker:
            hive.wait_for(_BEAT)
            _stops(worker, within=10.0)
        if hive.received(_BEAT)[-1].body["worker"]["status"] != "stopped":
            raise Broken("did not tell the hive")


def _told_to_stop_when_idle(model: Model) -> None:
    with Hive() as hive:
        with _worker(model, "--hive-url", hive.url) as worker:
            worker.until_ready()
            _stops(worker, within=10.0)
        if hive.received(_BEAT)[-1].body["worker"]["status"] != "stopped":
            raise Broken("did not tell the hive")


def _told_to_stop_while_it_streams(grace: str, ending: bytes) -> Callable[[Model], None]:
    def run(model: Model) -> None:
        with _worker(model, "--grace", grace, plan=Plan(step_seconds=0.02)) as worker:
            worker.until_ready()
            stream = _Stream(worker, _job(60))
            stream.until(b'"output"')
            worker.send(signal.SIGTERM)
            _until(lambda: _refuses(worker), "new work is refused")
            stream.ends(ending)
            _ends(worker, 0)

    return run


def _refuses(worker: WorkerProcess) -> bool:
    with _client(worker) as client:
        return client.post("/v1/inference", json=_job()).status_code == 503


def _told_twice(model: Model) -> None:
    with _worker(model, "--grace", "3600", plan=Plan(step_seconds=0.05)) as worker:
        worker.until_ready()
        stream = _Stream(worker, _job())
        stream.until(b'"output"')
        worker.send(signal.SIGTERM)
        _until(lambda: _refuses(worker), "new work is refused")
        worker.send(signal.SIGTERM)
        # A signal's code is negative where the shell would add it to 128: this one is no death.
        _ends(worker, 128 + signal.SIGTERM, within=5.0)


_ON = "serves on; 0 when told to stop"

CASES: tuple[Case, ...] = (
    Case("hive down", "at start, callback", "retries, then 4 with one line", _hive_down),
    Case("hive down", "at start, heartbeats", _ON, _hive_down_for_heartbeats),
    Case("hive dies", "after ready", _ON, _hive_dies),
    Case("hive slow", "callback", _ON, _callback("slow")),
    Case("hive answers 500", "callback", f"retries; {_ON}", _callback(500, 200)),
    Case("hive closes mid-body", "callback", f"retries; {_ON}", _callback("cut", 200)),
    Case("hive closes at once", "callback", f"retries; {_ON}", _callback("drop", 200)),
    Case("hive hangs", "callback", f"gives up after 5 s, retries; {_ON}", _callback("hang", 200)),
    Case("hive hangs", "heartbeats", _ON, _heartbeats("hang")),
    Case("hive answers 500", "heartbeats", _ON, _heartbeats(500)),
    Case("hive closes mid-body", "heartbeats", _ON, _heartbeats("cut")),
    Case("token wrong", "callback", "4 with one line, at once", _callback_refused),
    Case("token wrong", "heartbeats", _ON, _heartbeats(401)),
    Case("token wrong", "of a client", f"401; {_ON}", _wrong_token),
    *(
        Case("client vanishes", stage, f"cancels within a step; {_ON}", _client_vanishes(stage))
        for stage in ("before it asks", "before the first byte", "queued", "prefill", "decoding")
    ),
    Case("engine refuses", "loading", "3 with one line", _load_fails("fault")),
    Case("engine raises", "loading", "3 with one line", _load_fails("crash")),
    *(
        Case("engine refuses", stage, f"error, [DONE]; {_ON}", _engine_fails(stage))
        for stage in ("prefill", "decode")
    ),
    *(
        Case(
            "engine raises",
            stage,
            "error, [DONE] to all; /health 503; stopped; 6 with one line",
            _engine_dies(stage, "crash", "the engine stopped: MemoryError"),
        )
        for stage in ("prefill", "decode")
    ),
    *(
        Case(
            "engine hangs",
            stage,
            "gives the step up; error, [DONE] to all; /health 503; stopped; 6 with one line",
            _engine_dies(stage, "hang", "has not come back within"),
        )
        for stage in ("prefill", "decode")
    ),
    Case("disk full", "export on the spot", "3 with one line, no artifact", _no_room_for_an_export),
    Case("disk full", "log", _ON, _no_room_for_the_log),
    Case("clock jumps", "an hour ahead", f"heartbeats go on; {_ON}", _clock_jumps(3600.0)),
    Case("clock jumps", "an hour back", f"heartbeats go on; {_ON}", _clock_jumps(-3600.0)),
    Case("SIGTERM", "loading", "stopped; 0 at once", _told_to_stop_while_it_loads),
    Case("SIGTERM", "idle", "stopped; 0 at once", _told_to_stop_when_idle),
    Case(
        "SIGTERM",
        "streaming, within the grace",
        "refuses new work, finishes; 0",
        _told_to_stop_while_it_streams("30", b'"stop_reason":"MAX_TOKENS"'),
    ),
    Case(
        "SIGTERM",
        "streaming, beyond it",
        "refuses new work, CANCELLED, [DONE]; 0",
        _told_to_stop_while_it_streams("0.3", b'"stop_reason":"CANCELLED"'),
    ),
    Case("SIGTERM", "draining", "143 at once", _told_twice),
)
