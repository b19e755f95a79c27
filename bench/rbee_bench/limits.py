"""What this machine's memory and arithmetic can do at best, and what that allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from rbee_bench.bystanders import Bystanders
from rbee_bench.interleave import counted, interleave
from rbee_bench.peers import Reads
from rbee_bench.subject import Progress

_ROUNDS = 5
_TURN_SECONDS = 0.4
_LEAST_READ = 1 << 28
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_WIDTH = 1024
_OPSET = 21
_TRIES = 3
_FP32 = ir.DataType.FLOAT, ir.DataType.FLOAT
_INT8 = ir.DataType.UINT8, ir.DataType.INT8


@dataclass(frozen=True, slots=True)
class Limits:
    """What was reached, one figure a round. Disturbances only lower it: the best one is the limit.

    Attributes:
        threads: Threads that worked.
        reading: Bytes a second, read in order by all of them from memory, not from a cache.
        fp32: Operations a second of a matrix product in 32 bits, each multiply-add two of them.
        int8: The same in integers of 8 bits, summed in 32.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    threads: int
    reading: tuple[float, ...]
    fp32: tuple[float, ...]
    int8: tuple[float, ...]
    bystanders: float


@dataclass(frozen=True, slots=True)
class Roof:
    """The limits of one moment; see :class:`Limits`.

    Attributes:
        reading: Bytes a second.
        fp32: Operations a second.
        int8: Operations a second.
    """

    reading: float
    fp32: float
    int8: float

    def arithmetic(self, reads: Reads) -> float:
        """Return the operations a second that hold for an engine whose arithmetic is known."""
        assert reads.arithmetic is not None
        return self.fp32 if reads.arithmetic == "fp32" else self.int8


class Roofer:
    """Measures the limits by turns with what they limit, in a third of a second.

    Args:
        threads: Threads to use.
    """

    def __init__(self, threads: int) -> None:
        self._memory = MemoryReader(threads)
        self._fp32 = _product("MatMul", _FP32, threads)
        self._int8 = _product("MatMulInteger", _INT8, threads)

    def measure(self) -> Roof:
        """Return the best of a few tries at each."""
        # Memory last: ONNX Runtime's threads spin for some 30 ms, not into the next turn.
        ways = (self._fp32, self._int8, self._memory.read)
        fp32, int8, memory = (max(measure() for _ in range(_TRIES)) for measure in ways)
        return Roof(memory, fp32, int8)


class MemoryReader:
    """Reads as fast as memory gives, with a buffer that no cache holds.

    The buffer is at least four times the largest cache, and 256 MB at least.

    Attributes:
        nbytes: Size of the buffer.

    Args:
        threads: How many read, each a part of its own.
    """

    def __init__(self, threads: int) -> None:
        part = max(_LEAST_READ, 4 * largest_cache()) // threads // 8
        # Written to: pages nobody wrote to are all the same one.
        self._parts = [np.ones(part, np.int64) for _ in range(threads)]
        self.nbytes = sum(part.nbytes for part in self._parts)
        self._pool = ThreadPoolExecutor(threads)

    def read(self) -> float:
        """Return the bytes a second of one pass over the buffer."""
        start = time.perf_counter()
        # Adding up integers costs less than reading them, and NumPy lets other threads run.
        list(self._pool.map(np.add.reduce, self._parts))
        return self.nbytes / (time.perf_counter() - start)


def measure_limits(threads: int, progress: Progress) -> Limits:
    """Measure each limit in turn for some ten seconds altogether."""
    reader = MemoryReader(threads)
    subjects: dict[str, Callable[[], float]] = {
        "memory": reader.read,
        "fp32": _product("MatMul", _FP32, threads),
        "int8": _product("MatMulInteger", _INT8, threads),
    }
    turn = counted(progress, len(subjects) * (_ROUNDS + 1))
    bystanders = Bystanders()
    taken = interleave({name: partial(_best, one) for name, one in subjects.items()}, _ROUNDS, turn)
    return Limits(threads, taken["memory"], taken["fp32"], taken["int8"], bystanders.share())


