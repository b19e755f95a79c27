"""The CUDA runtime library by ctypes: the dozen calls this package makes of it."""

from __future__ import annotations

import contextlib
import ctypes
import io
from dataclasses import dataclass
from typing import Any, Final

import onnxruntime as ort

from rbee_runtime.device.cuda_array import Strip
from rbee_runtime.errors import DeviceError, DeviceLost, OutOfMemory, RuntimeFault

_OUT_OF_MEMORY: Final = 2  # cudaErrorMemoryAllocation
_TO_DEVICE, _TO_HOST, _WITHIN = 1, 2, 3  # cudaMemcpyKind
_DRIVER: Final = "libcuda.so.1"
_EXTRA: Final = "install this package with its extra: pip install 'onnx-worker-rbee[cuda]'"


class CudaLibrary:
    """The CUDA runtime of one device. Errors of the device come out as this package's.

    Args:
        runtime: The loaded library, or what behaves like it.
        device: Index of the device.

    Raises:
        DeviceError: There is no such device.
    """

    def __init__(self, runtime: Any, device: int) -> None:
        self._cuda = runtime
        count = ctypes.c_int()
        code = runtime.cudaGetDeviceCount(ctypes.byref(count))
        if code != 0:
            raise DeviceError(f"CUDA finds no usable device: {self._says(code)}")
        if not 0 <= device < count.value:
            raise DeviceError(
                f"device {device} does not exist: CUDA sees {count.value}, numbered from 0"
            )
        self._device = device
        self.use()

    @classmethod
    def load(cls, device: int) -> CudaLibrary:
        """Load the libraries that ONNX Runtime's CUDA provider needs.

        Raises:
            DeviceError: One of them, the driver or the device is missing; the message says which.
        """
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise DeviceError("this ONNX Runtime was built without CUDA; install onnxruntime-gpu")
        try:
            ctypes.CDLL(_DRIVER)
        except OSError:
            raise DeviceError(
                f"no NVIDIA driver ({_DRIVER}): CUDA needs a machine with an NVIDIA GPU, and in a "
                "container the option --gpus all"
            ) from None
        major = ort.cuda_version.partition(".")[0]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()
        for library in (f"libcublasLt.so.{major}", f"libcublas.so.{major}", "libcurand.so.10"):
            _open(library)
        return cls(_open(f"libcudart.so.{major}"), device)

    def use(self) -> None:
        """Make the device this thread's."""
        self._call("cudaSetDevice", self._device)

    def allocate(self, size: int) -> int:
        """Return the address of so many bytes on the device, all zero.

        Raises:
            OutOfMemory: It does not have them.
        """
        self.use()
        pointer = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size), asked=size)
        self._call("cudaMemset", pointer, 0, ctypes.c_size_t(size))
        self._call("cudaDeviceSynchronize")  # a stream of one's own does not wait for it
        return pointer.value or 0

    def free(self, address: int) -> None:
        """Give memory back; a device that has failed keeps it."""
        self._cuda.cudaFree(ctypes.c_void_p(address))

    def allocate_host(self, size: int) -> int:
        """Return the address of so many bytes of host memory that copies need not wait for.

        Raises:
            OutOfMemory: There are not as many.
        """
        pointer = ctypes.c_void_p()
        self._call("cudaMallocHost", ctypes.byref(pointer), ctypes.c_size_t(size), asked=size)
        return pointer.value or 0

    def free_host(self, address: int) -> None:
        """Give such memory back."""
        self._cuda.cudaFreeHost(ctypes.c_void_p(address))

    def stream(self) -> int:
        """Return a new stream, which does not wait for the default one."""
        pointer = ctypes.c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(pointer), 1)
        return pointer.value or 0

    def to_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy from the host, in the order of a stream."""
        self._copy(target, source, size, _TO_DEVICE, stream)

    def to_host(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy to the host, in the order of a stream."""
        self._copy(target, source, size, _TO_HOST, stream)

    def within(self, strip: Strip, stream: int) -> None:
        """Copy within the device, in the order of a stream."""
        if strip.rows == 1 and strip.slices == 1:
            self._copy(strip.target, strip.source, strip.width, _WITHIN, stream)
            return
        parameters = _Copy3D.of(strip)
        self._call("cudaMemcpy3DAsync", ctypes.byref(parameters), ctypes.c_void_p(stream))

    def wait(self, stream: int) -> None:
        """Wait until a stream is done.

        Raises:
            DeviceLost: Something in it failed, which fails all that follows.
        """
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes of the device."""
        self.use()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def bus_id(self) -> str:
        """Return where the device is on the PCI bus, by which other libraries know it."""
        text = ctypes.create_string_buffer(32)
        self._call("cudaDeviceGetPCIBusId", text, 32, self._device)
        return text.value.decode()

    def _copy(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(target),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
            kind,
            ctypes.c_void_p(stream),
        )

    def _call(self, name: str, *arguments: Any, asked: int = 0) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code != 0:
            raise self._fault(code, name, asked)

    def _fault(self, code: int, name: str, asked: int) -> RuntimeFault:
        # An error of memory is forgotten once it is asked for; others stay with the device.
        self._cuda.cudaGetLastError()
        if code == _OUT_OF_MEMORY:
            return OutOfMemory(f"the GPU has no {asked} bytes of memory left")
        return DeviceLost(f"CUDA device {self._device} failed in {name}: {self._says(code)}")

    def _says(self, code: int) -> str:
        function = self._cuda.cudaGetErrorString
        function.restype = ctypes.c_char_p
        text: bytes | None = function(code)
        return f"{(text or b'unknown error').decode()} (error {code})"


class _Pitched(ctypes.Structure):
    """``cudaPitchedPtr``."""

    _fields_ = [
        ("ptr", ctypes.c_void_p),
        ("pitch", ctypes.c_size_t),
        ("xsize", ctypes.c_size_t),
        ("ysize", ctypes.c_size_t),
    ]


class _Triple(ctypes.Structure):
    """``cudaPos`` and ``cudaExtent``."""

    _fields_ = [
        ("x", ctypes.c_size_t),
        ("y", ctypes.c_size_t),
        ("z", ctypes.c_size_t),
    ]


class _Copy3D(ctypes.Structure):
    """``cudaMemcpy3DParms``."""

    _fields_ = [
        ("srcArray", ctypes.c_void_p),
        ("srcPos", _Triple),
        ("srcPtr", _Pitched),
        ("dstArray", ctypes.c_void_p),
        ("dstPos", _Triple),
        ("dstPtr", _Pitched),
        ("extent", _Triple),
        ("kind", ctypes.c_int),
    ]

    @classmethod
    def of(cls, strip: Strip) -> _Copy3D:
        return cls(
            srcPtr=_pitched(strip.source, strip.source_steps, strip),
            dstPtr=_pitched(strip.target, strip.target_steps, strip),
            extent=_Triple(strip.width, strip.rows, strip.slices),
            kind=_WITHIN,
        )


def _pitched(address: int, steps: tuple[int, int], strip: Strip) -> _Pitched:
    row, stride = steps
    rows = stride // row if strip.slices > 1 else strip.rows
    return _Pitched(address, row, strip.width, rows)


def _open(library: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(library)
    except OSError:
        raise DeviceError(f"CUDA's library {library} is not to be found; {_EXTRA}") from None


@dataclass(slots=True)
class CudaMemory:
    """Device memory that is freed with the last view of it.

    Attributes:
        library: What frees it.
        address: Where it begins.
    """

    library: CudaLibrary
    address: int

    def __del__(self) -> None:
        self.library.free(self.address)
