"""The GPU, as the checks come to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpu_check.random_weights import RandomCheckpoint
from rbee_export import Options, export
from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import Backend, OnnxBackend, open_backend
from rbee_runtime.backend.opening import choose_device
from rbee_runtime.backend.session import open_session
from rbee_runtime.device import CudaLibrary, Nvml
from rbee_runtime.memory import plan_cache
from rbee_runtime.step import PREFILL_CHUNK

DEVICE = 0


def library() -> CudaLibrary:
    """Return the CUDA runtime.

    Raises:
        DeviceError: A library, the driver or the GPU is missing; the message says which.
    """
    return CudaLibrary.load(DEVICE)


def nvml() -> Nvml:
    """Return what the driver says of the GPU.

    Raises:
        DeviceError: As :func:`library`.
    """
    return Nvml.load(library().bus_id())


def compiled(checkpoint: RandomCheckpoint, directory: Path, options: Options) -> Path:
    """Export a checkpoint and return the artifact's directory."""
    export(checkpoint, directory, options, "0" * 64)
    return directory


def open_gpu(path: Path, *, slots: int = 4, context: int = 400, graphs: bool = True) -> OnnxBackend:
    """Open an artifact on the GPU, with a small cache, and without captured graphs if wanted."""
    artifact = Artifact.open(path)
    device = choose_device(artifact, "cuda", DEVICE)
    plan = plan_cache(
        artifact.manifest.cache, context, 1 << 30, slots=slots, context=context, chunk=PREFILL_CHUNK
    )
    session = open_session(artifact.file("graph"), device)
    return OnnxBackend(artifact, session, plan, device, graphs=graphs)


def open_alike(path: Path, name: str, **options: Any) -> Backend:
    """Open an artifact on a backend by its name, with a cache of the same size."""
    return open_backend(Artifact.open(path), name, slots=4, context=400, **options)
