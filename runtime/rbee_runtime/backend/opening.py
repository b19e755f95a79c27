"""The choice of a backend, and of the device it runs on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import onnxruntime as ort

from rbee_runtime import kernels
from rbee_runtime.artifact import Artifact, CacheGeometry
from rbee_runtime.backend.backend import Backend
from rbee_runtime.backend.host_cache import (
    CacheType,
    check_bytes,
    check_cache_type,
    halved,
    in_bytes,
)
from rbee_runtime.backend.onnx import OnnxBackend
from rbee_runtime.backend.session import open_session, open_with_kernels
from rbee_runtime.device import CudaDevice, Device, HostDevice, has_driver, open_cuda
from rbee_runtime.errors import ArtifactError, DeviceError, InvalidSetting
from rbee_runtime.memory import (
    DEFAULT_BUDGET,
    MOST_SLOTS,
    MOST_SLOTS_ON_GPU,
    Budget,
    CacheWish,
    budget_bytes,
    plan_cache,
)
from rbee_runtime.step import PREFILL_CHUNK

if TYPE_CHECKING:
    from rbee_runtime.artifact import AnyArtifact
    from rbee_runtime.backend.tensorrt_opening import Fallback

_LOG = logging.getLogger("rbee.backend")

BACKENDS = ("cpu", "cuda", "tensorrt")
_COMPUTES_BFLOAT16 = (8, 0)
"""Compute capability from which on GPUs do."""


def open_backend(
    artifact: Artifact,
    name: str | None = None,
    device: int = 0,
    *,
    slots: int | None = None,
    context: int | None = None,
    chunk: int = PREFILL_CHUNK,
    budget: Budget = DEFAULT_BUDGET,
    fallback: Fallback = None,
    cache_type: CacheType | None = None,
) -> Backend:
    """Load the model on the backend of this name, or on the best one that works here.

    Args:
        artifact: The model.
        name: ``cpu``, ``cuda``, ``tensorrt``, or ``None``.
        device: Index of the device.
        slots: Sequences to hold at a time; ``None`` for as many as fit, up to 16, on a GPU 64.
        context: Positions of each; ``None`` for the model's context, or what fits.
        chunk: Tokens of a step at most.
        budget: Memory of the cache; a share of what is free once the weights are loaded, or bytes.
        fallback: What to run on where ``tensorrt`` does not work; ``None`` for nothing.
        cache_type: ``int8`` to keep the cache in 8 bits, on the CPU; ``None`` for 16 where the
            native kernels run, or what the graph has.

    Raises:
        ArtifactError: The graph cannot be loaded.
        DeviceError: The backend or the device is not to be had here, or no cache of 8 bits is.
        OutOfMemory: The cache does not fit.
        InvalidSetting: A number is out of its range, or the name is not known.
    """
    check_device(name, device)
    check_cache_type(cache_type)
    wish = CacheWish(slots, context, chunk, budget)
    # What only some artifacts run on is imported for those: a start is to be short.
    manifest = artifact.manifest
    if name in ("cuda", "tensorrt"):
        for what, there in (
            ("mixtures of experts", manifest.shapes.experts),
            ("hybrid models", manifest.cache.state),
        ):
            if there is not None:
                raise DeviceError(
                    f"{artifact.path}: {what} run on the CPU alone; leave --backend out"
                )
    if cache_type is not None:
        check_bytes(artifact)
    if manifest.target == "tensorrt":
        from rbee_runtime.backend.tensorrt_opening import open_standard

        gpu = _gpu_for_standard(artifact, name, device)
        return open_standard(artifact, name or "tensorrt", gpu, wish, fallback)
    chosen = choose_device(artifact, name, device, fallback)
    most_slots = MOST_SLOTS if chosen.name == "cpu" else MOST_SLOTS_ON_GPU
    traced = manifest.dialect == "optimum"
    if cache_type is None:
        session, cache = _open_graph(artifact, chosen)
    else:
        session, cache = _open_in_bytes(artifact), in_bytes(manifest.cache)
    plan = plan_cache(
        cache,
        manifest.shapes.context_length,
        budget_bytes(budget, chosen.available()),
        slots=slots,
        context=context,
        chunk=chunk,
        # A traced graph's past and present are two: beside the slots there is a spare region.
        spare=1 if traced else 0,
        most_slots=most_slots,
    )
    if traced:
        from rbee_runtime.backend.dynamic import DynamicBackend

        return DynamicBackend(artifact, session, plan)
    return OnnxBackend(artifact, session, plan, chosen)


def check_device(name: str | None, index: int) -> None:
    """Refuse what names no device anywhere.

    Raises:
        InvalidSetting: The backend's name is not known, or the index is below 0.
    """
    if name not in (None, *BACKENDS):
        known = f"{', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}"
        raise InvalidSetting(f"backend {name!r} is not known; use {known}")
    if index < 0:
        raise InvalidSetting("device must be at least 0")


def _open_graph(artifact: Artifact, device: Device) -> tuple[ort.InferenceSession, CacheGeometry]:
    """Return a session of an artifact's graph, and the geometry of the cache that it extends."""
    manifest = artifact.manifest
    graph = artifact.file("graph")
    if device.name != "cpu" or manifest.target != "cpu":
        return open_session(graph, device), manifest.cache
    if artifact.half_cache_graph is not None:
        try:
            return open_with_kernels(artifact.half_cache_graph), halved(manifest.cache)
        except kernels.Refused as why:
            _LOG.warning("Keeping the cache in 32 bits: %s", why)
        except kernels.NoKernels:
            pass  # where the other graph is opened, the log says so
    exact = manifest.precision == "fp32"
    return open_session(graph, device, native=True, exact=exact), manifest.cache


