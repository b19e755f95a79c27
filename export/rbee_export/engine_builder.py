"""A graph of the standard dialect into a TensorRT engine.

What is done to the graph on the way:

- The cache gets its fixed length: TensorRT updates a cache in place only where that is static.
- TensorRT's reader drops ``nonpad_kv_seqlen``. It is handed to the attention layers again, which
  then read no more of the cache than is filled. The graph's own mask makes the result right
  without it.
- Attention layers may fall apart into several kernels where TensorRT has none for their shape and
  type in one (float32, for instance, or one key head under fewer than four query heads).
- A graph of floating-point weights gets one optimisation profile for prefill and one for decode.
  With quantised weights it gets a single one for both, because every profile brings its own copy of
  some of them, and of quantised ones an unpacked copy: four layers of SmolLM2's size take 32 MB in
  float16 and 20 MB in int8 with one profile, 53 and 37 MB with two.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import onnx_ir as ir

from rbee_export.errors import CheckpointError, ExportError, UnsupportedModel
from rbee_export.tensorrt_callbacks import BuildProgress, error_log, monitor, writer
from rbee_export.tensorrt_library import Library, LibraryName, choose

_ALIGNMENT = 256  # bytes that TensorRT wants addresses to be multiples of

PREFILL_CHUNK = 256
"""Prompt tokens an engine takes in one step at most."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Sizes of a step that an engine takes under one of its optimisation profiles.

    Attributes:
        batch: Rows, fewest and most.
        sequence: New tokens a row, fewest and most.
        usual: The rows and tokens its kernels are tuned for.
    """

    batch: tuple[int, int]
    sequence: tuple[int, int]
    usual: tuple[int, int]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine was built by, and for.

    Attributes:
        library: The package that built it and has to run it.
        version: That package's version; another one may refuse the engine.
        arch: The GPU architecture, e.g. ``SM89``.
        cache_dtype: Element type of the cache, e.g. ``bfloat16``.
        max_len: Positions in every row of the cache, no more and no fewer.
        profiles: In the engine's order.
    """

    library: LibraryName
    version: str
    arch: str
    cache_dtype: str
    max_len: int
    profiles: tuple[Profile, ...]


def _ignore(_phase: str, _done: int, _total: int) -> None:
    pass


def build_engine(
    graph: Path,
    target: Path,
    *,
    arch: str | None = None,
    max_batch: int,
    max_len: int,
    progress: BuildProgress = _ignore,
    timing_cache: Path | None = None,
) -> EngineInfo:
    """Build an engine of a standard-dialect graph and write it to ``target``, whole or not at all.

    Two builds of the same graph give different bytes.

    Args:
        graph: The ONNX file; its weights lie beside it.
        target: The file to write.
        arch: The GPU architecture to build for, e.g. ``SM89``; ``None`` for this machine's.
        max_batch: Rows of a step at most.
        max_len: Positions in a row of the cache: prompt and answer together.
        progress: Called as the build goes. What it raises stops the build and comes out of here.
        timing_cache: A file of kernel timings to read and to replace, so that the next build need
            not take them again. Only ``tensorrt`` has one.

    Raises:
        ExportError: No library here builds for ``arch``, a limit does not fit the model, or the
            build failed.
        UnsupportedModel: TensorRT refuses an operator of the model.
        CheckpointError: ``graph`` is not of the standard dialect.
        OSError: A file cannot be read or written; nothing is left behind.
    """
    model = _load(graph)
    dtype = _cache_dtype(model, graph)
    _check_limits(model, dtype, max_batch, max_len)
    library, arch = choose(arch)
    if arch == "SM75" and dtype == ir.DataType.BFLOAT16:
        raise ExportError("SM75 has no bfloat16; export with --precision fp16")
    profiles = _profiles(model, max_batch, max_len)
    _fix_capacity(model, max_len)

    build = _Build(library, model.metadata_props.get("family", graph.stem), progress)
    network = build.network(model, graph)
    config = build.config(network, arch, profiles, max_len)
    timings = None if library.ahead_of_time else timing_cache
    if timings is not None:
        _load_timings(config, timings)
    with _replacing(target) as stream:
        build.engine(network, config, arch, stream)
    if timings is not None:
        timings.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(timings) as stream:
            stream.write(config.get_timing_cache().serialize())
    return EngineInfo(
        library=library.name,
        version=library.version,
        arch=arch,
        cache_dtype=str(dtype.numpy()),
        max_len=max_len,
        profiles=profiles,
    )


