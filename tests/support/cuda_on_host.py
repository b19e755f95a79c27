"""The CUDA device over a runtime that works on the host, and sessions on the CPU provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import OnnxBackend
from rbee_runtime.backend.session import open_session
from rbee_runtime.device import CudaDevice, CudaLibrary, Gpu
from rbee_runtime.memory import plan_cache
from rbee_runtime.step import PREFILL_CHUNK

from .fake_cuda_library import FakeCuda


class CudaOnHost(CudaDevice):
    """A GPU to this package, the CPU to ONNX Runtime."""

    memory_name = "cpu"

    def __init__(
        self, fake: FakeCuda, index: int = 0, capability: tuple[int, int] = (9, 0)
    ) -> None:
        gpu = Gpu("No GPU", capability, fake.size, "580.1")
        super().__init__(CudaLibrary(fake, index), index, lambda: fake.used, gpu)


def open_on_fake(
    artifact: Path, fake: FakeCuda, *, slots: int = 4, context: int = 320, **options: Any
) -> OnnxBackend:
    opened, device = Artifact.open(artifact), CudaOnHost(fake)
    manifest = opened.manifest
    plan = plan_cache(
        manifest.cache,
        manifest.shapes.context_length,
        1 << 30,
        slots=slots,
        context=context,
        chunk=PREFILL_CHUNK,
    )
    session = open_session(opened.file("graph"), device)
    return OnnxBackend(opened, session, plan, device, **options)
