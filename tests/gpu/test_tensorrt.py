"""What only a GPU can show of engines: that they run, in place, recorded, and compute the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.collecting import submit
from support.makers import MakeArtifact, MakeFamily
from support.running import forced_logits, mean_divergence, open_cpu

from rbee_export import ExportError, Options, digest, export, open_checkpoint
from rbee_export.export import TensorRtTarget
from rbee_export.tensorrt_library import choose
from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import Backend, open_backend
from rbee_runtime.engine import Engine
from rbee_runtime.request import GREEDY, Request
from rbee_runtime.step import Row, Step

pytestmark = pytest.mark.gpu

FAMILIES = ("llama", "gemma2", "gemma3", "phi3-longrope", "qwen3")
IDS = np.random.default_rng(13).integers(3, 384, 300).tolist()
CLOSE = {"fp16": 2e-3, "bf16": 3e-2, "int8": 2e-2, "int4": 2e-2}
"""Mean divergence up to which an engine's predictions are the CPU's, in nats."""


@pytest.fixture(scope="session", autouse=True)
def library() -> None:
    """A TensorRT that builds for the GPU at hand."""
    try:
        choose(None)
    except ExportError as error:
        pytest.skip(str(error))


def compiled(checkpoint: Path, directory: Path, precision: Any) -> Path:
    opened = open_checkpoint(checkpoint)
    target = TensorRtTarget((), 4, 400)
    export(opened, directory, Options(precision, target=target), digest(opened.files))
    return directory


def open_gpu(path: Path, name: str = "tensorrt") -> Backend:
    return open_backend(Artifact.open(path), name, slots=4, context=400, budget=1 << 30)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_parity_with_the_cpu(
    family: str,
    precision: str,
    make_family: MakeFamily,
    make_artifact: MakeArtifact,
    tmp_path: Path,
) -> None:
    checkpoint = make_family(family)
    backend = open_gpu(compiled(checkpoint, tmp_path / "tensorrt", precision))
    backend.warm_up()
    # Of int4, the rounding is the same in both dialects; the CPU has no bf16.
    reference = open_cpu(make_artifact(checkpoint, "fp32" if precision == "bf16" else precision))
    mine, theirs = (forced_logits(one, IDS, 280) for one in (backend, reference))
    assert np.isfinite(mine).all()
    assert mean_divergence(mine, theirs) < CLOSE[precision]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_recorded_steps_change_nothing(
    precision: str, make_family: MakeFamily, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first step of so many rows runs as it is, the others are replayed."""
    backend = open_gpu(compiled(make_family("llama"), tmp_path / "tensorrt", precision))
    for slot, length in enumerate((9, 40, 200)):
        backend.advance(Step.of(slot, 0, IDS[:length]), None)
    step = Step(0, [Row(9, [5]), Row(40, [6]), Row(200, [7])])
    first, *replayed = (backend.run(step) for _ in range(3))
    for logits in replayed:
        np.testing.assert_array_equal(logits, first)
    assert "without captured graphs" not in caplog.text


def test_the_graph_on_cuda_computes_what_the_engine_does(
    make_family: MakeFamily, tmp_path: Path
) -> None:
    path = compiled(make_family("llama"), tmp_path / "tensorrt", "fp16")
    engine, graph = (forced_logits(open_gpu(path, name), IDS, 280) for name in ("tensorrt", "cuda"))
    assert mean_divergence(engine, graph) < CLOSE["fp16"]


def test_it_serves(make_family: MakeFamily, tmp_path: Path) -> None:
    path = compiled(make_family("llama"), tmp_path / "tensorrt", "fp16")
    with Engine.load(path, backend="tensorrt", memory_budget=1 << 30) as engine:
        requests = [Request(f"{n}", IDS[n : n + 50 * n + 1], 20, GREEDY) for n in range(6)]
        waiting = [submit(engine, request) for request in requests]
        assert all(collector.finished()[1].completion_tokens for collector in waiting)
        memory = engine.memory()
        assert memory.total == memory.weights + memory.cache + memory.workspace
