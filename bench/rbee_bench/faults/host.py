"""What the machine does wrong: its disk is full, its clock jumps."""

from __future__ import annotations

import itertools
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

from rbee_bench.faults.case import SERVES_ON, Broken, Case, Model
from rbee_bench.faults.worker import started
from rbee_bench.faulty_worker import Plan
from rbee_bench.hive_stand_in import BEAT, Hive


def _no_room_for_an_export(model: Model) -> None:
    unexported = Model(model.checkpoint, model.checkpoint)
    with tempfile.TemporaryDirectory() as cache:
        environment = {"RBEE_ARTIFACT_CACHE": cache}
        with started(unexported, environment=environment, before=_fill_disk) as worker:
            worker.must_end(3, "too large", within=50.0)
        if left := list(Path(cache).glob("**/artifact.json")):
            raise Broken(f"left {left[0]}")


def _fill_disk() -> None:
    # No file may become larger: what writes one is told so, as where the disk is full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


def _no_room_for_the_log(model: Model) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with started(model, stderr=full) as worker:
            worker.until_ready()
            worker.must_serve()
            worker.must_stop()
    finally:
        os.close(full)


def _clock_jumps(seconds: float) -> Callable[[Model], None]:
    def run(model: Model) -> None:
        plan = Plan(jump_seconds=seconds)
        with Hive() as hive, started(model, "--hive-url", hive.url, plan=plan) as worker:
            worker.until_ready()
            came = [beat.at for beat in hive.wait_for(BEAT, 12)]
            gaps = [later - earlier for earlier, later in itertools.pairwise(came)]
            if max(gaps) > 2.3:
                raise Broken(f"sent no heartbeat for {max(gaps):.1f} s")
            worker.must_serve()
            worker.must_stop()

    return run


_BEATS_ON = f"heartbeats go on; {SERVES_ON}"

CASES = (
    Case("disk full", "export on the spot", "3 with one line, no artifact", _no_room_for_an_export),
    Case("disk full", "log", SERVES_ON, _no_room_for_the_log),
    Case("clock jumps", "an hour ahead", _BEATS_ON, _clock_jumps(3600.0)),
    Case("clock jumps", "an hour back", _BEATS_ON, _clock_jumps(-3600.0)),
)
