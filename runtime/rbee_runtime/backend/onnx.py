"""ONNX Runtime as a backend: a session with its cache bound in place."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from rbee_runtime.artifact import Artifact
from rbee_runtime.backend.session import Binding, open_session
from rbee_runtime.cache import KvArena
from rbee_runtime.step import Step


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
        self._session = open_session(artifact.file("graph"))
        self._layers = artifact.manifest.cache.layers
        self._arena = KvArena(artifact.manifest.cache, slots, capacity)
        self._long_rope = artifact.manifest.long_rope
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
        if self._long_rope is not None:
            original = self._long_rope.original_context
            is_long = max(step.length, step.past + count) > original
            first = step.past + (original if is_long else 0)
            bound.positions[0] = range(first, first + count)
        bound.binding.run(count)
        return self._logits

    def _bind(self, slot: int, count: int) -> _Bound:
        bound = _Bound(self._session, count)
        bound.binding.output("logits", self._logits)
        if self._long_rope is not None:
            bound.binding.input("position_ids", bound.positions)
        for layer in range(self._layers):
            for kind, memory in (
                ("key", self._arena.keys(layer, slot)),
                ("value", self._arena.values(layer, slot)),
            ):
                bound.binding.input(f"past_{kind}.{layer}", memory)
                bound.binding.output(f"present_{kind}.{layer}", memory)
        return bound


class _Bound:
    """A binding with the inputs that change from step to step.

    Attributes:
        binding: The binding itself.
        ids: ``int64[1, count]``, the step's tokens.
        seqlens: ``int32[1]``, positions after the step less one.
        total: ``int32``, positions after the step.
        positions: ``int64[1, count]``, rows of the rotary tables, for models with two sets.
    """

    def __init__(self, session: ort.InferenceSession, count: int) -> None:
        self.binding = Binding(session)
        self.ids = np.zeros((1, count), np.int64)
        self.seqlens = np.zeros(1, np.int32)
        self.total = np.zeros((), np.int32)
        self.positions = np.zeros((1, count), np.int64)
        self.binding.input("input_ids", self.ids)
        self.binding.input("seqlens_k", self.seqlens)
        self.binding.input("total_sequence_length", self.total)
