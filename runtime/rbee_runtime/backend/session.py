"""ONNX Runtime's session, its I/O binding, and its failures in this package's terms."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime as ort
import psutil
from numpy.typing import NDArray

from rbee_runtime import kernels
from rbee_runtime.device import Array, CudaDevice, Device, HostDevice
from rbee_runtime.errors import (
    ArtifactError,
    DeviceError,
    InferenceFailed,
    OutOfMemory,
    RuntimeFault,
)
from rbee_runtime.freed_memory import forget_freed

_LOG = logging.getLogger("rbee.backend")

_OUT_OF_MEMORY = (
    "Failed to allocate memory",
    "bad_alloc",
    "bad allocation",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)

_NO_TENSORRT = "Please install TensorRT libraries"

_ELEMENTS: Mapping[str, int] = MappingProxyType({"bfloat16": 16})
"""ONNX's numbers of the types that NumPy has not."""

_CUDA: Mapping[str, str] = MappingProxyType(
    {
        # Memory grows by what is asked for, not by doubling: twice the weights would not fit.
        "arena_extend_strategy": "kSameAsRequested",
        # Decode replays captured graphs; a run that is not to be captured says so (GRAPH_OFF).
        "enable_cuda_graph": "1",
        # Of the products that are left in fp32, none is large, and a sampler's sums are exact.
        "use_tf32": "0",
        # Copies are ours and on the same stream as everything else.
        "do_copy_in_default_stream": "1",
        # Attention by Flash (1) or memory-efficient (2) kernels. Left to itself, from Hopper on the
        # library has cuDNN build and keep a plan for every length of prompt that it meets. What
        # decodes has a kernel besides, which this does not choose.
        "sdpa_kernel": "3",
    }
)
"""The CUDA provider's options, the device and the stream apart. There is no ``gpu_mem_limit``: the
cache takes its share first, and a step that finds no memory fails alone. Convolutions, which the
``cudnn`` options are about, do not occur."""

_TENSORRT: Mapping[str, str] = MappingProxyType(
    {
        # An engine takes minutes to build, and is for one GPU and one version: it is kept.
        "trt_engine_cache_enable": "1",
        "trt_timing_cache_enable": "1",
        # There is one stream and one step at a time.
        "trt_context_memory_sharing_enable": "1",
    }
)
"""The TensorRT provider's options, besides the device, the stream, and what depends on the model.
Its context is one for all sizes, so it captures no graphs (``trt_cuda_graph_enable``)."""

_FUSED_PRODUCTS = "ep.cuda.fpa_intb_gemm"
_FUSED_PRODUCTS_SAID = "ORT_FPA_INTB_GEMM"
_FUSED_SIGN = "fpA_intB"
"""What all that goes wrong with fused products has in its message."""

GRAPH_OFF = -1
"""The number of no captured graph: such a run is neither captured nor replayed."""


@dataclass(frozen=True, slots=True)
class TensorRtOptions:
    """What ONNX Runtime's TensorRT provider builds an engine for, and where it keeps that.

    Attributes:
        cache: Directory of its engines and timings.
        model: The options that depend on the model.
        sizes: Sizes of the graph, by name, that are to be fixed.
    """

    cache: Path
    model: Mapping[str, str]
    sizes: Mapping[str, int]


def open_session(
    graph: Path,
    device: Device,
    *,
    native: bool = False,
    exact: bool = False,
    captures: bool = True,
    fused: bool = True,
    tensorrt: TensorRtOptions | None = None,
) -> ort.InferenceSession:
    """Load a graph on the provider of a device.

    Args:
        graph: The file.
        device: The device.
        native: Use the native kernels, where they are to be had; for graphs that compute in
            float32, on the CPU.
        exact: Have those compute in float32 throughout: where weights are not rounded.
        captures: Have the CUDA provider be ready to capture runs, which asks more of a graph.
        fused: On a GPU, have products with weights in blocks unpack them as they go. Otherwise all
            but those of a few rows write the whole matrix in 16 bits first.
        tensorrt: Have the TensorRT provider build an engine of it, on a GPU.

    Raises:
        ArtifactError: ONNX Runtime cannot load it.
        OutOfMemory: The device has no room for its weights.
        DeviceError: The provider does not work.
    """
    if native:
        try:
            return open_with_kernels(graph, exact=exact)
        except kernels.NoKernels as why:
            # What is wrong with the graph itself, the plain session says again.
            _LOG.log(_gravity(why), "Running on ONNX Runtime's own kernels: %s", why)
    options = _options()
    providers: list[Any] = ["CPUExecutionProvider"]
    for name, size in (tensorrt.sizes if tensorrt else {}).items():
        options.add_free_dimension_override_by_name(name, size)
    if isinstance(device, CudaDevice) and device.memory_name == "cuda":
        # It warns of plug-ins that it has no need of.
        ort.set_default_logger_severity(3)
        # Weights are allocated to the byte, outside of the arena that steps share.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        # An entry would go before the variable by which the library is told the same.
        if _FUSED_PRODUCTS_SAID not in os.environ:
            options.add_session_config_entry(_FUSED_PRODUCTS, str(int(fused)))
        choices = {"device_id": str(device.index), "user_compute_stream": str(device.stream)}
        if tensorrt is None:
            own = {**_CUDA, **choices, "enable_cuda_graph": "1" if captures else "0"}
            providers.insert(0, ("CUDAExecutionProvider", own))
        else:
            own = {**_TENSORRT, **choices, **tensorrt.model}
            for kind in ("engine", "timing"):
                own[f"trt_{kind}_cache_path"] = str(tensorrt.cache)
            rest = {**_CUDA, **choices, "enable_cuda_graph": "0"}
            providers[:0] = [("TensorrtExecutionProvider", own), ("CUDAExecutionProvider", rest)]
    try:
        # Where TensorRT does not start, the library would print so and take the next provider.
        fallback = tensorrt is None
        session = ort.InferenceSession(
            graph, options, providers=providers, enable_fallback=fallback
        )
    except Exception as error:  # the library's exceptions share no narrower base
        if _is_memory(str(error)):
            raise OutOfMemory(f"{graph}: {device.name} has no room for the weights") from error
        if fused and _FUSED_SIGN in str(error):
            _LOG.warning("Unpacking weights before they are used, which is slower: %s", error)
            return open_session(graph, device, fused=False, tensorrt=tensorrt)
        if _NO_TENSORRT in str(error):
            raise DeviceError(
                "ONNX Runtime cannot load its TensorRT provider here, which needs TensorRT 10; "
                "pip install 'onnx-worker-rbee[tensorrt]'"
            ) from error
        raise ArtifactError(f"{graph}: ONNX Runtime cannot load the graph: {error}") from error
    # Where a provider cannot be loaded, the library goes on without it.
    if len(session.get_providers()) < len(providers):
        raise DeviceError(
            "ONNX Runtime cannot load its CUDA provider here, though driver and libraries are "
            "there; see that their versions fit"
        )
    return session


