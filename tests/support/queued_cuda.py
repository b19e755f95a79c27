"""A CUDA runtime library whose stream does its work only when somebody waits for it.

Whoever reads a result too early, or overwrites what a copy has yet to read, is found out.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .fake_cuda_library import FakeCuda

ALIGNED = 256
UNSUPPORTED, INVALIDATED = 900, 901
NOT_CAPTURING = 401
CAPABILITY = {75: 8, 76: 9}
Work = Callable[[], None]


@dataclass
class QueuedCuda(FakeCuda):
    """A :class:`FakeCuda` that also records graphs, as strictly as the real one.

    Attributes:
        refuses: What recording answers; 0 to succeed.
        graphs: What was recorded and not given up, by address.
    """

    refuses: int = 0
    graphs: dict[int, list[Work]] = field(default_factory=dict)
    _queue: list[Work] = field(default_factory=list)
    _recorded: list[Work] | None = None
    _invalid: bool = False
    _numbers: int = 1000

    @property
    def records(self) -> bool:
        return self._recorded is not None

    def enqueue(self, work: Work) -> None:
        """Give the stream something to do."""
        (self._queue if self._recorded is None else self._recorded).append(work)

    def cudaStreamSynchronize(self, stream: Any) -> int:
        if self._forbidden():
            return UNSUPPORTED
        code = super().cudaStreamSynchronize(stream)
        self._drain()
        return code

    def cudaDeviceSynchronize(self) -> int:
        if self._forbidden():
            return UNSUPPORTED
        self._drain()
        return super().cudaDeviceSynchronize()

    def cudaMalloc(self, pointer: Any, size: Any) -> int:
        return UNSUPPORTED if self._forbidden() else super().cudaMalloc(pointer, size)

    def cudaMallocHost(self, pointer: Any, size: Any) -> int:
        return UNSUPPORTED if self._forbidden() else super().cudaMallocHost(pointer, size)

    def cudaFree(self, pointer: Any) -> int:
        self._drain()  # it waits, as the real one does
        return super().cudaFree(pointer)

    def cudaFreeHost(self, pointer: Any) -> int:
        self._drain()
        return super().cudaFreeHost(pointer)

    def cudaDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> int:
        value._obj.value = CAPABILITY[attribute]
        return self.broken

    def cudaStreamBeginCapture(self, stream: Any, mode: int) -> int:
        assert mode == 1, "other threads go on"
        assert self._recorded is None
        if self.refuses:
            return self.refuses
        self._recorded, self._invalid = [], False
        return 0

    def cudaStreamEndCapture(self, stream: Any, graph: Any) -> int:
        if self._recorded is None:
            return NOT_CAPTURING
        recorded, self._recorded = self._recorded, None
        if self._invalid:
            return INVALIDATED
        graph._obj.value = self._keep(recorded)
        return 0

    def cudaGraphInstantiate(self, executable: Any, graph: Any, flags: Any) -> int:
        executable._obj.value = self._keep(self.graphs[graph.value])
        return 0

    def cudaGraphDestroy(self, graph: Any) -> int:
        del self.graphs[graph.value]
        return 0

    def cudaGraphExecDestroy(self, graph: Any) -> int:
        del self.graphs[graph.value]
        return 0

    def cudaGraphLaunch(self, graph: Any, stream: Any) -> int:
        assert stream.value == 77
        assert self._recorded is None
        self.calls.append(("launch", 0))
        for work in self.graphs[graph.value]:
            self.enqueue(work)
        return self.broken

    def _block(self, size: int) -> int:
        """Take memory that is aligned as the real one's is, and not a byte better."""
        around = (ctypes.c_ubyte * (size + 2 * ALIGNED))()
        offset = -ctypes.addressof(around) % ALIGNED
        if (ctypes.addressof(around) + offset) % (2 * ALIGNED) == 0:
            offset += ALIGNED
        address = ctypes.addressof(around) + offset
        self._blocks[address] = (ctypes.c_ubyte * size).from_buffer(around, offset)
        return address

    def _move(self, target: int, source: int, size: int) -> None:
        move = super()._move
        self.enqueue(lambda: move(target, source, size))

    def _drain(self) -> None:
        queue, self._queue = self._queue, []
        if not self.broken:
            for work in queue:
                work()

    def _forbidden(self) -> bool:
        """Whether a call may not be made now, because a graph is recorded: it ends that."""
        self._invalid = self._invalid or self.records
        return self.records

    def _keep(self, works: list[Work]) -> int:
        self._numbers += 1
        self.graphs[self._numbers] = works
        return self._numbers
