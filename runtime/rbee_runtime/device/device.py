"""Where a backend's memory lives: the boundary that the host and a GPU implement alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from rbee_runtime.device.cuda_array import CudaArray

Array = NDArray[Any] | CudaArray
"""Memory of a device in a shape: the host's can be read and written, a GPU's only be copied."""

Layout = Mapping[str, tuple[Sequence[int], str]]
"""Shapes and types of small arrays, by name."""


@dataclass(frozen=True, slots=True)
class Staging:
    """Small arrays that are written on the host and read on the device.

    Attributes:
        host: Where to write them.
        device: Where :meth:`Device.upload` brings them; the same memory on the CPU.
    """

    host: Mapping[str, NDArray[Any]]
    device: Mapping[str, Array]


class Device(Protocol):
    """Memory and copies of one device. Copies are made in the order they were asked for.

    Attributes:
        name: ``cpu`` or ``cuda``.
        index: Which of its kind.
        memory_name: What ONNX Runtime calls its memory.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def index(self) -> int: ...  # noqa: D102
    @property
    def memory_name(self) -> str: ...  # noqa: D102

    def zeros(self, shape: Sequence[int], dtype: str) -> Array:
        """Return memory that is all zero.

        Raises:
            OutOfMemory: There is not as much.
        """

    def stage(self, layout: Layout) -> Staging:
        """Return small arrays to write on the host and read on the device, all zero.

        Raises:
            OutOfMemory: There is no room for them.
        """

    def upload(self, staging: Staging) -> None:
        """Bring what was written to the device. The host's side is free after :meth:`finish`."""

    def write(self, target: Array, values: NDArray[Any]) -> None:
        """Copy from the host, contiguous to contiguous; ``values`` are free on return."""

    def read(self, source: Array, target: NDArray[Any]) -> None:
        """Copy to the host, contiguous to contiguous, and wait until all before it is done.

        Raises:
            DeviceLost: The device has failed.
        """

    def copy(self, target: Array, source: Array) -> None:
        """Copy within the device between views of one shape that do not overlap."""

    def finish(self) -> None:
        """Wait until the device has done all that it was given.

        Raises:
            DeviceLost: It has failed.
        """

    def address(self, array: Array) -> int:
        """Return where an array begins."""

    def available(self) -> int:
        """Return the bytes of its memory that are free."""

    def held(self) -> int:
        """Return the bytes of its memory that this process holds."""