def open_with_kernels(graph: Path, *, exact: bool = False) -> ort.InferenceSession:
    """Load a graph with the native kernels.

    Args:
        graph: The file.
        exact: Have the kernels compute in float32 throughout.

    Raises:
        NoKernels: They are not to be had here.
        Refused: They do not run this graph, or it cannot be loaded at all.
        DeviceError: ``RBEE_KERNELS`` names kernels that are not to be had here.
    """
    library = kernels.library()
    options = _options()
    try:
        with kernels.exactly() if exact else nullcontext():
            options.register_custom_ops_library(str(library))
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's exceptions share no narrower base
        raise kernels.Refused(str(error)) from error
    kernels.forget_pages(graph.parent)
    # Loading a graph frees more than a step ever asks for.
    forget_freed()
    return session


def _gravity(why: kernels.NoKernels) -> int:
    """Return the level at which to log it: above that of news where somebody can do something."""
    match why:
        case kernels.Refused() | kernels.Uncompiled(is_remediable=True):
            return logging.WARNING
        case _:
            return logging.INFO


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.log_severity_level = 3
    return options


class Binding:
    """Arrays bound to a session's inputs and outputs, by address.

    Args:
        session: The session to run.
        device: Where the arrays are.
        graph: Number under which the CUDA provider captures the run at its first time, and replays
            it from then on; with the same arrays and sizes only.
    """

    def __init__(
        self, session: ort.InferenceSession, device: Device, graph: int = GRAPH_OFF
    ) -> None:
        self._session = session
        self._device = device
        self._binding = session.io_binding()
        self._options: ort.RunOptions | None = None
        if not isinstance(device, HostDevice):
            self._options = ort.RunOptions()
            self._options.add_run_config_entry("gpu_graph_id", str(graph))
            # The stream keeps the order; who needs a result waits for it.
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def input(self, name: str, array: Array) -> None:
        """Have the session read ``array``, which must be contiguous and outlive the binding."""
        self._binding.bind_input(name, *self._place(array))

    def host_input(self, name: str, array: NDArray[Any]) -> None:
        """Have the session read an array of the host's, alike."""
        address = array.ctypes.data
        self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, address)

    def output(self, name: str, array: Array) -> None:
        """Have the session write ``array``, which must be contiguous and outlive the binding."""
        self._binding.bind_output(name, *self._place(array))

    def run(self, tokens: int) -> None:
        """Run the session once.

        Args:
            tokens: Tokens of the step, for the message.

        Raises:
            OutOfMemory: The provider could not allocate what the step needs.
            DeviceLost: The device has failed.
            InferenceFailed: It failed otherwise.
        """
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:  # the binding's exceptions share no narrower base
            raise self._fault(str(error), tokens) from error

    def _fault(self, message: str, tokens: int) -> RuntimeFault:
        if _is_memory(message):
            return OutOfMemory(f"the step over {tokens} tokens ran out of memory")
        # A device that has failed says so again to whoever asks.
        self._device.finish()
        return InferenceFailed(f"the step failed in ONNX Runtime: {message}")

    def _place(self, array: Array) -> tuple[str, int, Any, tuple[int, ...], int]:
        device, dtype = self._device, array.dtype
        element = _ELEMENTS.get(str(dtype)) or np.dtype(dtype)
        return device.memory_name, device.index, element, array.shape, device.address(array)


def _is_memory(message: str) -> bool:
    return any(sign in message for sign in _OUT_OF_MEMORY)


def _threads() -> int:
    """Return the cores this process may use, two threads of one core counted once."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
