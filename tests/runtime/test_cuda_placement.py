"""What ONNX Runtime's own CUDA provider makes of our graphs, as far as goes without a GPU.

The provider runs here over libraries that stand for CUDA's: see ``support.fake_gpu``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.fake_gpu.build import build_fake_gpu
from support.family_table import FAMILIES
from support.makers import MakeArtifact, MakeEncoder, MakeFamily, MakeGguf, MakeLlama
from support.tiny_encoders import ENCODERS

from rbee_export import Options, digest, export, open_checkpoint

PROGRAM = Path(__file__).parent.parent / "support" / "fake_gpu" / "place.py"
SHAPES = {"Concat"}
"""What may run on the CPU: it puts together sizes, which are numbers of the host's."""

Place = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """``place(artifacts, *options)``: what ``support.fake_gpu.place`` prints of each."""
    libraries = build_fake_gpu(tmp_path_factory.mktemp("fake-gpu"))

    def run(artifacts: list[Path], *options: str) -> dict[str, dict[str, Any]]:
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(libraries),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(
            [sys.executable, str(PROGRAM), *options, *map(str, artifacts)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        reports = map(json.loads, done.stdout.splitlines())
        return {report.pop("artifact"): report for report in reports}

    return run


def compiled(checkpoint: Path, directory: Path, precision: Any, **options: Any) -> Path:
    opened = open_checkpoint(checkpoint)
    export(opened, directory, Options(precision, **options), digest(opened.files))
    return directory


def test_every_operator_of_every_family_has_a_kernel(
    place: Place,
    make_family: MakeFamily,
    make_llama: MakeLlama,
    make_gguf: MakeGguf,
    tmp_path: Path,
) -> None:
    artifacts = [
        compiled(make_family(name), tmp_path / f"{name}-{precision}", precision, target="cuda")
        for name in FAMILIES
        for precision in ("fp16", "bf16", "int8")
    ]
    wide = make_llama(hidden_size=256, intermediate_size=256)
    artifacts += [
        compiled(make_family("llama"), tmp_path / "int4", "int4", target="cuda"),
        *(
            compiled(make_gguf(kind, wide).path, tmp_path / kind, "gguf", target="cuda")
            for kind in ("Q4_1", "Q5_1", "Q6_K")
        ),
    ]
    reports = place(artifacts)
    assert len(reports) == len(artifacts)
    for name, report in reports.items():
        assert "error" not in report, (name, report)
        assert set(report["graph"]) <= SHAPES, name
        assert report["greedy"] == report["sampler"] == [], name


def test_a_graph_for_the_cpu_is_refused(
    place: Place, make_family: MakeFamily, tmp_path: Path
) -> None:
    """The test above can fail."""
    artifact = compiled(make_family("llama"), tmp_path / "cpu", "fp32")
    assert "not been partitioned to the CUDAExecutionProvider" in place([artifact])["cpu"]["error"]


def test_an_encoder_runs_on_the_gpu_but_for_numbers_of_the_host(
    place: Place, make_encoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    artifacts = [make_embedder(make_encoder(name), "fp16") for name in ENCODERS]
    reports = place(artifacts)
    assert len(reports) == len(artifacts)
    for name, report in reports.items():
        assert "error" not in report, (name, report)
        assert set(report["graph"]) <= {"Add", "Cast", "Squeeze"}, name


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_step_is_replayed_and_copies_scalars_and_tokens(
    family: str, place: Place, make_family: MakeFamily, tmp_path: Path
) -> None:
    """Copies that the provider makes by itself are counted, too."""
    precisions = ("fp16", "bf16", "int8", "int4")
    artifacts = [
        compiled(make_family(family), tmp_path / precision, precision, target="cuda")
        for precision in precisions
    ]
    for name, report in place(artifacts, "--decode").items():
        assert "error" not in report, (name, report)
        asked = report["asked"]
        # Three graphs for each of 1, 2 and 4 rows.
        assert asked["warm_up"]["captures"] == 9
        for kind, uploads in (("greedy", 1), ("sampled", 2)):
            assert asked[kind] == {
                "allocations": 0,
                "captures": 0,
                "replays": 2,
                "waits": 1,
                "to_device": uploads,
                "to_host": 1,
            }, (name, kind)


def test_a_graph_that_cannot_be_captured_runs_without(
    place: Place, make_family: MakeFamily, tmp_path: Path
) -> None:
    artifact = compiled(make_family("llama"), tmp_path / "fp16", "fp16", target="cuda")
    (report,) = place([artifact], "--decode", "--no-capture").values()
    assert "error" not in report, report
    asked = report["asked"]
    assert asked["warm_up"]["captures"] == 1
    for kind, uploads in (("greedy", 1), ("sampled", 2)):
        assert asked[kind]["captures"] == asked[kind]["replays"] == 0
        assert (asked[kind]["to_device"], asked[kind]["to_host"]) == (uploads, 1), report
