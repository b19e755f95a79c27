"""What NVIDIA's management library says of a GPU and its memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Self

from rbee_runtime.errors import DeviceError


@dataclass(frozen=True, slots=True)
class Gpu:
    """What never changes about a GPU, asked once when it is opened.

    Attributes:
        name: As the driver has it, e.g. ``NVIDIA H200``.
        capability: Compute capability, e.g. ``(9, 0)``.
        memory: Bytes of its memory.
        driver: The driver's version.
    """

    name: str
    capability: tuple[int, int]
    memory: int
    driver: str

    def __str__(self) -> str:
        major, minor = self.capability
        return (
            f"{self.name}, {self.memory / 2**30:.0f} GiB, compute capability {major}.{minor}, "
            f"driver {self.driver}"
        )


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Memory of a GPU, in bytes.

    Attributes:
        total: All of it.
        used: In use, by whomever.
        own: Of that, by this process; ``None`` where the driver does not tell, as in most
            containers.
    """

    total: int
    used: int
    own: int | None

    @property
    def others(self) -> int | None:
        """In use by other processes and the driver."""
        return None if self.own is None else max(0, self.used - self.own)


class Nvml:
    """The management library, on one GPU.

    Attributes:
        gpu: Which one.

    Args:
        library: The module ``pynvml``, or what behaves like it.
        bus_id: Where the GPU is on the PCI bus: CUDA and this library number GPUs differently.

    Raises:
        DeviceError: It does not know that GPU.
    """

    def __init__(self, library: Any, bus_id: str) -> None:
        self._nvml = library
        try:
            self._handle = library.nvmlDeviceGetHandleByPciBusId(bus_id.encode())
            self.gpu = Gpu(
                str(library.nvmlDeviceGetName(self._handle)),
                tuple(library.nvmlDeviceGetCudaComputeCapability(self._handle)),
                int(library.nvmlDeviceGetMemoryInfo(self._handle).total),
                str(library.nvmlSystemGetDriverVersion()),
            )
        except library.NVMLError as error:
            raise DeviceError(f"NVML knows no GPU at {bus_id}: {error}") from error

    @classmethod
    def load(cls, bus_id: str) -> Self:
        """Load the library, which comes with the driver.

        Raises:
            DeviceError: There is none, or it does not know that GPU.
        """
        import pynvml

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise DeviceError(f"NVIDIA's management library does not start: {error}") from error
        return cls(pynvml, bus_id)

    def memory(self) -> GpuMemory:
        """Return the GPU's memory as it is now.

        Raises:
            DeviceError: The GPU does not answer.
        """
        try:
            all_of_it = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError as error:
            raise DeviceError(f"the GPU does not tell its memory: {error}") from error
        mine = [process.usedGpuMemory for process in running if process.pid == os.getpid()]
        own = sum(mine) if mine and None not in mine else None
        return GpuMemory(int(all_of_it.total), int(all_of_it.used), own)


class Usage:
    """How much of a GPU's memory this process holds, from the moment this is made.

    Args:
        nvml: The GPU's.

    Raises:
        DeviceError: The GPU does not answer.
    """

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._before = nvml.memory().used
        self._last = 0

    def held(self) -> int:
        """Return the bytes held; of a GPU that no longer answers, the last that were known.

        Where the driver does not tell whose memory is whose, all that has been taken since counts.
        """
        try:
            memory = self._nvml.memory()
        except DeviceError:
            return self._last
        grown = max(0, memory.used - self._before)
        self._last = grown if memory.own is None else memory.own
        return self._last


def has_driver() -> bool:
    """Return whether an NVIDIA driver is installed that knows at least one GPU."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return bool(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return False
