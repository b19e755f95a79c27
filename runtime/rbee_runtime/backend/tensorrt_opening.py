"""How an artifact of the standard dialect is run: by its engine, or by ONNX Runtime."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

import onnxruntime as ort

from rbee_runtime.artifact import Artifact
from rbee_runtime.backend.session import TensorRtOptions, open_session
from rbee_runtime.backend.tensorrt import TensorRtBackend
from rbee_runtime.backend.tensorrt_engine import TensorRtEngine
from rbee_runtime.backend.tensorrt_library import TensorRt, match_engine
from rbee_runtime.backend.tensorrt_session import StandardSession, model_options
from rbee_runtime.backend.tensorrt_tensors import aligned_positions
from rbee_runtime.device import CudaDevice
from rbee_runtime.errors import DeviceError, InvalidSetting
from rbee_runtime.memory import (
    MOST_SLOTS_ON_GPU,
    CacheWish,
    budget_bytes,
    check_context,
    plan_cache,
)

_LOG = logging.getLogger("rbee.backend")

_SLOTS, _POSITIONS = 8, 4096
"""Rows and positions that the provider builds an engine for, unless asked for otherwise: the
exporter's own defaults. They do not depend on what memory is free, so that the engine stays good.
"""

Fallback = Literal["cuda"] | None
"""What to run on where TensorRT cannot; ``None`` for nothing."""


def open_standard(
    artifact: Artifact, name: str, device: CudaDevice, wish: CacheWish, fallback: Fallback
) -> TensorRtBackend:
    """Load an artifact of the standard dialect, and say in one log line how it runs.

    Args:
        artifact: The artifact.
        name: ``tensorrt``, or ``cuda`` to run its graph on ONNX Runtime's CUDA provider.
        device: The GPU.
        wish: What the cache is to be like.
        fallback: What to run on where TensorRT does not work.

    Raises:
        DeviceError: TensorRT does not run it here, and no fallback was asked for. One line names
            what there is and what it would take.
        ArtifactError: The engine or a graph cannot be loaded.
        OutOfMemory: The model or its cache does not fit.
        InvalidSetting: A number is out of its range.
    """
    obstacle = _obstacle_on_cuda(artifact)
    if name == "cuda":
        if obstacle is not None:
            raise DeviceError(f"{artifact.path}: {obstacle}")
        _LOG.info("Running the standard graph on cuda device %d: as asked", device.index)
        return _by_cuda(artifact, device, wish)
    try:
        if artifact.manifest.engines:
            return _by_engine(artifact, device, wish)
        return _by_provider(artifact, device, wish)
    except DeviceError as error:
        if obstacle is not None:
            raise DeviceError(f"{error}; on cuda it does not run: {obstacle}") from error
        if fallback is None:
            raise DeviceError(f"{error}, or say --fallback cuda") from error
        _LOG.warning(
            "Running the standard graph on cuda device %d, as --fallback says: %s",
            device.index,
            error,
        )
    return _by_cuda(artifact, device, wish)


def _by_engine(artifact: Artifact, device: CudaDevice, wish: CacheWish) -> TensorRtBackend:
    entry, library = match_engine(artifact, device.architecture)
    most = max((profile.batch[1] for profile in entry.profiles), default=1)
    longest = entry.max_length
    if wish.slots is not None and wish.slots > most:
        raise InvalidSetting(
            f"{artifact.path}: its engine decodes {most} sequences at most, not {wish.slots}; "
            "export with a larger --max-batch, or serve fewer slots"
        )
    check_context(wish.context, longest, "its engine was built for (--max-len)")
    manifest = artifact.manifest
    file = artifact.engine_file(entry)
    engine = TensorRtEngine(file, entry, manifest, library, device)
    samplers = _samplers(artifact, device)
    plan = plan_cache(
        manifest.cache,
        longest,
        budget_bytes(wish.budget, device.available()),
        slots=wish.slots,
        context=longest,
        chunk=wish.chunk,
        most_slots=most,
    )
    _LOG.info(
        "Running on tensorrt device %d: its engine is for %s and %s %s, as is what is here",
        device.index,
        entry.architecture,
        library.name,
        library.version,
    )
    return TensorRtBackend(artifact, engine, samplers, plan, device, capacity=wish.context)


def _by_provider(artifact: Artifact, device: CudaDevice, wish: CacheWish) -> TensorRtBackend:
    manifest = artifact.manifest
    longest = manifest.shapes.context_length
    context = wish.context or min(longest, _POSITIONS)
    check_context(context, longest)
    capacity = aligned_positions(manifest.cache, context)
    free = max(0, device.available() - artifact.weight_bytes)
    plan = plan_cache(
        manifest.cache,
        capacity,
        budget_bytes(wish.budget, free),
        slots=wish.slots or _SLOTS,
        context=capacity,
        chunk=wish.chunk,
    )
    tokens = min(plan.chunk, plan.capacity)
    cache = _cache_directory() / "engines" / manifest.source.sha256[:16]
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(
            f"{cache}: no place to keep engines: {error}; set XDG_CACHE_HOME"
        ) from error
    _LOG.info(
        "Running on tensorrt device %d: ONNX Runtime builds an engine, or takes it from %s",
        device.index,
        cache,
    )
    options = TensorRtOptions(
        cache,
        model_options(manifest, plan.capacity, plan.slots, tokens),
        {"capacity": plan.capacity},
    )
    # The package brings the libraries that the provider links, and loads them when it is imported.
    TensorRt.load("tensorrt")
    session = open_session(artifact.file("graph"), device, tensorrt=options)
    executor = StandardSession(
        "tensorrt",
        session,
        manifest,
        device,
        most_tokens=tokens,
        weight_bytes=artifact.weight_bytes,
    )
    samplers = _samplers(artifact, device)
    return TensorRtBackend(artifact, executor, samplers, plan, device, capacity=context)


def _by_cuda(artifact: Artifact, device: CudaDevice, wish: CacheWish) -> TensorRtBackend:
    manifest = artifact.manifest
    session = open_session(artifact.file("graph"), device)
    samplers = _samplers(artifact, device)
    plan = plan_cache(
        manifest.cache,
        manifest.shapes.context_length,
        budget_bytes(wish.budget, device.available()),
        slots=wish.slots,
        context=wish.context,
        chunk=wish.chunk,
        most_slots=MOST_SLOTS_ON_GPU,
    )
    executor = StandardSession(
        "cuda",
        session,
        manifest,
        device,
        most_tokens=plan.chunk,
        weight_bytes=artifact.weight_bytes,
    )
    return TensorRtBackend(artifact, executor, samplers, plan, device)


def _obstacle_on_cuda(artifact: Artifact) -> str | None:
    """Say why ONNX Runtime's CUDA provider cannot run the standard graph, if it cannot."""
    in_bfloat16 = artifact.manifest.cache.dtype == "bfloat16"
    held = {group.held[:5] for group in artifact.manifest.weights}
    if "8-bit" in held or (in_bfloat16 and "4-bit" in held):
        blocks = "8-bit blocks" if "8-bit" in held else "blocks in bf16"
        return f"the CUDA provider cannot read {blocks} of this graph; export with --target cuda"
    return None


def _samplers(
    artifact: Artifact, device: CudaDevice
) -> tuple[ort.InferenceSession, ort.InferenceSession]:
    greedy = open_session(artifact.file("greedy"), device)
    return greedy, open_session(artifact.file("sampler"), device)


def _cache_directory() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home or Path.home() / ".cache") / "rbee"
