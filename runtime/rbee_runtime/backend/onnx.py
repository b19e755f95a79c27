"""ONNX Runtime as a backend: a session with its cache bound in place."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime as ort
import psutil
from numpy.typing import NDArray

from rbee_runtime.artifact import Artifact
from rbee_runtime.cache import KvArena
from rbee_runtime.errors import ArtifactError, InferenceFailed, OutOfMemory
from rbee_runtime.step import Step

_OUT_OF_MEMORY = ("Failed to allocate memory", "bad_alloc", "bad allocation", "out of memory")


class OnnxBackend:
    """Runs an artifact of the ``ort`` dialect on the CPU provider.

    Past and present of every layer are bound to the same memory, which the attention operator
    extends in place: no step copies the cache. A decode step reuses one binding and writes its
    token into the bound input; nothing is allocated.

    Attributes:
        name: ``cpu``.
    """

    name = "cpu"

    def __init__(self, artifact: Artifact, slots: int, capacity: int) -> None:
        self._session = _open_session(artifact)
        self._layers = artifact.manifest.cache.layers
        self._arena = KvArena(artifact.manifest.cache, slots, capacity)
        self._logits = np.zeros((1, artifact.manifest.shapes.vocab), np.float32)
        self._decode = [self._bind(slot, 1) for slot in range(slots)]

    @property
    def slots(self) -> int:
        """Sequences the cache holds."""
        return self._arena.slots

    @property
    def capacity(self) -> int:
        """Positions of each slot."""
        return self._arena.capacity

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache."""
        return self._arena.nbytes

    def run(self, step: Step) -> NDArray[np.float32]:
        """Run one step; see :class:`~rbee_runtime.backend.backend.Backend`."""
        count = len(step.tokens)
        bound = self._decode[step.slot] if count == 1 else self._bind(step.slot, count)
        bound.ids[0] = step.tokens
        bound.seqlens[0] = step.past + count - 1
        bound.total[()] = step.past + count
        try:
            self._session.run_with_iobinding(bound.binding)
        except Exception as error:  # the binding's exceptions share no narrower base
            message = str(error)
            if any(sign in message for sign in _OUT_OF_MEMORY):
                raise OutOfMemory(f"the step over {count} tokens ran out of memory") from error
            raise InferenceFailed(f"the step failed in ONNX Runtime: {message}") from error
        return self._logits

    def _bind(self, slot: int, count: int) -> _Binding:
        bound = _Binding(self._session, count)
        bound.output("logits", self._logits)
        for layer in range(self._layers):
            for kind, memory in (
                ("key", self._arena.keys(layer, slot)),
                ("value", self._arena.values(layer, slot)),
            ):
                bound.input(f"past_{kind}.{layer}", memory)
                bound.output(f"present_{kind}.{layer}", memory)
        return bound


class _Binding:
    """Arrays bound to a session's inputs and outputs, by address.

    Attributes:
        binding: ONNX Runtime's side of it.
        ids: ``int64[1, count]``, the step's tokens.
        seqlens: ``int32[1]``, positions after the step less one.
        total: ``int32``, positions after the step.
    """

    def __init__(self, session: ort.InferenceSession, count: int) -> None:
        self.binding = session.io_binding()
        self.ids = np.zeros((1, count), np.int64)
        self.seqlens = np.zeros(1, np.int32)
        self.total = np.zeros((), np.int32)
        self.input("input_ids", self.ids)
        self.input("seqlens_k", self.seqlens)
        self.input("total_sequence_length", self.total)

    def input(self, name: str, array: NDArray[Any]) -> None:
        """Have the session read ``array``, which must outlive the binding."""
        self.binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def output(self, name: str, array: NDArray[Any]) -> None:
        """Have the session write ``array``, which must outlive the binding."""
        self.binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def _open_session(artifact: Artifact) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.log_severity_level = 3
    graph = artifact.file("graph")
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's exceptions share no narrower base
        raise ArtifactError(f"{graph}: ONNX Runtime cannot load the graph: {error}") from error


def _threads() -> int:
    """Return the cores this process may use, two threads of one core counted once."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
