"""What only a GPU can show: its kernels compute what the CPU does, and its memory is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.collecting import submit
from support.family_table import FAMILIES
from support.makers import MakeArtifact, MakeFamily
from support.running import forced_logits, mean_divergence, open_cpu

from rbee_export import Options, digest, export, open_checkpoint
from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import Backend, OnnxBackend, open_backend
from rbee_runtime.backend.session import open_session
from rbee_runtime.device import CudaLibrary, Nvml, open_cuda
from rbee_runtime.engine import Engine
from rbee_runtime.errors import OutOfMemory
from rbee_runtime.memory import plan_cache
from rbee_runtime.request import GREEDY, Request, SamplingParams
from rbee_runtime.sampling import RowSampler
from rbee_runtime.step import PREFILL_CHUNK, Row, Step

pytestmark = pytest.mark.gpu

IDS = np.random.default_rng(13).integers(3, 384, 300).tolist()
CLOSE = {"fp16": 2e-3, "bf16": 3e-2, "int8": 2e-2, "int4": 2e-2}
"""Mean divergence up to which the GPU's predictions are the CPU's, in nats."""


def compiled(checkpoint: Path, directory: Path, precision: Any) -> Path:
    opened = open_checkpoint(checkpoint)
    export(opened, directory, Options(precision, target="cuda"), digest(opened.files))
    return directory


def open_gpu(path: Path, *, slots: int = 4, graphs: bool = True) -> OnnxBackend:
    artifact, device = Artifact.open(path), open_cuda(0)
    plan = plan_cache(
        artifact.manifest.cache, 512, 1 << 30, slots=slots, context=400, chunk=PREFILL_CHUNK
    )
    session = open_session(artifact.file("graph"), device)
    return OnnxBackend(artifact, session, plan, device, graphs=graphs)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_parity_with_the_cpu(
    family: str,
    precision: str,
    make_family: MakeFamily,
    make_artifact: MakeArtifact,
    tmp_path: Path,
) -> None:
    """Against the same artifact on the CPU, and for bf16, which that cannot run, against fp32."""
    checkpoint = make_family(family)
    path = compiled(checkpoint, tmp_path / "cuda", precision)
    backend = open_gpu(path)
    backend.warm_up()
    reference = open_cpu(make_artifact(checkpoint, "fp32") if precision == "bf16" else path)
    mine, theirs = (forced_logits(one, IDS, 280) for one in (backend, reference))
    assert np.isfinite(mine).all()
    assert mean_divergence(mine, theirs) < CLOSE[precision]


def completed(backend: Backend, params: SamplingParams) -> list[list[int]]:
    """Decode three rows, as many as no captured graph has."""
    samplers = [RowSampler(params, IDS[:9]) for _ in range(3)]
    for slot in range(3):
        backend.advance(Step.of(slot, 0, IDS[slot : slot + 9]), None)
    tokens = [[5], [6], [7]]
    for past in range(9, 60):
        rows = [Row(past, own[-1:]) for own in tokens]
        for own, token in zip(tokens, backend.advance(Step(0, rows), samplers), strict=True):
            assert token is not None
            own.append(token)
    return tokens


@pytest.mark.parametrize(
    "params", [GREEDY, SamplingParams(seed=1, top_p=0.9, repetition_penalty=1.2)]
)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_captured_graphs_change_nothing(
    family: str, params: SamplingParams, make_family: MakeFamily, tmp_path: Path
) -> None:
    path = compiled(make_family(family), tmp_path / "cuda", "fp16")
    captured, plain = open_gpu(path), open_gpu(path, graphs=False)
    captured.warm_up()
    assert completed(captured, params) == completed(plain, params)


def test_what_it_holds_is_what_nvml_sees(
    gpu: CudaLibrary, make_family: MakeFamily, tmp_path: Path
) -> None:
    nvml = Nvml.load(gpu.bus_id())
    path = compiled(make_family("llama"), tmp_path / "cuda", "fp16")
    before = nvml.memory().used
    with Engine.load(path, backend="cuda", slots=8, memory_budget=1 << 30) as engine:
        assert submit(engine, Request("one", IDS[:50], 20, GREEDY)).finished()
        memory, grown = engine.memory(), nvml.memory().used - before
        assert memory.total == memory.weights + memory.cache + memory.workspace
        assert memory.cache == memory.cache_reserved
        assert grown >= memory.cache + memory.weights
        assert memory.total >= grown


def test_a_cache_beyond_the_memory(
    gpu: CudaLibrary, make_family: MakeFamily, tmp_path: Path
) -> None:
    free, _ = gpu.memory()
    artifact = Artifact.open(compiled(make_family("llama"), tmp_path / "cuda", "fp16"))
    each = artifact.manifest.cache.slot_bytes(512, PREFILL_CHUNK)
    with pytest.raises(OutOfMemory, match="no room for the KV cache"):
        open_backend(artifact, "cuda", slots=2 * free // each, context=512, budget=4 * free)
    left, _ = gpu.memory()
    assert left > 0.9 * free  # what was taken came back
    assert open_backend(artifact, "cuda", slots=1, context=64).slots == 1
