"""TensorRT as far as this package calls it, over ONNX Runtime and a queued CUDA.

An engine is the artifact's graph. It demands what TensorRT's documentation does: sizes within the
profile, every address, activations, a context that stays as it was recorded.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from rbee_runtime.artifact import Artifact, Engine

from .queued_cuda import ALIGNED, QueuedCuda

_TYPES = {"tensor(int64)": "INT64", "tensor(float16)": "HALF", "tensor(float)": "FLOAT"}
_NUMPY = {"INT64": np.int64, "HALF": np.float16, "FLOAT": np.float32}
WEIGHTS, ACTIVATIONS = 5000, 700


class Mode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class Logger:
    Severity = Severity


class FakeTensorRt:
    """The module.

    Attributes:
        fails: What every step fails with from now on.
        capturable: Whether it says that steps can be recorded.
        contexts: Those that were made.
        steps: Rows and tokens a row of each step that it was given, replays apart.
        changed: What to answer of a tensor instead of the truth, by function and name.
    """

    ILogger = Logger
    TensorIOMode = Mode
    DataType = enum.Enum("DataType", list(_NUMPY))
    TensorLocation = enum.Enum("TensorLocation", ["DEVICE", "HOST"])
    ExecutionContextAllocationStrategy = enum.Enum("Strategy", ["STATIC", "USER_MANAGED"])
    DynamicShapesKernelSpecializationStrategy = enum.Enum("When", ["LAZY", "EAGER", "NONE"])
    EngineStat = enum.Enum("EngineStat", ["TOTAL_WEIGHTS_SIZE"])

    def __init__(self, cuda: QueuedCuda, artifact: Path, version: str | None = None) -> None:
        self.cuda = cuda
        self.artifact = Artifact.open(artifact)
        self.entry: Engine = self.artifact.manifest.engines[0]
        self.__version__ = version or self.entry.version
        self.fails: str | None = None
        self.capturable = True
        self.contexts: list[FakeContext] = []
        self.steps: list[tuple[int, ...]] = []
        self.changed: dict[tuple[str, str], Any] = {}

    def Runtime(self, logger: Any) -> SimpleNamespace:
        def deserialize(buffer: Any) -> FakeEngine | None:
            assert bytes(buffer) == self.artifact.engine_file(self.entry).read_bytes()
            if self.fails:
                logger.log(Severity.ERROR, self.fails)
                return None
            weights = ctypes.c_void_p()
            if self.cuda.cudaMalloc(ctypes.byref(weights), ctypes.c_size_t(WEIGHTS)):
                logger.log(Severity.WARNING, "about to fail")
                logger.log(Severity.ERROR, f"Error Code 2: OutOfMemory (Requested size {WEIGHTS})")
                return None
            return FakeEngine(self, logger, weights)

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


class FakeEngine:
    def __init__(self, trt: FakeTensorRt, logger: Any, weights: ctypes.c_void_p) -> None:
        self.trt, self.logger = trt, logger
        self._weights = weights
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        graph = trt.artifact.file("graph")
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        self._all = {**self.inputs, **self.outputs}
        self.num_io_tensors = len(self._all)
        self.num_optimization_profiles = len(trt.entry.profiles)

    def __del__(self) -> None:
        self.trt.cuda.cudaFree(self._weights)

    def get_tensor_name(self, number: int) -> str:
        return self._told("name", list(self._all)[number])

    def get_tensor_dtype(self, name: str) -> Any:
        return self._told("dtype", name, self.trt.DataType[_TYPES[self._all[name].type]])

    def get_tensor_location(self, name: str) -> Any:
        return self._told("location", name, self.trt.TensorLocation.DEVICE)

    def get_tensor_mode(self, name: str) -> Any:
        return Mode.INPUT if name in self.inputs else Mode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._told("shape", name, self.sizes(name, -1, -1))

    def get_aliased_input_tensor(self, name: str) -> str | None:
        own = name.replace("present_", "past_") if name.startswith("present_") else None
        return self._told("alias", name, own)

    def get_tensor_profile_shape(self, name: str, number: int) -> list[tuple[int, ...]]:
        profile = self.trt.entry.profiles[number]
        low, high = zip(profile.batch, profile.sequence, strict=True)
        bounds = [self.sizes(name, *low), self.sizes(name, *high), self.sizes(name, *high)]
        return self._told("profile", name, bounds)

    def get_device_memory_size_for_profile_v2(self, number: int) -> int:
        return ACTIVATIONS * (number + 1)

    def get_engine_stat(self, stat: Any) -> int:
        assert stat is self.trt.EngineStat.TOTAL_WEIGHTS_SIZE
        return WEIGHTS

    def create_runtime_config(self) -> SimpleNamespace:
        config = SimpleNamespace(strategy=None)

        def choose(strategy: Any) -> None:
            config.strategy = strategy

        config.set_execution_context_allocation_strategy = choose
        return config

    def create_execution_context(self, how: Any) -> FakeContext:
        strategy = getattr(how, "strategy", how)
        assert strategy is self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = FakeContext(self, how)
        self.trt.contexts.append(context)
        return context

    def sizes(self, name: str, batch: int, sequence: int) -> tuple[int, ...]:
        named = {"batch": batch, "sequence": sequence, "capacity": self.trt.entry.max_length}
        return tuple(named.get(size, size) for size in self._all[name].shape)

    def type_of(self, name: str) -> Any:
        return _NUMPY[_TYPES[self._all[name].type]]

    def _told(self, what: str, name: str, truth: Any = None) -> Any:
        return self.trt.changed.get((what, name), name if what == "name" else truth)


class FakeContext:
    """A context: what is bound, and what of it was there when a step was last run in full."""

    def __init__(self, engine: FakeEngine, how: Any) -> None:
        self.engine, self.how = engine, how
        self.profile = -1
        self.memory = 0
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._settled: object = None

    def set_device_memory(self, address: int, size: int) -> None:
        assert address % ALIGNED == 0
        assert size >= max(
            map(
                self.engine.get_device_memory_size_for_profile_v2,
                range(self.engine.num_optimization_profiles),
            )
        )
        self.memory = address

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        assert stream == 77
        self.profile = number
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address
        assert address % ALIGNED == 0
        self._addresses[name] = address
        return name in self.engine.inputs or name in self.engine.outputs

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        if any(not a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            self._complain(f"{name}: {shape} is not in [{low}, {high}]")
            return False
        self._shapes[name] = tuple(shape)
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        assert stream == 77
        assert self.engine.trt.entry.library == "tensorrt_rtx", "the other one has no such call"
        return self.engine.trt.capturable

    def execute_async_v3(self, stream: int) -> bool:
        trt, state = self.engine.trt, self._state()
        assert stream == 77
        assert self.memory
        assert set(self._addresses) == {*self.engine.inputs, *self.engine.outputs}
        assert set(self._shapes) == set(self.engine.inputs)
        for name in self.engine.outputs:
            past = self.engine.get_aliased_input_tensor(name)
            assert past is None or self._addresses[name] == self._addresses[past]
        if trt.fails:
            self._complain(trt.fails)
            return False
        if trt.cuda.records:
            assert self._settled == state, "what is put off until the first run would be recorded"
        self._settled = state
        trt.steps.append(self._shapes["input_ids"])
        trt.cuda.enqueue(lambda: self._compute(state))
        return True

    def _compute(self, state: Any) -> None:
        addresses, shapes = (dict(part) for part in state)
        if self.engine.trt.cuda.graphs and self.how is not None and self._is_fixed:
            assert state == self._state(), "a recorded context has been changed"
        feeds = {name: self._array(name, addresses, shapes[name]) for name in self.engine.inputs}
        names = list(self.engine.outputs)
        for name, value in zip(names, self.engine.session.run(names, feeds), strict=True):
            self._array(name, addresses, value.shape)[...] = value

    @property
    def _is_fixed(self) -> bool:
        when = self.engine.trt.DynamicShapesKernelSpecializationStrategy
        return (
            getattr(self.how, "dynamic_shapes_kernel_specialization_strategy", None) is when.EAGER
        )

    def _state(self) -> Any:
        return tuple(self._addresses.items()), tuple(self._shapes.items())

    def _array(
        self, name: str, addresses: dict[str, int], shape: Sequence[int]
    ) -> NDArray[np.generic]:
        dtype = np.dtype(self.engine.type_of(name))
        size = int(np.prod(shape)) * dtype.itemsize
        block = (ctypes.c_ubyte * size).from_address(addresses[name])
        return np.frombuffer(block, dtype).reshape(shape)

    def _complain(self, message: str) -> None:
        self.engine.logger.log(Severity.ERROR, message)