class _Build:
    """TensorRT's builder, with what it says turned into our errors and progress."""

    def __init__(self, library: Library, family: str, progress: BuildProgress) -> None:
        self._trt = library.module
        self._library = library
        self._family = family
        self._progress = progress
        self._raised: list[BaseException] = []
        self._errors: list[str] = []
        self._parser: Any = None
        self._logger = error_log(self._trt, self._errors)
        try:
            self._builder = self._trt.Builder(self._logger)
        except TypeError:
            raise ExportError(self._failure(f"{library.name} does not start")) from None

    def network(self, model: ir.Model, graph: Path) -> Any:
        """Return the model as a strongly typed TensorRT network.

        Raises:
            UnsupportedModel: TensorRT refuses an operator.
        """
        trt = self._trt
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self._builder.create_network(flags)
        # The network's weights are the parser's memory: it lives until the engine is built.
        parser = self._parser = trt.OnnxParser(network, self._logger)
        if not parser.parse(ir.to_proto(model).SerializeToString(), str(graph)):
            error = parser.get_error(0)
            raise UnsupportedModel(
                f"{self._family}: TensorRT refuses {error.node_operator() or 'its graph'} "
                f"{error.node_name()}: {_one_line(error.desc())}"
            )
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        lengths = next(tensor for tensor in inputs if tensor.name == "nonpad_kv_seqlen")
        filled = network.add_cast(lengths, trt.int32).get_output(0)
        for layer in (network.get_layer(i) for i in range(network.num_layers)):
            if layer.type == trt.LayerType.ATTENTION_OUTPUT:
                # The binding hands out base classes; this is its way of asking for the real one.
                layer.__class__ = trt.IAttentionOutputLayer
                layer.attention.decomposable = True
                layer.attention.key_value_lengths = filled
        return network

    def config(self, network: Any, arch: str, profiles: tuple[Profile, ...], max_len: int) -> Any:
        """Return what to build: the target, the sizes of a step, and whom to tell of progress."""
        trt = self._trt
        config = self._builder.create_builder_config()
        config.progress_monitor = monitor(trt, self._progress, self._raised)
        if self._library.ahead_of_time:
            config.num_compute_capabilities = 1
            config.set_compute_capability(trt.ComputeCapability.__members__[arch], 0)
        for profile in profiles:
            low, high = zip(profile.batch, profile.sequence, strict=True)
            shapes = self._builder.create_optimization_profile()
            for tensor in (network.get_input(i) for i in range(network.num_inputs)):
                sizes = (_sizes(tensor, *step, max_len) for step in (low, profile.usual, high))
                shapes.set_shape(tensor.name, *sizes)
            config.add_optimization_profile(shapes)
        return config

    def engine(self, network: Any, config: Any, arch: str, stream: BinaryIO) -> None:
        """Build the engine and write it, piece by piece: it may be as large as the model.

        Raises:
            ExportError: TensorRT could not build it.
            OSError: It cannot be written.
        """
        sink = writer(self._trt, stream, self._raised)
        built = self._builder.build_serialized_network_to_stream(network, config, sink)
        if self._raised:
            raise self._raised[0]
        if not built:
            raise ExportError(self._failure(f"{self._family}: no engine for {arch}"))

    def _failure(self, what: str) -> str:
        # The first error is the cause, but for what every machine without a GPU complains of.
        told = [text for text in self._errors if "cudaError 35" not in text] or self._errors
        return f"{what}: {_one_line(told[0]) if told else 'TensorRT does not say why'}"


def _load(graph: Path) -> ir.Model:
    try:
        return ir.load(graph)
    except OSError:
        raise
    except Exception as error:
        raise CheckpointError(f"{graph.name}: not an ONNX graph: {error}") from error


def _cache_dtype(model: ir.Model, graph: Path) -> ir.DataType:
    inputs = {value.name: value for value in model.graph.inputs}
    cache = inputs.get("past_key.0")
    if cache is None or cache.dtype is None or "nonpad_kv_seqlen" not in inputs:
        raise CheckpointError(f"{graph.name}: not a graph of the standard dialect")
    return cache.dtype


def _check_limits(model: ir.Model, dtype: ir.DataType, max_batch: int, max_len: int) -> None:
    if min(max_batch, max_len) < 1:
        raise ExportError("--max-batch and --max-len must be at least 1")
    context = model.metadata_props.get("context_length")
    if context is not None and max_len > int(context):
        raise ExportError(f"--max-len {max_len}: the model was made for {context} positions")
    # Rows of the cache lie side by side, and each is bound on its own.
    cache = next(value.shape for value in model.graph.inputs if value.name == "past_key.0")
    position = math.prod(size for size in cache or () if isinstance(size, int)) * dtype.itemsize
    step = _ALIGNMENT // math.gcd(_ALIGNMENT, int(position))
    if max_len % step:
        raise ExportError(f"--max-len {max_len}: must be a multiple of {step} for this model")


def _profiles(model: ir.Model, max_batch: int, max_len: int) -> tuple[Profile, ...]:
    chunk = min(PREFILL_CHUNK, max_len)
    if any(node.op_type == "DequantizeLinear" for node in model.graph):
        return (Profile((1, max_batch), (1, chunk), (max_batch, 1)),)
    return (
        Profile((1, 1), (1, chunk), (1, chunk)),
        Profile((1, max_batch), (1, 1), (max_batch, 1)),
    )


def _fix_capacity(model: ir.Model, max_len: int) -> None:
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            sizes = [max_len if str(size) == "capacity" else size for size in value.shape]
            value.shape = ir.Shape(sizes)


def _sizes(tensor: Any, batch: int, sequence: int, max_len: int) -> tuple[int, ...]:
    """Return an input's shape in a step of ``batch`` rows of ``sequence`` new tokens."""
    rank = len(tensor.shape)
    if rank == 4:
        return (batch, tensor.shape[1], max_len, tensor.shape[3])
    return (batch, sequence)[:rank]


def _load_timings(config: Any, file: Path) -> None:
    known = file.read_bytes() if file.exists() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of ``target`` when the block ends well."""
    staging = target.with_name(f".{target.name}.partial")
    try:
        with staging.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        staging.replace(target)
    finally:
        staging.unlink(missing_ok=True)


def _one_line(text: str) -> str:
    """Return what TensorRT says without its source positions and what follows from the error."""
    lines = [line for line in text.splitlines() if "cudaError 35" not in line]
    told = " ".join(line for line in lines if not line.startswith("Invalid Node"))
    told = re.sub(r"\s*\(?(In \w+ at|\[?\w+\.(cpp|h):)\s*\S*.*?[\])]", "", told)
    return " ".join(told.split())[:300]
