"""What ONNX Runtime's own providers make of the standard graph, as far as goes without a GPU.

They run here over libraries that stand for CUDA's: see ``support.fake_gpu``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.fake_gpu.build import build_fake_gpu
from support.makers import MakeFamily

from rbee_export import Options, digest, export, open_checkpoint
from rbee_export.export import TensorRtTarget

ARTIFACTS = [
    ("llama", "fp16"),
    ("llama", "bf16"),
    ("llama", "int8"),
    ("gemma2", "fp16"),
    ("gemma3", "int4"),
    ("llama-tied", "int4"),
    ("phi3-longrope", "fp16"),
]
REFUSED = [("llama", "int8"), ("gemma3", "int4")]
RUNS = [artifact for artifact in ARTIFACTS if artifact not in REFUSED]


@pytest.fixture(scope="module")
def reports(
    make_family: MakeFamily, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Mapping[str, Any]]:
    """By backend, what ``support.fake_gpu.standard`` prints of each artifact without an engine."""
    libraries = build_fake_gpu(tmp_path_factory.mktemp("fake-gpu"))
    root = tmp_path_factory.mktemp("standard")
    paths = []
    for family, precision in ARTIFACTS:
        checkpoint = open_checkpoint(make_family(family))
        options = Options(precision, target=TensorRtTarget((), engines=False))
        paths.append(root / f"{family}-{precision}")
        export(checkpoint, paths[-1], options, digest(checkpoint.files))

    def run(backend: str, artifacts: list[Path]) -> Mapping[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "support.fake_gpu.standard", backend, *map(str, artifacts)],
            env={
                **os.environ,
                "LD_LIBRARY_PATH": str(libraries),
                "PYTHONPATH": os.pathsep.join(sys.path),
                "XDG_CACHE_HOME": str(root),
            },
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told = map(json.loads, done.stdout.splitlines())
        return {report.pop("artifact"): report for report in told}

    return {"cuda": run("cuda", paths), "tensorrt": run("tensorrt", paths[2:4])}


@pytest.mark.parametrize(("family", "precision"), RUNS)
def test_cuda_captures_the_graph_and_updates_its_cache_in_place(
    family: str, precision: str, reports: Mapping[str, Mapping[str, Any]]
) -> None:
    report = reports["cuda"][f"{family}-{precision}"]
    assert "error" not in report
    asked = report["asked"]
    # One, two and four rows, by the model and both sampling graphs.
    assert asked["warm_up"]["captures"] == 9
    for kind, uploads in (("greedy", 1), ("sampled", 2)):
        assert asked[kind] == {
            "allocations": 0,
            "captures": 0,
            "replays": 2,
            "waits": 1,
            "to_device": uploads,
            "to_host": 1,
            "within": 0,
        }
    assert asked["prompt"]["within"] == 0


def test_cuda_does_not_read_some_blocks(reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Those of 8 bits, and those of Gemma, which computes in bf16."""
    for name, blocks in (("llama-int8", "8-bit blocks"), ("gemma3-int4", "blocks in bf16")):
        error = reports["cuda"][name]["error"]
        assert f"the CUDA provider cannot read {blocks} of this graph; export with --targ" in error


def test_a_provider_without_its_library_is_named(
    reports: Mapping[str, Mapping[str, Any]],
) -> None:
    missing = "ONNX Runtime cannot load its TensorRT provider here, which needs TensorRT 10; pip"
    fp16, int8 = (reports["tensorrt"][name]["error"] for name in ("gemma2-fp16", "llama-int8"))
    assert fp16.startswith(missing)
    assert fp16.endswith(", or say --fallback cuda")
    assert int8.startswith(missing)
    assert int8.endswith("export with --target cuda")
