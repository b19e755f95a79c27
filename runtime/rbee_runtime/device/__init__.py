"""Where a backend's memory lives: one protocol, the host and a GPU behind it."""

from rbee_runtime.device.cuda import CudaDevice, open_cuda
from rbee_runtime.device.cuda_array import CudaArray
from rbee_runtime.device.cuda_library import CudaLibrary
from rbee_runtime.device.device import Array, Device, Layout, Staging
from rbee_runtime.device.host import HostDevice
from rbee_runtime.device.nvml import Gpu, GpuMemory, Nvml, has_driver

__all__ = [
    "Array",
    "CudaArray",
    "CudaDevice",
    "CudaLibrary",
    "Device",
    "Gpu",
    "GpuMemory",
    "HostDevice",
    "Layout",
    "Nvml",
    "Staging",
    "has_driver",
    "open_cuda",
]
