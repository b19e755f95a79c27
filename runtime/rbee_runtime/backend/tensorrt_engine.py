"""A TensorRT engine, read from its file, and the contexts it runs in."""

from __future__ import annotations

import logging
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from rbee_runtime.artifact import Engine, Manifest
from rbee_runtime.backend.tensorrt_library import Errors, TensorRt
from rbee_runtime.backend.tensorrt_tensors import check_tensors
from rbee_runtime.device import Array, CudaDevice
from rbee_runtime.device.cuda_library import CudaGraph
from rbee_runtime.errors import (
    ArtifactError,
    DeviceError,
    DeviceLost,
    InferenceFailed,
    OutOfMemory,
    RuntimeFault,
)

_LOG = logging.getLogger("rbee.backend")


class TensorRtEngine:
    """An engine on a GPU, with the memory of its activations.

    TensorRT's rule for captured graphs is a context each: a graph holds what its context was set
    to. All contexts share one piece of memory for activations, as they run one after another.

    Attributes:
        name: ``tensorrt``.
        most_tokens: Tokens of a prompt in one step at most.
        weight_bytes: Bytes of its weights on the GPU.
        activation_bytes: Bytes of its activations, allocated once.
    """

    name = "tensorrt"

    def __init__(
        self,
        file: Path,
        entry: Engine,
        manifest: Manifest,
        library: TensorRt,
        device: CudaDevice,
    ) -> None:
        """Read an engine and bring its weights to the GPU.

        Args:
            file: The engine's file, checked against its sha256.
            entry: What the manifest says of it.
            manifest: The artifact's.
            library: The library that built it.
            device: The GPU.

        Raises:
            DeviceError: TensorRT does not start, or does not take the engine.
            ArtifactError: The engine is not what the manifest says.
            OutOfMemory: The GPU has no room.
        """
        trt = library.module
        self._library = library
        self._device = device
        self._errors = Errors()
        self._logger = library.logger(self._errors)
        device.use()
        try:
            self._runtime = trt.Runtime(self._logger)
        except (TypeError, RuntimeError) as error:
            fault = self._errors.fault(f"{library.name}'s runtime")
            raise DeviceError(str(fault)) from error
        self._engine = self._read(file)
        check_tensors(self._engine, trt, entry, manifest, file)
        profiles = entry.profiles
        numbers = range(len(profiles))
        self._prompts = max(numbers, key=lambda n: profiles[n].sequence[1])
        self._decodes = max(numbers, key=lambda n: profiles[n].batch[1])
        self.most_tokens = profiles[self._prompts].sequence[1]
        sizes = (self._engine.get_device_memory_size_for_profile_v2(n) for n in numbers)
        self.activation_bytes = max(1, *map(int, sizes))
        self._activations = device.zeros((self.activation_bytes,), "uint8")
        self.weight_bytes = self._weights(file)
        self._captures = True
        self._prompt = self._context(self._prompts, fixed=False)

    def bind(self, arrays: Mapping[str, Array], rows: int | None = None) -> TensorRtStep:
        """Return what runs a step over arrays, which have to outlive it.

        Args:
            arrays: By the names of the engine's inputs and outputs.
            rows: Of a step that decodes, and will do so often: it gets a context of its own and is
                replayed from its second run on. ``None`` for one of a prompt, whose context the
                next such call takes away.

        Raises:
            OutOfMemory: There is no room for a context.
            InferenceFailed: The engine does not take sizes or places.
        """
        context = self._prompt if rows is None else self._context(self._decodes, fixed=True)
        trt = self._library.module
        for name, array in arrays.items():
            done = context.set_tensor_address(name, self._device.address(array))
            if done and self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                done = context.set_input_shape(name, array.shape)
            if not done:
                raise self._errors.fault(f"binding {name} of {array.shape}")
        return TensorRtStep(self, context, records=rows is not None)

    def run(self, context: Any, tokens: int) -> None:
        """Give a step to the device's stream.

        Raises:
            OutOfMemory: TensorRT found no memory for it.
            InferenceFailed: It failed otherwise.
        """
        if not context.execute_async_v3(self._device.stream):
            raise self._errors.fault(f"the step over {tokens} tokens")

    def forgo_captures(self) -> None:
        """See :class:`~rbee_runtime.backend.tensorrt.Executor`."""
        self._captures = False

    def capture(self, context: Any, tokens: int) -> CudaGraph | None:
        """Record a step that has run, or return ``None`` and say why not in a log line."""
        if not self._captures:
            return None
        try:
            # The other library leaves it to CUDA.
            ahead = self._library.name == "tensorrt_rtx"
            if ahead and not context.is_stream_capturable(self._device.stream):
                raise InferenceFailed("TensorRT says that this engine's steps cannot be recorded")
            return self._device.capture(lambda: self.run(context, tokens))
        except DeviceLost:
            raise
        except RuntimeFault as error:
            self._captures = False
            _LOG.warning("Decoding without captured graphs: %s", error)
            return None

    def _context(self, profile: int, *, fixed: bool) -> Any:
        """Return a context over the shared activations; several may have the same profile.

        Args:
            profile: Number of its optimisation profile.
            fixed: Whether it will see steps of one size only.
        """
        trt, engine = self._library.module, self._engine
        managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._library.name == "tensorrt_rtx":
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(managed)
            # Kernels made for one size pay where all steps have it, and have to be there before
            # the graph is captured; for prompts they are made aside, as lengths come again.
            when = trt.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = (
                when.EAGER if fixed else when.LAZY
            )
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context(managed)
        if context is None:
            raise self._errors.fault("creating a context")
        context.set_device_memory(self._device.address(self._activations), self.activation_bytes)
        if not context.set_optimization_profile_async(profile, self._device.stream):
            raise self._errors.fault(f"choosing profile {profile}")
        self._device.finish()
        return context

    def _weights(self, file: Path) -> int:
        """Return the bytes of the weights; of a version that does not tell, those of the file."""
        stat = getattr(self._library.module, "EngineStat", None)
        if stat is None:
            return file.stat().st_size
        return int(self._engine.get_engine_stat(stat.TOTAL_WEIGHTS_SIZE))

    def _read(self, file: Path) -> Any:
        """Return the engine of a file, which need not fit into the host's memory."""
        try:
            with file.open("rb") as stream, _mapped(stream) as content:
                engine = self._runtime.deserialize_cuda_engine(content)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{file}: cannot be read: {error}") from error
        if engine is not None:
            return engine
        fault = self._errors.fault(f"{file}: loading the engine")
        if isinstance(fault, OutOfMemory):
            raise fault
        raise DeviceError(f"{fault}; export it again here")


def _mapped(stream: BinaryIO) -> mmap.mmap:
    return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


class TensorRtStep:
    """A context with everything bound that a step reads and writes."""

    def __init__(self, engine: TensorRtEngine, context: Any, *, records: bool) -> None:
        self._engine = engine
        self._context = context
        self._records = records
        self._graph: CudaGraph | None = None

    def run(self, tokens: int) -> None:
        """Run the step; see :meth:`rbee_runtime.backend.session.Binding.run`.

        The first run is TensorRT's own, which also settles what it puts off until then; it is
        recorded after that.
        """
        if self._graph is not None:
            self._graph.launch()
            return
        self._engine.run(self._context, tokens)
        if self._records:
            self._records = False
            self._graph = self._engine.capture(self._context, tokens)
