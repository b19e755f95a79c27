"""A worker to which something is done, and which is held to what it must do then."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from rbee_bench.faults.case import Broken, Model
from rbee_bench.faults.stream import Stream, job
from rbee_bench.faulty_worker import Plan
from rbee_bench.hive_stand_in import BEAT, Hive
from rbee_bench.sse_client import events
from rbee_bench.worker_process import PROGRAM, WorkerProcess, started_worker

_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Worker:
    """A started worker. What it must do and does not do raises :class:`Broken`.

    Attributes:
        process: The process.
        token: What it wants of its clients; empty for none.
    """

    process: WorkerProcess
    token: str = ""

    def until_ready(self) -> None:
        """Wait until it takes work; see :meth:`WorkerProcess.until_ready`."""
        self.process.until_ready(self.token)

    def said(self) -> str:
        """Return what it has written so far."""
        return "\n".join(self.process.said())

    def client(self, token: str | None = None) -> httpx.Client:
        """Return a client with this token, or with the right one."""
        token = self.token if token is None else token
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.process.url, headers=headers, timeout=_PATIENCE_SECONDS)

    def ask(self, tokens: int = 400, prompt: str = "once upon a time") -> Stream:
        """Ask for a completion on a connection of its own."""
        return Stream(self.process.port, job(tokens, prompt))

    def tell_to_stop(self) -> None:
        """Send it SIGTERM."""
        self.process.send(signal.SIGTERM)

    def must_serve(self) -> None:
        """Hold the worker to being well and idle, and to completing something."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        with self.client() as client:
            if client.get("/health").status_code != 200:
                raise Broken("is unhealthy")
            while (ready := client.get("/v1/ready").json()).get("state") != "idle":
                if time.monotonic() > deadline:
                    raise Broken(f"is still {ready.get('state')}")
                time.sleep(0.02)
            answer = client.post("/v1/inference", json=job(2))
        if answer.status_code != 200 or events(answer.content)[-1]["type"] != "end":
            raise Broken(f"did not complete a prompt: {answer.text[-200:]}")

    def must_end(self, code: int, line: str = "", within: float = 20.0) -> None:
        """Hold the worker to ending by itself.

        Args:
            code: Its exit code.
            line: Part of the one line in which it complains; empty if it must not.
            within: Seconds it may take.
        """
        found = self.process.ended(within)
        if found is None:
            raise Broken(f"still runs after {within:.0f} s")
        lines = self.process.said()
        if found != code:
            raise Broken(f"ended with {found}, not with {code}: {lines[-1:]}")
        complaints = [said for said in lines if said.startswith("rbee-worker: ")]
        if (len(complaints) == 1) != bool(line) or not all(line in said for said in complaints):
            raise Broken(f"complained {complaints}, not of {line!r}")

    def must_stop(self, within: float = 20.0) -> None:
        """Tell the worker to stop, and hold it to doing so without a complaint."""
        self.tell_to_stop()
        self.must_end(0, within=within)


@contextmanager
def started(
    model: Model, *flags: str, plan: Plan | None = None, token: str = "", **settings: Any
) -> Iterator[Worker]:
    """Start a worker of one slot; stop it after the block if it still runs.

    Args:
        model: What it serves.
        flags: More of its command line.
        plan: What its engine does wrong, where it does.
        token: What it wants of its clients; empty for none.
        settings: As of :func:`~rbee_bench.worker_process.started_worker`.
    """
    program: tuple[str, ...] = PROGRAM
    if plan is not None:
        document = json.dumps(asdict(plan))
        program = (sys.executable, "-m", "rbee_bench.faulty_worker", document)
    if token:
        settings["environment"] = {"LLORCH_API_TOKEN": token}
        flags = (*flags, "--host", "127.0.0.1")
    common = ("--model", str(model.artifact), "--heartbeat-interval", "0.3", "--slots", "1")
    with started_worker(*common, *flags, program=program, **settings) as process:
        yield Worker(process, token)


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds.

    Raises:
        Broken: It did not come to that; ``what`` says to what.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise Broken(f"{what}: not within {_PATIENCE_SECONDS:.0f} s")
        time.sleep(0.02)


def must_know_of_the_end(hive: Hive) -> None:
    """Hold a worker to having told its hive, with its last heartbeat, that it stopped."""
    if hive.received(BEAT)[-1].body["worker"]["status"] != "stopped":
        raise Broken("did not tell the hive")
