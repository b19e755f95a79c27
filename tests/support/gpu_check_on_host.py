"""Runs one of gpu-check's checks over what stands for a GPU, on shapes that the CPU computes.

Run as a program with a check's name, as ``gpu_check.child`` is. The runtime library works on the
host's memory, the sessions are on the CPU provider, and torch computes there too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from gpu_check import (
    captured,
    child,
    memory,
    parity,
    place,
    products,
    roof,
    shapes,
    speed,
    torch_speed,
    vllm_speed,
)
from gpu_check.families import MODELS
from rbee_bench.random_checkpoint import ModelShape
from rbee_export import Options
from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import opening
from rbee_runtime.backend.session import Binding
from rbee_runtime.device import CudaLibrary, Gpu, GpuMemory
from rbee_runtime.errors import OutOfMemory

from .cuda_on_host import CudaOnHost
from .fake_cuda_library import FakeCuda

NAME = "Stand-In 9000"
_LITTLE = 1 << 20
_FAKE = FakeCuda(size=1 << 28)


def _open(graph: Any, device: Any, **options: Any) -> Any:
    """Open a session, whose weights count as the device's."""
    session = _OPEN(graph, device, **options)
    if isinstance(device, CudaOnHost):
        _FAKE.used += Artifact.open(graph.parent).weight_bytes
    return session


def _run(self: Any, tokens: int) -> None:
    """Run a step, for which a chunk needs memory."""
    if _FAKE.size - _FAKE.used < 2 * _LITTLE and tokens > 100:
        raise OutOfMemory(f"the step over {tokens} tokens ran out of memory")
    _RUN(self, tokens)


def _compiled(checkpoint: Any, directory: Any, options: Options) -> Any:
    """Export a checkpoint; the CPU has nothing that computes in bf16."""
    if options.precision == "bf16":
        options = replace(options, precision="fp16")
    return _COMPILED(checkpoint, directory, options)


def _nvml() -> Any:
    gpu = Gpu(NAME, (9, 0), _FAKE.size, "580.1")
    return SimpleNamespace(gpu=gpu, memory=lambda: GpuMemory(_FAKE.size, _FAKE.used, None))


def stand_in() -> None:
    """Put everything in the GPU's place."""
    opening.open_cuda = lambda index: CudaOnHost(_FAKE, index)  # type: ignore[assignment]
    opening.open_session = products.open_session = _open  # type: ignore[attr-defined]
    Binding.run = _run  # type: ignore[method-assign]
    place.library = lambda: CudaLibrary(_FAKE, 0)
    place.nvml = _nvml
    place.compiled = _compiled
    parity.MODELS = {name: MODELS[name] for name in ("phi3-longrope", "gemma3_text")}
    captured.COMPARED = ("llama-128", "phi3-longrope")
    little = {"vocab_size": 384, "hidden_size": 256, "intermediate_size": 512}
    memory.SIZES, memory.BUDGET = {**memory.SIZES, **little}, 1 << 26
    roof.MOST_BYTES, roof.MOST_ROWS, roof.DEVICE = 1 << 22, 128, "cpu"
    torch_speed.DEVICE, torch_speed.DTYPE = "cpu", "float32"
    torch_speed.EAGER_BATCHES = (1,)
    vllm_speed.BATCHES = (1, 2)
    tiny = ModelShape(512, 64, 128, 4, 2, layers=2)
    shapes.SHAPES.update({"1B": tiny, "8B": tiny.with_layers(3)})
    for module in (speed, torch_speed, vllm_speed):
        for name, value in {"LENGTH": 96, "CAPACITY": 256, "CONTEXT": 16, "STEPS": 4}.items():
            setattr(module, name, value)
    speed.BATCHES, speed.PREFILLS = (1, 2, 64), (1, 2)


def main(arguments: Sequence[str]) -> int:
    stand_in()
    if arguments[0].endswith("compiled"):
        import torch

        torch.compile = lambda function, **_: function  # type: ignore[assignment]
    return child.main(arguments)


_OPEN, _RUN, _COMPILED = opening.open_session, Binding.run, place.compiled

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
