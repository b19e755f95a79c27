"""ONNX Runtime's session, its I/O binding, and its failures in this package's terms."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnxruntime as ort
import psutil
from numpy.typing import NDArray

from rbee_runtime.errors import ArtifactError, InferenceFailed, OutOfMemory

_OUT_OF_MEMORY = ("Failed to allocate memory", "bad_alloc", "bad allocation", "out of memory")


def open_session(graph: Path) -> ort.InferenceSession:
    """Load a graph on the CPU provider.

    Raises:
        ArtifactError: ONNX Runtime cannot load it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's exceptions share no narrower base
        raise ArtifactError(f"{graph}: ONNX Runtime cannot load the graph: {error}") from error


class Binding:
    """Arrays bound to a session's inputs and outputs, by address.

    Args:
        session: The session to run.
    """

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._binding = session.io_binding()

    def input(self, name: str, array: NDArray[Any]) -> None:
        """Have the session read ``array``, which must be contiguous and outlive the binding."""
        self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def output(self, name: str, array: NDArray[Any]) -> None:
        """Have the session write ``array``, which must be contiguous and outlive the binding."""
        self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run(self, tokens: int) -> None:
        """Run the session once.

        Args:
            tokens: Tokens of the step, for the message.

        Raises:
            OutOfMemory: The provider could not allocate what the step needs.
            InferenceFailed: It failed otherwise.
        """
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # the binding's exceptions share no narrower base
            message = str(error)
            if any(sign in message for sign in _OUT_OF_MEMORY):
                raise OutOfMemory(f"the step over {tokens} tokens ran out of memory") from error
            raise InferenceFailed(f"the step failed in ONNX Runtime: {message}") from error


def _threads() -> int:
    """Return the cores this process may use, two threads of one core counted once."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
