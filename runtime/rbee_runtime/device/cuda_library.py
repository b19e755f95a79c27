"""The CUDA runtime library by ctypes: the calls this package makes of it."""

from __future__ import annotations

import contextlib
import ctypes
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import onnxruntime as ort

from rbee_runtime.device.cuda_array import Strip
from rbee_runtime.device.cuda_copy import TO_DEVICE, TO_HOST, WITHIN, Copy3D
from rbee_runtime.errors import (
    DeviceError,
    DeviceLost,
    InferenceFailed,
    OutOfMemory,
    RuntimeFault,
)
from rbee_runtime.units import human_size

_OUT_OF_MEMORY: Final = 2  # cudaErrorMemoryAllocation
_CAPABILITY: Final = (75, 76)  # cudaDevAttrComputeCapabilityMajor and Minor
_THREAD_LOCAL: Final = 1  # cudaStreamCaptureModeThreadLocal
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

    def end_capture(self, stream: int) -> None:
        """End whatever capture a stream is in, and drop what was captured; none is no error."""
        graph = ctypes.c_void_p()
        self._cuda.cudaStreamEndCapture(ctypes.c_void_p(stream), ctypes.byref(graph))
        if graph.value:
            self._cuda.cudaGraphDestroy(graph)
        self._cuda.cudaGetLastError()

    def to_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy from the host, in the order of a stream."""
        self._copy(target, source, size, TO_DEVICE, stream)

    def to_host(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy to the host, in the order of a stream."""
        self._copy(target, source, size, TO_HOST, stream)

    def within(self, strip: Strip, stream: int) -> None:
        """Copy within the device, in the order of a stream."""
        if strip.rows == 1 and strip.slices == 1:
            self._copy(strip.target, strip.source, strip.width, WITHIN, stream)
            return
        parameters = Copy3D.of(strip)
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

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Record what ``work`` gives to a stream, without running it.

        Other threads may use the device meanwhile; this one may neither allocate nor wait.

        Returns:
            The address of a graph that :meth:`launch` runs.

        Raises:
            InferenceFailed: CUDA cannot record it, or ``work`` raised this or something else.
                The stream is as before.
        """
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        at = ctypes.c_void_p(stream)
        self._record("cudaStreamBeginCapture", at, _THREAD_LOCAL)
        try:
            work()
        except BaseException:
            self._cuda.cudaStreamEndCapture(at, ctypes.byref(graph))
            self._cuda.cudaGetLastError()
            if graph.value:
                self._cuda.cudaGraphDestroy(graph)
            raise
        self._record("cudaStreamEndCapture", at, ctypes.byref(graph))
        try:
            target = ctypes.byref(executable)
            self._record("cudaGraphInstantiate", target, graph, ctypes.c_ulonglong(0))
        finally:
            self._cuda.cudaGraphDestroy(graph)
        return executable.value or 0

    def launch(self, graph: int, stream: int) -> None:
        """Run what was recorded, in the order of a stream."""
        self._call("cudaGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def free_graph(self, graph: int) -> None:
        """Give up a graph; one that still runs is freed after that."""
        self._cuda.cudaGraphExecDestroy(ctypes.c_void_p(graph))

    def architecture(self) -> str:
        """Return the GPU's architecture as compilers name it, e.g. ``SM89``."""
        numbers = []
        for attribute in _CAPABILITY:
            number = ctypes.c_int()
            self._call("cudaDeviceGetAttribute", ctypes.byref(number), attribute, self._device)
            numbers.append(number.value)
        return f"SM{numbers[0]}{numbers[1]}"

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

    def _record(self, name: str, *arguments: Any) -> None:
        """Call what belongs to a capture, which may fail without harm to the device."""
        code = getattr(self._cuda, name)(*arguments)
        if code != 0:
            self._cuda.cudaGetLastError()
            raise InferenceFailed(f"CUDA does not record the step: {self._says(code)} in {name}")

    def _fault(self, code: int, name: str, asked: int) -> RuntimeFault:
        # An error of memory is forgotten once it is asked for; others stay with the device.
        self._cuda.cudaGetLastError()
        if code == _OUT_OF_MEMORY:
            return OutOfMemory(f"the GPU has no {human_size(asked)} of memory left")
        return DeviceLost(f"CUDA device {self._device} failed in {name}: {self._says(code)}")

    def _says(self, code: int) -> str:
        function = self._cuda.cudaGetErrorString
        function.restype = ctypes.c_char_p
        text: bytes | None = function(code)
        return f"{(text or b'unknown error').decode()} (error {code})"


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


@dataclass(slots=True)
class CudaGraph:
    """Work of a stream that was recorded once, to be given to it again as a whole.

    Attributes:
        library: What runs it.
        graph: Its address.
        stream: The stream.
    """

    library: CudaLibrary
    graph: int
    stream: int

    def launch(self) -> None:
        """Run it, after all that the stream was given before."""
        self.library.launch(self.graph, self.stream)

    def __del__(self) -> None:
        self.library.free_graph(self.graph)