def _open_in_bytes(artifact: Artifact) -> ort.InferenceSession:
    """Return a session that extends a cache of 8 bits, which :func:`check_bytes` has let pass.

    Raises:
        ArtifactError: The graph cannot be loaded.
    """
    graph = artifact.half_cache_graph
    assert graph is not None
    try:
        with kernels.in_bytes():
            return open_with_kernels(graph)
    except kernels.Refused as why:
        raise ArtifactError(f"{graph}: the native kernels cannot load the graph: {why}") from why


def _gpu_for_standard(artifact: Artifact, name: str | None, index: int) -> CudaDevice:
    """Open the GPU for an artifact of the standard dialect, which nothing else runs.

    Raises:
        DeviceError: Something else was asked for, or there is none.
    """
    if name == "cpu" or (name is None and not has_driver()):
        why = "" if name else ", and no NVIDIA driver is here"
        raise DeviceError(
            f"{artifact.path}: this artifact is compiled for tensorrt{why}; "
            "for the CPU, export without --target"
        )
    return open_cuda(index)


def choose_device(
    artifact: AnyArtifact,
    name: str | None,
    index: int,
    fallback: Fallback = None,
) -> Device:
    """Open the device to run an artifact on, and say in one log line why that one.

    Args:
        artifact: What is to run.
        name: ``cpu`` or ``cuda``; ``None`` for the GPU, where there is one and the artifact is
            for it, and else the CPU.
        index: Which device of that kind.
        fallback: What to take instead of ``tensorrt``, for which it is not.

    Raises:
        DeviceError: It does not work here, or the artifact is not for it; one line says which.
    """
    target = artifact.manifest.target
    if name == "tensorrt":
        unfit = f"{artifact.path}: this artifact is compiled for {target}, not for tensorrt"
        if target != "cuda":
            raise DeviceError(f"{unfit}; export with --target tensorrt")
        if fallback is None:
            raise DeviceError(f"{unfit}; export with --target tensorrt, or say --fallback cuda")
        return _said(_cuda(artifact, index), f"as --fallback says: {unfit}")
    if name == "cuda":
        if target != "cuda":
            raise DeviceError(
                f"{artifact.path}: this artifact is compiled for {target}; "
                "export with --target cuda"
            )
        return _said(_cuda(artifact, index), "as asked")
    if name == "cpu":
        return _said(_cpu(artifact, index), "as asked")
    if target != "cuda":
        return _said(_cpu(artifact, index), f"the artifact is compiled for {target}")
    if has_driver():
        return _said(_cuda(artifact, index), "an NVIDIA GPU is here and the artifact is for it")
    return _said(_cpu(artifact, index), "no NVIDIA driver is here")


def _cuda(artifact: AnyArtifact, index: int) -> CudaDevice:
    device = open_cuda(index)
    in_bfloat16 = artifact.manifest.computes_in == "bfloat16"
    if in_bfloat16 and device.gpu is not None and device.gpu.capability < _COMPUTES_BFLOAT16:
        raise DeviceError(
            f"{artifact.path}: computes in bf16, for which this GPU has no operators "
            f"({device.gpu}); export it again with --precision fp16"
        )
    return device


def _cpu(artifact: AnyArtifact, index: int) -> HostDevice:
    if index != 0:
        raise DeviceError(f"device {index} does not exist: the CPU is device 0")
    if artifact.manifest.computes_in == "bfloat16":
        raise DeviceError(
            f"{artifact.path}: computes in bf16, for which the CPU has no operators; "
            "export it again with another --precision"
        )
    return HostDevice()


def _said(device: Device, why: str) -> Device:
    gpu = f"; {device.gpu}" if isinstance(device, CudaDevice) and device.gpu is not None else ""
    _LOG.info("Running on %s device %d: %s%s", device.name, device.index, why, gpu)
    return device
