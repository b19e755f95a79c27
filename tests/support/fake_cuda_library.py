"""A CUDA runtime library that works on the host's memory and notes what it was asked."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

NO_DEVICE, OUT_OF_MEMORY, ILLEGAL_STATE, ILLEGAL_ADDRESS = 100, 2, 401, 700
_KINDS = {1: "to device", 2: "to host", 3: "within"}


@dataclass
class FakeCuda:
    """What :class:`~rbee_runtime.device.CudaLibrary` calls of ``libcudart``.

    Attributes:
        calls: Copies and waits in order, with their bytes: ``("to device", 64)``, ``("wait", 0)``.
        size: Bytes of device memory.
        used: Of these, how many are in use.
        broken: What every call of the device answers from now on; 0 for success.
        devices: How many there are.
    """

    calls: list[tuple[str, int]] = field(default_factory=list)
    size: int = 1 << 30
    used: int = 0
    broken: int = 0
    devices: int = 1
    _blocks: dict[int, Any] = field(default_factory=dict)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.calls]

    def cudaGetDeviceCount(self, count: Any) -> int:
        count._obj.value = self.devices
        return 0 if self.devices else NO_DEVICE

    def cudaSetDevice(self, device: int) -> int:
        return self.broken

    def cudaDeviceSynchronize(self) -> int:
        return self.broken

    def cudaGetLastError(self) -> int:
        return self.broken

    def cudaMemGetInfo(self, free: Any, total: Any) -> int:
        free._obj.value, total._obj.value = self.size - self.used, self.size
        return self.broken

    def cudaDeviceGetPCIBusId(self, text: Any, size: int, device: int) -> int:
        text.value = b"0000:01:00.0"
        return 0

    def cudaMalloc(self, pointer: Any, size: Any) -> int:
        if self.broken:
            return self.broken
        if self.used + size.value > self.size:
            return OUT_OF_MEMORY
        self.used += size.value
        pointer._obj.value = self._block(size.value)
        return 0

    def cudaMallocHost(self, pointer: Any, size: Any) -> int:
        pointer._obj.value = self._block(size.value)
        return self.broken

    def cudaFree(self, pointer: Any) -> int:
        self.used -= len(self._blocks.pop(pointer.value))
        return self.broken

    def cudaFreeHost(self, pointer: Any) -> int:
        del self._blocks[pointer.value]
        return self.broken

    def cudaMemset(self, pointer: Any, value: int, size: Any) -> int:
        ctypes.memset(pointer.value, value, size.value)
        return self.broken

    def cudaStreamCreateWithFlags(self, stream: Any, flags: int) -> int:
        stream._obj.value = 77
        return self.broken

    def cudaStreamSynchronize(self, stream: Any) -> int:
        self.calls.append(("wait", 0))
        return self.broken

    def cudaStreamEndCapture(self, stream: Any, graph: Any) -> int:
        return ILLEGAL_STATE

    def cudaMemcpyAsync(self, target: Any, source: Any, size: Any, kind: int, stream: Any) -> int:
        assert stream.value == 77
        self.calls.append((_KINDS[kind], size.value))
        self._move(target.value, source.value, size.value)
        return self.broken

    def cudaMemcpy3DAsync(self, reference: Any, stream: Any) -> int:
        p = reference._obj
        extent = p.extent
        self.calls.append((_KINDS[p.kind], extent.x * extent.y * extent.z))
        for at in range(extent.z):
            for row in range(extent.y):
                starts = [
                    side.ptr + at * side.pitch * side.ysize + row * side.pitch
                    for side in (p.dstPtr, p.srcPtr)
                ]
                self._move(*starts, extent.x)
        return self.broken

    @property
    def cudaGetErrorString(self) -> Any:
        def says(code: int) -> bytes:
            return {2: b"out of memory", 100: b"no CUDA-capable device is detected"}.get(
                code, b"an illegal memory access was encountered"
            )

        return says

    def _block(self, size: int) -> int:
        block = (ctypes.c_ubyte * max(1, size))()
        address = ctypes.addressof(block)
        self._blocks[address] = block
        return address

    def _move(self, target: int, source: int, size: int) -> None:
        ctypes.memmove(target, source, size)