def decode_ceiling(reads: Reads, context: int, tokens: int, bandwidth: float) -> float:
    """Return the tokens a second at which one sequence reads as fast as memory gives.

    ``bandwidth / (weights + position * (context + tokens / 2))``: every token reads the weights
    once, and the cache of every position up to its own. Of ``tokens`` the first is not timed, so
    the others attend to ``context + 1`` to ``context + tokens - 1`` positions.

    Args:
        reads: What a token reads, in bytes.
        context: Tokens of the prompt.
        tokens: Tokens of the completion.
        bandwidth: Bytes a second.
    """
    return bandwidth / (reads.weights + reads.position * (context + tokens / 2))


def prefill_ceiling(reads: Reads, length: int, roof: Roof) -> float:
    """Return the prompt tokens a second at which memory or arithmetic of the machine is used up.

    ``length / max(weights / bandwidth, length * operations / arithmetic)``: the weights are read
    once at least, and every token is multiplied by them.

    Args:
        reads: What a token reads and computes.
        length: Tokens of the prompt.
        roof: The machine's limits.
    """
    computing = length * reads.operations / roof.arithmetic(reads)
    return length / max(reads.weights / roof.reading, computing)


def batch_ceiling(reads: Reads, sequences: int, context: int, tokens: int, roof: Roof) -> float:
    """Return the new tokens a second of sequences completed together, prompts included, at best.

    Prompts take what :func:`prefill_ceiling` says for all of them at once, and every step after
    takes ``max((weights + sequences * position * (context + tokens / 2)) / bandwidth,
    sequences * operations / arithmetic)``. Of ``tokens`` the prompts' steps give the first.

    Args:
        reads: What a token reads and computes.
        sequences: At a time.
        context: Tokens of each prompt.
        tokens: New tokens of each.
        roof: The machine's limits.
    """
    prompts = sequences * context
    moved = reads.weights + sequences * reads.position * (context + tokens / 2)
    computing = sequences * reads.operations / roof.arithmetic(reads)
    step = max(moved / roof.reading, computing)
    seconds = prompts / prefill_ceiling(reads, prompts, roof) + (tokens - 1) * step
    return sequences * tokens / seconds


def largest_cache(directory: Path = _CACHES) -> int:
    """Return the bytes of the processor's largest cache; 0 where the system does not say.

    Args:
        directory: Where Linux describes the caches.
    """
    units = {"K": 1 << 10, "M": 1 << 20}
    largest = 0
    for file in directory.glob("index*/size"):
        text = file.read_text().strip()
        largest = max(largest, int(text[:-1]) * units.get(text[-1], 0))
    return largest


def _best(measure: Callable[[], float]) -> float:
    end, best = time.perf_counter() + _TURN_SECONDS, 0.0
    while time.perf_counter() < end:
        best = max(best, measure())
    return best


def _product(
    operator: str, types: tuple[ir.DataType, ir.DataType], threads: int
) -> Callable[[], float]:
    """Return what measures ``operator`` on two square matrices, the second one a constant."""
    left, right = types
    shape = [_WIDTH, _WIDTH]
    x = ir.Value(name="x", type=ir.TensorType(left), shape=ir.Shape(shape))
    weights = np.random.default_rng(0).integers(-100, 100, shape).astype(right.numpy())
    constant = ir.Value(name="w", const_value=ir.tensor(weights, name="w"))
    node = ir.node(operator, [x, constant])
    node.outputs[0].name = "y"
    graph = ir.Graph(
        [x],
        node.outputs,
        nodes=[node],
        initializers=[constant],
        opset_imports={"": _OPSET},
        name=operator,
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {"x": np.ones(shape, left.numpy())}

    def measure() -> float:
        start = time.perf_counter()
        session.run(None, feeds)
        return float(2 * _WIDTH**3 / (time.perf_counter() - start))

    return measure
