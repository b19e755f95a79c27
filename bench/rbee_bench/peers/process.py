"""The near end of a peer's process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

import rbee_bench
from rbee_bench import vllm_program
from rbee_bench.local_process import last_words
from rbee_bench.peers.dense import made_dense_directory
from rbee_bench.peers.peer import Logits, Reads, Spec, Timing

_GRACE_SECONDS = 5.0
"""An idle peer ends at once when its stdin does; one that is still computing is killed."""

_ELSEWHERE = """
import sys
sys.path.append(sys.argv.pop(1))
from rbee_bench.peers import worker
sys.path.pop()
worker.main()
"""
"""Opens a peer in another environment, which is to find nothing but this package of ours."""


class PeerFault(Exception):
    """A peer is not installed, or failed; the message says which, in one line."""


class PeerProcess:
    """A peer, opened in a process of its own, which ends with the ``with`` block.

    Attributes:
        spec: What was opened.
        version: Name and version of what computes.

    Args:
        spec: What to open.
        search_path: Directories to import from before any other, as for ``PYTHONPATH``.

    Raises:
        PeerFault: From every method: the peer cannot be opened, raised an error, or died.
    """

    def __init__(self, spec: Spec, search_path: str = "") -> None:
        self.spec = spec
        command, variables = _command(spec)
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", **variables}
        if search_path:
            quiet["PYTHONPATH"] = search_path
        self._process = subprocess.Popen(
            [*command, spec.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            text=True,
            env={**os.environ, **quiet},
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

    def decode(self, prompt: Sequence[int], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        answer = self._ask(call="decode", prompt=list(prompt), tokens=tokens)
        return Timing(answer["tokens"], answer["seconds"])

    def prefill(self, prompt: Sequence[int]) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        answer = self._ask(call="prefill", prompt=list(prompt))
        return Timing(answer["tokens"], answer["seconds"])

    def batch(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        answer = self._ask(call="batch", prompts=list(map(list, prompts)), tokens=tokens)
        return Timing(answer["tokens"], answer["seconds"])

    def complete(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        completion: list[int] = self._ask(call="complete", prompt=list(prompt), tokens=tokens)[
            "completion"
        ]
        return completion

    def score(self, ids: Sequence[int], file: Path) -> Logits:
        """Write the logits after each of ``ids`` to ``file`` and map it: ``float32[ids, vocab]``.

        They go by way of a file because they are hundreds of megabytes.
        """
        self._ask(call="score", ids=list(ids), file=str(file))
        return np.memmap(file, np.float32, mode="r").reshape(len(ids), -1)

    def reads(self) -> Reads | None:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        known = self._ask(call="reads")["reads"]
        return None if known is None else Reads(**known)

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


def _command(spec: Spec) -> tuple[list[str], dict[str, str]]:
    """Return what opens a peer, less its spec, and the variables it is to find."""
    if spec.kind != "vllm":
        threads = {"OMP_NUM_THREADS": str(spec.threads)} if spec.threads else {}
        return [sys.executable, "-m", "rbee_bench.peers.worker"], threads
    try:
        python = vllm_program.interpreter()
        made_dense_directory(spec.model, spec.workspace)
    except LookupError as error:
        raise PeerFault(f"not installed: {error}") from None
    except RuntimeError as error:
        raise PeerFault(str(error)) from None
    packages = str(Path(rbee_bench.__file__).parents[1])
    return [str(python), "-c", _ELSEWHERE, packages], vllm_program.variables(python, spec.threads)


def alone(peer: PeerProcess, turn: Callable[[], Timing]) -> Timing:
    """Take a turn, out of which the peer is paused.

    A thread of the one before would spin into it, on one of its cores, for some 30 ms.
    """
    peer.resume()
    try:
        return turn()
    finally:
        peer.pause()
