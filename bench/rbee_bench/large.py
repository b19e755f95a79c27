"""Exports of a checkpoint of gigabytes: how fast they go, and how much memory they take."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from rbee_bench.bystanders import Bystanders
from rbee_bench.random_checkpoint import ModelShape, write_checkpoint
from rbee_bench.subject import Progress
from rbee_runtime.artifact import Artifact, Precision

_SAMPLE_SECONDS = 0.05
_ROOM = 3.1
"""How much the disk must hold, in checkpoints: it, and an artifact in 32 bits."""


class LargeFault(Exception):
    """The export cannot be measured; one line says why."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way to export the checkpoint.

    Attributes:
        precision: What to hold the weights at.
        verify: Whether the export ends with its fidelity report. That of noise says nothing, but
            costs what any model's does.
    """

    precision: Precision
    verify: bool = False


CASES = (
    *(Case("int8"), Case("int8", verify=True), Case("int4"), Case("int4", verify=True)),
    *(Case("fp16"), Case("fp32")),
)
"""What is measured unless told otherwise; a directory becomes the second unless told otherwise."""


@dataclass(frozen=True, slots=True)
class LargeRow:
    """One export.

    Attributes:
        precision: What it held the weights at.
        verify: Whether it measured fidelity.
        artifact_bytes: What came out.
        seconds: From the program's start to its end, the checkpoint's checksum included.
        processor_seconds: Of every core together; other programs do not change it much.
        peak_bytes: Most memory resident at once, as the kernel keeps it (``VmHWM``): the program's
            own, and the pages of files that it has mapped at the time.
        anonymous_bytes: Of it, what no file backs: the most that was seen.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    precision: str
    verify: bool
    artifact_bytes: int
    seconds: float
    processor_seconds: float
    peak_bytes: int
    anonymous_bytes: int
    bystanders: float


@dataclass(frozen=True, slots=True)
class Large:
    """What exporting a large checkpoint takes.

    Attributes:
        source_bytes: The checkpoint's weights.
        largest_bytes: The largest of its tensors, as stored.
        rows: Each export.
    """

    source_bytes: int
    largest_bytes: int
    rows: tuple[LargeRow, ...]

    @property
    def bound_bytes(self) -> int:
        """What an export may hold, its fidelity report apart: twice this tensor, and 500 MB."""
        return 2 * self.largest_bytes + 500_000_000

    def rate(self, row: LargeRow) -> float:
        """Return the megabytes of the checkpoint that an export took a second."""
        return self.source_bytes / 1e6 / row.seconds


def measure_large(
    directory: Path,
    gigabytes: float,
    cases: Sequence[Case] = CASES,
    progress: Progress | None = None,
) -> Large:
    """Make a random checkpoint, export it in processes of their own, and remove everything.

    Args:
        directory: Where there is room for three times the checkpoint.
        gigabytes: Size of the checkpoint at least, in units of 10^9 bytes.
        cases: How to export it.
        progress: Called as the measurement proceeds.

    Raises:
        LargeFault: There is not enough room or memory, or an export failed.
        OSError: The checkpoint cannot be written.
    """
    show = progress or (lambda *_: None)
    directory.mkdir(parents=True, exist_ok=True)
    _require(f"{directory}: has room for", shutil.disk_usage(directory).free, _ROOM * gigabytes)
    # A fidelity report runs the model, and all of it is in memory then.
    _require("memory: free are", psutil.virtual_memory().available, gigabytes + 1)
    shape = ModelShape.of(gigabytes)
    rows = []
    with tempfile.TemporaryDirectory(dir=directory, prefix="large-") as place:
        source = Path(place) / "source"
        source.mkdir()
        write_checkpoint(shape, source, lambda done: show("checkpoint", done, shape.nbytes))
        for number, case in enumerate(cases):
            os.sync()  # what is still to be written would slow the export down
            show(f"{case.precision}{', verified' if case.verify else ''}", number, len(cases))
            rows.append(_export(source, Path(place) / "artifact", case))
    return Large(shape.nbytes, shape.largest_nbytes, tuple(rows))


def _require(what: str, free: int, gigabytes: float) -> None:
    if free / 1e9 < gigabytes:
        raise LargeFault(f"{what} {free / 1e9:.1f} GB, {gigabytes:.1f} are needed")


def _export(source: Path, target: Path, case: Case) -> LargeRow:
    bystanders = Bystanders()
    began, used = time.perf_counter(), _processor_seconds()
    peak, anonymous = _run(source, target, case)
    row = LargeRow(
        precision=case.precision,
        verify=case.verify,
        artifact_bytes=sum(file.size for file in Artifact.open(target).manifest.files),
        seconds=time.perf_counter() - began,
        processor_seconds=_processor_seconds() - used,
        peak_bytes=peak,
        anonymous_bytes=anonymous,
        bystanders=bystanders.share(),
    )
    shutil.rmtree(target)
    return row


def _processor_seconds() -> float:
    """Return what the children that have ended took."""
    times = os.times()
    return times.children_user + times.children_system


def _run(source: Path, target: Path, case: Case) -> tuple[int, int]:
    """Export, and return the peaks of resident and of anonymous bytes."""
    command = [sys.executable, "-m", "rbee_export", "--model", str(source), "--out", str(target)]
    command += ["--precision", case.precision, *([] if case.verify else ["--no-verify"])]
    peak = anonymous = 0
    with tempfile.TemporaryFile() as log:
        exporter = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            while exporter.poll() is None:
                held = _resident(exporter.pid)
                peak, anonymous = max(peak, held[0]), max(anonymous, held[1])
                time.sleep(_SAMPLE_SECONDS)
        except BaseException:
            exporter.kill()
            exporter.wait()
            raise
        if exporter.returncode:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines() or ["(silent)"]
            raise LargeFault(f"the export ended with code {exporter.returncode}: {lines[-1]}")
    return peak, anonymous


def _resident(process: int) -> tuple[int, int]:
    """Return the bytes a process has held at most, and those no file backs that it holds now.

    Zeros at its end. The system's ``ru_maxrss`` would count what the parent held when it started
    the process.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0, 0
    fields = dict(line.split(":", 1) for line in lines)
    peak, anonymous = (int(fields.get(key, "0").split()[0]) * 1024 for key in ("VmHWM", "RssAnon"))
    return peak, anonymous
