"""A GPU as a device: memory of the CUDA runtime, copies on one stream with the model's work."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.device.cuda_array import CudaArray, item_bytes, strips
from rbee_runtime.device.cuda_library import CudaGraph, CudaLibrary, CudaMemory
from rbee_runtime.device.device import Array, Layout, Staging
from rbee_runtime.device.nvml import Gpu, Nvml, Usage

_ALIGNED = 256
"""Bytes to which arrays in one block are aligned, as ``cudaMalloc`` aligns them."""


class CudaDevice:
    """One GPU. The model's sessions run on its stream, in order with the copies.

    Attributes:
        name: ``cuda``.
        index: Which GPU.
        memory_name: What ONNX Runtime calls its memory.
        stream: Address of the stream.
        gpu: Which GPU it is; ``None`` where nobody asked the driver.
    """

    name = "cuda"
    memory_name = "cuda"

    def __init__(
        self, library: CudaLibrary, index: int, held: Callable[[], int], gpu: Gpu | None = None
    ) -> None:
        """Make a stream on a device.

        Args:
            library: The CUDA runtime, of that device.
            index: Its index.
            held: Tells the bytes of its memory that this process holds.
            gpu: What the driver says of it.
        """
        self.index = index
        self.gpu = gpu
        self._library = library
        self._held = held
        self.stream = library.stream()

    def zeros(self, shape: Sequence[int], dtype: str) -> CudaArray:
        """Return memory that is all zero.

        Raises:
            OutOfMemory: The GPU does not have it.
        """
        size = math.prod(shape) * item_bytes(dtype)
        if size == 0:
            return CudaArray.of(0, shape, dtype)
        address = self._library.allocate(size)
        return CudaArray.of(address, shape, dtype, CudaMemory(self._library, address))

    def stage(self, layout: Layout) -> Staging:
        """Return small arrays in one block on either side, so that one copy brings them all."""
        offsets, size = {}, 0
        for name, (shape, dtype) in layout.items():
            offsets[name] = size
            nbytes = math.prod(shape) * item_bytes(dtype)
            size += -(-max(nbytes, 1) // _ALIGNED) * _ALIGNED
        block = self.zeros((size,), "uint8")
        pinned = _pinned(self._library, size)
        host = {
            name: np.frombuffer(pinned, dtype, math.prod(shape), offsets[name]).reshape(shape)
            for name, (shape, dtype) in layout.items()
        }
        device = {
            name: CudaArray.of(block.address + offsets[name], shape, dtype, block.owner)
            for name, (shape, dtype) in layout.items()
        }
        return Staging({**host, "": pinned}, {**device, "": block})

    def upload(self, staging: Staging) -> None:
        """See :class:`~rbee_runtime.device.device.Device`."""
        block, target = staging.host[""], staging.device[""]
        source = block.ctypes.data
        self._library.to_device(self.address(target), source, block.nbytes, self.stream)

    def write(self, target: Array, values: NDArray[Any]) -> None:
        """See :class:`~rbee_runtime.device.device.Device`."""
        whole = np.ascontiguousarray(values)
        size = self._contiguous(target).nbytes
        assert size == whole.nbytes
        self._library.to_device(self.address(target), whole.ctypes.data, size, self.stream)
        self.finish()

    def read(self, source: Array, target: NDArray[Any]) -> None:
        """See :class:`~rbee_runtime.device.device.Device`."""
        size = self._contiguous(source).nbytes
        assert size == target.nbytes
        assert target.flags.c_contiguous
        self._library.to_host(target.ctypes.data, self.address(source), size, self.stream)
        self.finish()

    def copy(self, target: Array, source: Array) -> None:
        """See :class:`~rbee_runtime.device.device.Device`."""
        assert isinstance(target, CudaArray)
        assert isinstance(source, CudaArray)
        for strip in strips(target, source):
            self._library.within(strip, self.stream)

    def finish(self) -> None:
        """See :class:`~rbee_runtime.device.device.Device`."""
        self._library.wait(self.stream)

    @property
    def architecture(self) -> str:
        """What code has to be compiled for to run on it, e.g. ``SM89``."""
        return self._library.architecture()

    def use(self) -> None:
        """Make the GPU this thread's, for libraries that ask for no other."""
        self._library.use()

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        """Record what ``work`` gives to the stream, without running it.

        Raises:
            InferenceFailed: It cannot be recorded, or what ``work`` raised.
        """
        return CudaGraph(self._library, self._library.capture(self.stream, work), self.stream)

    def end_capture(self) -> None:
        """Leave the capture of a graph that failed: until then, nothing runs on the stream.

        Raises:
            DeviceLost: The device itself has failed.
        """
        self._library.end_capture(self.stream)
        self.finish()

    def address(self, array: Array) -> int:
        """See :class:`~rbee_runtime.device.device.Device`."""
        assert isinstance(array, CudaArray)
        return array.address

    def available(self) -> int:
        """See :class:`~rbee_runtime.device.device.Device`."""
        return self._library.memory()[0]

    def held(self) -> int:
        """See :class:`~rbee_runtime.device.device.Device`."""
        return self._held()

    @staticmethod
    def _contiguous(array: Array) -> CudaArray:
        assert isinstance(array, CudaArray)
        assert array.is_contiguous
        return array


def _pinned(library: CudaLibrary, size: int) -> NDArray[np.uint8]:
    """Return host memory that the GPU reads by itself, all zero; freed with the last view of it."""
    address = library.allocate_host(size)
    buffer = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(buffer, library.free_host, address).atexit = False
    pinned: NDArray[np.uint8] = np.frombuffer(memoryview(buffer), np.uint8)
    pinned[:] = 0
    return pinned


def open_cuda(index: int) -> CudaDevice:
    """Open a GPU.

    Raises:
        DeviceError: A library, the driver or the GPU is missing; the message says which.
    """
    library = CudaLibrary.load(index)
    nvml = Nvml.load(library.bus_id())
    return CudaDevice(library, index, Usage(nvml).held, nvml.gpu)
