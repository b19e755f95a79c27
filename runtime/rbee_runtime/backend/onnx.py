"""ONNX Runtime as a backend: a session with its cache bound in place."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from rbee_runtime.artifact import Artifact, Manifest
from rbee_runtime.backend.session import Binding
from rbee_runtime.cache import KvArena
from rbee_runtime.memory import CachePlan
from rbee_runtime.step import Row, Step
from rbee_runtime.transfer import Transfer


class OnnxBackend:
    """Runs an artifact of the ``ort`` dialect on the CPU provider.

    Past and present of every layer are bound to the same memory, which the attention operator
    extends in place: no step copies the cache. There is one binding for each number of rows that
    may decode together, made once; a decode step writes its tokens into the bound inputs, and
    nothing is allocated.

    Attributes:
        name: ``cpu``.
    """

    name = "cpu"

    def __init__(self, artifact: Artifact, session: ort.InferenceSession, plan: CachePlan) -> None:
        manifest = artifact.manifest
        self._session = session
        self._arena = KvArena(manifest.cache, plan.slots, plan.capacity, plan.blocks, plan.chunk)
        self._manifest = manifest
        self._logits = np.zeros((plan.slots, manifest.shapes.vocab), np.float32)
        self._decode = [self._bind(0, rows, 1) for rows in range(1, plan.slots + 1)]

    @property
    def slots(self) -> int:
        """Sequences the cache holds."""
        return self._arena.slots

    @property
    def capacity(self) -> int:
        """Positions of each slot."""
        return self._arena.capacity

    @property
    def blocks(self) -> int:
        """Blocks kept beside the slots."""
        return self._arena.blocks

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache."""
        return self._arena.nbytes

    @property
    def cache_used(self) -> int:
        """Bytes of the cache that have been in use at most."""
        return self._arena.used

    def run(self, step: Step) -> NDArray[np.float32]:
        """Run one step; see :class:`~rbee_runtime.backend.backend.Backend`."""
        rows, width = len(step.rows), len(step.rows[0].tokens)
        if step.slot == 0 and width == 1:
            bound = self._decode[rows - 1]
        else:
            bound = self._bind(step.slot, rows, width)
        for number, row in enumerate(step.rows):
            slot = step.slot + number
            self._arena.make_room(slot, row.past, width)
            bound.set(number, row, self._arena.start(slot), self._first_turn(row))
        bound.run(step.tokens)
        return self._logits[:rows]

    def transfer(self, transfer: Transfer) -> None:
        """Make a copy within the cache."""
        self._arena.transfer(transfer)

    def _first_turn(self, row: Row) -> int:
        """Return the row of the rotary tables that position 0 takes."""
        long_rope = self._manifest.long_rope
        if long_rope is None or max(row.length, row.end) <= long_rope.original_context:
            return 0
        return long_rope.original_context

    def _bind(self, slot: int, rows: int, width: int) -> _Bound:
        bound = _Bound(self._session, self._manifest, rows, width)
        bound.binding.output("logits", self._logits[:rows])
        for layer in range(self._manifest.cache.layers):
            views = self._arena.rows(layer, slot, rows)
            for kind, memory in zip(("key", "value"), views, strict=True):
                bound.binding.input(f"past_{kind}.{layer}", memory)
                bound.binding.output(f"present_{kind}.{layer}", memory)
        return bound


class _Bound:
    """A binding with the inputs that change from step to step.

    Attributes:
        binding: The binding itself.
    """

    def __init__(
        self, session: ort.InferenceSession, manifest: Manifest, rows: int, width: int
    ) -> None:
        self.binding = Binding(session)
        self._ids = np.zeros((rows, width), np.int64)
        self._positions = np.zeros((rows, width), np.int64)
        self._offsets = np.arange(width)
        self._whole = _Filled(rows)
        self._windowed = _Filled(rows)
        self.binding.input("input_ids", self._ids)
        if manifest.cache.whole_layers:
            self._whole.bind(self.binding, "")
        if manifest.cache.windowed_layers:
            self._windowed.bind(self.binding, "window_")
        if manifest.cache.windowed_layers or manifest.long_rope is not None:
            self.binding.input("position_ids", self._positions)

    def set(self, number: int, row: Row, start: int, first_turn: int) -> None:
        """Write a row's inputs.

        Args:
            number: Which row.
            row: What it is to run.
            start: Position at which layers with a window begin.
            first_turn: Row of the rotary tables that position 0 takes.
        """
        self._ids[number] = row.tokens
        np.add(self._offsets, first_turn + row.past, out=self._positions[number])
        self._whole.seqlens[number] = row.end - 1
        self._windowed.seqlens[number] = row.end - start - 1

    def run(self, tokens: int) -> None:
        """Run the session; see :meth:`Binding.run`."""
        self._whole.finish()
        self._windowed.finish()
        self.binding.run(tokens)


class _Filled:
    """How many positions a step leaves filled, as the attention operator wants to be told.

    Attributes:
        seqlens: ``int32[rows]``, positions of each row, less one.
        total: ``int32``, the most positions of any row.
    """

    def __init__(self, rows: int) -> None:
        self.seqlens = np.zeros(rows, np.int32)
        self.total = np.zeros((), np.int32)

    def bind(self, binding: Binding, prefix: str) -> None:
        """Bind both to the inputs of layers of one kind."""
        binding.input(f"{prefix}seqlens_k", self.seqlens)
        binding.input(f"{prefix}total_sequence_length", self.total)

    def finish(self) -> None:
        """Bring the total up to date."""
        self.total[()] = self.seqlens.max() + 1
