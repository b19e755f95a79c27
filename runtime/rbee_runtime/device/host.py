"""The CPU and its memory as a device."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.device.device import Array, Layout, Staging
from rbee_runtime.errors import OutOfMemory
from rbee_runtime.memory import available_bytes, resident_bytes
from rbee_runtime.units import human_size


class HostDevice:
    """The CPU and its memory: nothing has to be brought anywhere."""

    name = memory_name = "cpu"
    index = 0

    def zeros(self, shape: Sequence[int], dtype: str) -> NDArray[Any]:
        """Return zeros that take memory only once they are written.

        Raises:
            OutOfMemory: The address space does not have them.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size == 0:
            return np.zeros(shape, dtype)
        # Mapped by hand: NumPy asks for huge pages, of which every head of every layer would take
        # two megabytes with its first position.
        try:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "more than can be addressed"
            raise OutOfMemory(
                f"{human_size(size)} are not to be had ({reason}): allow the cache less memory, "
                "fewer slots or a shorter context, or lift the limit on the process (ulimit -v)"
            ) from error
        return np.frombuffer(memory, dtype).reshape(shape)

    def stage(self, layout: Layout) -> Staging:
        """Return arrays that are on either side at once."""
        arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in layout.items()}
        return Staging(arrays, arrays)

    def upload(self, staging: Staging) -> None:
        """Do nothing."""

    def write(self, target: Array, values: NDArray[Any]) -> None:
        """See :class:`~rbee_runtime.device.device.Device`."""
        assert isinstance(target, np.ndarray)
        target[...] = values

    def read(self, source: Array, target: NDArray[Any]) -> None:
        """See :class:`~rbee_runtime.device.device.Device`."""
        assert isinstance(source, np.ndarray)
        target[...] = source

    def copy(self, target: Array, source: Array) -> None:
        """See :class:`~rbee_runtime.device.device.Device`."""
        assert isinstance(target, np.ndarray)
        assert isinstance(source, np.ndarray)
        target[...] = source

    def finish(self) -> None:
        """Do nothing."""

    def address(self, array: Array) -> int:
        """See :class:`~rbee_runtime.device.device.Device`."""
        assert isinstance(array, np.ndarray)
        return int(array.ctypes.data)

    def available(self) -> int:
        """See :class:`~rbee_runtime.device.device.Device`."""
        return available_bytes()

    def held(self) -> int:
        """See :class:`~rbee_runtime.device.device.Device`."""
        return resident_bytes()
