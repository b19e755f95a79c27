"""The KV cache: the memory of all slots, bound in place by the backend, and of the blocks."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.artifact import CacheGeometry
from rbee_runtime.errors import OutOfMemory
from rbee_runtime.transfer import BLOCK, Load, Move, Store, Swap, Transfer

Values = NDArray[Any]
"""Elements of the cache, of the geometry's dtype."""


class KvArena:
    """Keys and values of every layer, of slots and of blocks.

    The operating system hands out pages as they are first written, so that a slot costs what it
    holds, not what it could hold.

    Layers that attend to a window keep what it reaches back to and a little more. When that is
    full, the part still needed moves to the front: what such a layer holds of a slot begins at
    position :meth:`start`, not at 0.

    Attributes:
        slots: Sequences it holds at a time.
        capacity: Positions of each slot.
        blocks: Blocks it has beside the slots.
        nbytes: Bytes of all of it.
    """

    def __init__(
        self, geometry: CacheGeometry, slots: int, capacity: int, blocks: int, chunk: int
    ) -> None:
        """Reserve the memory.

        Args:
            geometry: The model's.
            slots: Sequences to hold at a time.
            capacity: Positions of each slot.
            blocks: Blocks to have.
            chunk: Tokens that a step adds to a slot at most.

        Raises:
            OutOfMemory: The address space does not have it.
        """
        self.slots = slots
        self.capacity = capacity
        self.blocks = blocks
        self._whole = _Layers(geometry, geometry.whole_layers, slots, capacity)
        self._keep = (geometry.window or 0) + BLOCK
        room = geometry.window_capacity(capacity, chunk)
        self._windowed = _Layers(geometry, geometry.windowed_layers, slots, room)
        self._chunk = max(chunk, BLOCK)
        self._start = [0] * slots
        self._most = [0] * slots
        self._filled_blocks = 0
        shape = (blocks, geometry.layers, 2, geometry.kv_heads, BLOCK, geometry.head_dim)
        self._blocks = _reserve(shape, geometry.dtype)
        self.nbytes = self._whole.data.nbytes + self._windowed.data.nbytes + self._blocks.nbytes
        self._used = partial(geometry.slot_bytes, chunk=chunk)
        self._block_bytes = geometry.block_bytes(BLOCK)

    @property
    def used(self) -> int:
        """Bytes that have been written at some time, and so are memory."""
        return sum(map(self._used, self._most)) + self._filled_blocks * self._block_bytes

    def rows(self, layer: int, first: int, count: int) -> tuple[Values, Values]:
        """Return a layer's keys and values in some slots, each ``[count, heads, capacity, width]``.

        They are views: writing them writes the cache.
        """
        layers = self._whole if layer in self._whole.index else self._windowed
        data = layers.data[layers.index[layer]]
        return data[0, first : first + count], data[1, first : first + count]

    def start(self, slot: int) -> int:
        """Return the first position that layers with a window hold of a slot."""
        return self._start[slot]

    def make_room(self, slot: int, past: int, count: int) -> None:
        """See that a slot can take ``count`` positions after the first ``past``.

        Raises:
            ValueError: That is more than a step adds.
        """
        if count > self._chunk:
            raise ValueError(f"a step adds at most {self._chunk} positions, not {count}")
        if past == 0:
            self._start[slot] = 0
        self._most[slot] = max(self._most[slot], past + count)
        held = past - self._start[slot]
        if held + count <= self._windowed.capacity:
            return
        dropped = held - min(held, self._keep)
        data = self._windowed.data[:, :, slot]
        data[:, :, :, : held - dropped] = data[:, :, :, dropped:held].copy()
        self._start[slot] += dropped

    def transfer(self, transfer: Transfer) -> None:
        """Make a copy within the cache."""
        match transfer:
            case Move(source, target, positions):
                self._whole.move(source, target, positions)
                self._windowed.move(source, target, positions - self._start[source])
                self._start[target] = self._start[source]
                self._most[target] = max(self._most[target], positions)
            case Swap(one, other, positions):
                self._whole.swap(one, other, positions)
                self._windowed.swap(one, other, self._windowed.capacity)
                self._start[one], self._start[other] = self._start[other], self._start[one]
                self._most[one] = max(self._most[one], positions)
                self._most[other] = max(self._most[other], positions)
            case Store(slot, position, block):
                whole, windowed = self._parts(block)
                self._filled_blocks = max(self._filled_blocks, block + 1)
                whole[:] = self._whole.span(slot, position)
                windowed[:] = self._windowed.span(slot, position - self._start[slot])
            case Load(block, slot, position):
                self.make_room(slot, position, BLOCK)
                whole, windowed = self._parts(block)
                self._whole.span(slot, position)[:] = whole
                self._windowed.span(slot, position - self._start[slot])[:] = windowed

    def _parts(self, block: int) -> tuple[Values, Values]:
        """Return a block's layers without a window, and those with one.

        Each ``[layers, 2, heads, BLOCK, width]``.
        """
        count = len(self._whole.index)
        return self._blocks[block, :count], self._blocks[block, count:]


class _Layers:
    """Keys and values of layers that hold equally many positions.

    Attributes:
        index: Where each layer is.
        capacity: Positions of each slot.
        data: ``[layers, 2, slots, heads, capacity, width]``.
    """

    def __init__(
        self, geometry: CacheGeometry, layers: Sequence[int], slots: int, capacity: int
    ) -> None:
        self.index = {layer: i for i, layer in enumerate(layers)}
        self.capacity = capacity
        shape = (len(layers), 2, slots, geometry.kv_heads, capacity, geometry.head_dim)
        self.data = _reserve(shape, geometry.dtype)

    def span(self, slot: int, position: int) -> Values:
        """Return a block's worth of positions, a view of ``[layers, 2, heads, BLOCK, width]``."""
        return self.data[:, :, slot, :, position : position + BLOCK]

    def move(self, source: int, target: int, positions: int) -> None:
        self.data[:, :, target, :, :positions] = self.data[:, :, source, :, :positions]

    def swap(self, one: int, other: int, positions: int) -> None:
        before = self.data[:, :, other, :, :positions].copy()
        self.move(one, other, positions)
        self.data[:, :, one, :, :positions] = before


def _reserve(shape: tuple[int, ...], dtype: str) -> Values:
    """Return zeros that take memory only once they are written.

    Raises:
        OutOfMemory: The address space does not have them.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size == 0:
        return np.zeros(shape, dtype)
    # Mapped by hand: NumPy asks for huge pages, of which every head of every layer would take two
    # megabytes with its first position.
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise OutOfMemory(f"the KV cache needs {size} bytes: {error}") from error
    return np.frombuffer(memory, dtype).reshape(shape)
