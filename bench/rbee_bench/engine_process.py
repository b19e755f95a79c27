"""The near end of an engine's process: one call a line out, one answer a line back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import rbee_bench
from rbee_bench import vllm_program
from rbee_bench.local_process import last_words

T = TypeVar("T")

_GRACE_SECONDS = 5.0
"""An idle engine ends at once when its stdin does; one that is still computing is killed."""

_ELSEWHERE = """
import importlib
import sys
sys.path.append(sys.argv.pop(1))
program = importlib.import_module(sys.argv.pop(1))
sys.path.pop()
program.main()
"""
"""Opens an engine in another environment, which is to find nothing but this package of ours."""


class PeerFault(Exception):
    """A peer is not installed, or failed; the message says which, in one line."""


class EngineProcess:
    """An engine, opened in a process of its own, which ends with the ``with`` block.

    Attributes:
        version: Name and version of what computes.

    Args:
        command: Starts a program that :func:`rbee_bench.answering.serve` serves.
        variables: What it is to find in its environment, besides what is there.

    Raises:
        PeerFault: From every method: the engine cannot be opened, raised an error, or died.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            text=True,
            env={**os.environ, **quiet, **variables},
        )
        try:
            self.version: str = self._hear()["version"]
        except BaseException:
            self.close()
            raise

    @property
    def process_id(self) -> int:
        """Its process, while it lives."""
        return self._process.pid

    def pause(self) -> None:
        """Stop its threads where they are, until :meth:`resume`; call it between two questions.

        Engines' threads spin for a while after their work is done, on cores that others need.
        """
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have a paused process go on; one that is not paused does anyway."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the process, paused or not, and wait for that."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.resume()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._noise.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, **call: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            print(json.dumps(call), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._death() from None
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "fault" in answer:
            raise PeerFault(answer["fault"])
        return answer

    def _death(self) -> PeerFault:
        code = self._process.wait()
        last = last_words(self._noise)
        return PeerFault(f"its process ended with code {code}: {last}".removesuffix(": "))


def here(program: str, threads: int) -> tuple[list[str], dict[str, str]]:
    """Return what starts a program of this package, and the variables it is to find.

    Args:
        program: A module with a ``main``.
        threads: Threads to compute with; 0 leaves it to the engine.
    """
    variables = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    return [sys.executable, "-m", program], variables


def beside_vllm(program: str, threads: int) -> tuple[list[str], dict[str, str]]:
    """Return what :func:`here` does, for the Python of the ``vllm`` on the path.

    Raises:
        PeerFault: There is none.
    """
    try:
        python = vllm_program.interpreter()
    except LookupError as error:
        raise PeerFault(f"not installed: {error}") from None
    packages = str(Path(rbee_bench.__file__).parents[1])
    command = [str(python), "-c", _ELSEWHERE, packages, program]
    return command, vllm_program.variables(python, threads)


def alone(engine: EngineProcess, turn: Callable[[], T]) -> T:
    """Take a turn, out of which the engine is paused.

    A thread of the one before would spin into it, on one of its cores, for some 30 ms.
    """
    engine.resume()
    try:
        return turn()
    finally:
        engine.pause()
