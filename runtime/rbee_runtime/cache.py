"""The KV cache: one allocation for all slots and layers, bound in place by the backend."""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.artifact import CacheGeometry


class KvArena:
    """Keys and values of every layer and slot.

    The operating system hands out pages as they are first written, so that a slot costs what it
    holds, not what it could hold.

    Attributes:
        slots: Sequences it holds at a time.
        capacity: Positions of each slot.
    """

    def __init__(self, geometry: CacheGeometry, slots: int, capacity: int) -> None:
        shape = (geometry.layers, 2, slots, geometry.kv_heads, capacity, geometry.head_dim)
        dtype = np.dtype(geometry.dtype)
        # Mapped by hand: NumPy asks for huge pages, of which every head of every layer would take
        # two megabytes with its first position.
        memory = mmap.mmap(
            -1,
            math.prod(shape) * dtype.itemsize,
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        )
        self._data = np.frombuffer(memory, dtype).reshape(shape)
        self.slots = slots
        self.capacity = capacity

    @property
    def nbytes(self) -> int:
        """Bytes of the whole allocation."""
        return self._data.nbytes

    def keys(self, layer: int, slot: int) -> NDArray[np.floating[Any]]:
        """Return one slot's keys: a view of ``[1, kv_heads, capacity, head_dim]``."""
        view: NDArray[np.floating[Any]] = self._data[layer, 0, slot : slot + 1]
        return view

    def values(self, layer: int, slot: int) -> NDArray[np.floating[Any]]:
        """Return one slot's values: a view of ``[1, kv_heads, capacity, head_dim]``."""
        view: NDArray[np.floating[Any]] = self._data[layer, 1, slot : slot + 1]
        return view
