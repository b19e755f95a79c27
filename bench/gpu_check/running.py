"""Checks in processes of their own, under one deadline."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from gpu_check.outcome import Outcome, Row, Status
from gpu_check.plan import Check

Told = Callable[[Outcome], None]

_TAIL = 4096
_LONGEST = 400
_GRACE = 5.0


async def run_all(
    checks: Sequence[Check],
    command: Sequence[str],
    environment: Callable[[Check], Mapping[str, str]],
    seconds: float,
    told: Told,
) -> None:
    """Run checks in their order, those of a group side by side, until the time is up.

    Args:
        checks: What to run.
        command: Program and arguments that run a check, to which its name is added.
        environment: Variables of a check's process.
        seconds: For all of them.
        told: Called with each outcome as it comes. The machine lacking something essential, it is
            not called any more after that.
    """
    deadline = time.monotonic() + seconds
    for _, group in itertools.groupby(enumerate(checks), lambda one: one[1].group or one[0]):

        async def one(check: Check) -> Status:
            left = deadline - time.monotonic()
            if left < check.least:
                outcome = Outcome(check.name, Status.SKIPPED, "no time left")
            else:
                outcome = await _run(check, command, environment(check), min(check.limit, left))
            told(outcome)
            return outcome.status

        # One that fails in a way nobody thought of must not leave the others without a master.
        ends = await asyncio.gather(*(one(check) for _, check in group))
        if Status.MISSING in ends:
            return


async def _run(
    check: Check, command: Sequence[str], environment: Mapping[str, str], limit: float
) -> Outcome:
    began = time.monotonic()
    # Removed from here: a process that is killed leaves a model of gigabytes behind.
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as directory:
        process = await asyncio.create_subprocess_exec(
            *command,
            check.name,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**environment, "TMPDIR": directory},
            start_new_session=True,  # what it starts itself ends with it
            limit=1 << 24,
        )
        lines: list[dict[str, Any]] = []
        noise = bytearray()
        reading = asyncio.create_task(_listen(process, lines, noise))
        hung = ""
        try:
            await asyncio.wait_for(asyncio.shield(reading), limit)
        except TimeoutError:
            hung = f"still running after {limit:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # A driver may hold on to a process even so.
            with suppress(TimeoutError):
                await asyncio.wait_for(reading, _GRACE)
    status, why = _end(check, lines, process.returncode, hung, bytes(noise))
    rows: tuple[Row, ...] = tuple(line["row"] for line in lines if "row" in line)
    return Outcome(check.name, status, why, time.monotonic() - began, rows)


async def _listen(
    process: asyncio.subprocess.Process, lines: list[dict[str, Any]], noise: bytearray
) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    await asyncio.gather(_hear(process.stdout, lines), _drain(process.stderr, noise))
    await process.wait()


def _end(
    check: Check, lines: list[dict[str, Any]], code: int | None, hung: str, noise: bytes
) -> tuple[Status, str]:
    said = next((line for line in lines if "end" in line), None)
    if said is not None:
        return Status(said["end"]), said["why"][:_LONGEST]
    if hung or code is None:
        return Status.SKIPPED if check.optional else Status.FAILED, hung
    last = noise.decode(errors="replace").strip().rpartition("\n")[2].strip()
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return Status.FAILED, f"its process was {how}: {last}".removesuffix(": ")[:_LONGEST]


async def _hear(stream: asyncio.StreamReader, lines: list[dict[str, Any]]) -> None:
    async for line in stream:
        with suppress(ValueError):  # cut short by the end of the process
            lines.append(json.loads(line))


async def _drain(stream: asyncio.StreamReader, noise: bytearray) -> None:
    while chunk := await stream.read(1 << 16):
        noise += chunk
        del noise[:-_TAIL]
