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
from support.family_table import FOR_GPUS
from support.makers import MakeArtifact, MakeEncoder, MakeFamily, MakeGguf, MakeLlama
from support.tiny_encoders import ENCODERS

from gpu_check.families import MODELS
from gpu_check.random_weights import RandomCheckpoint
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
        for name, family in FOR_GPUS.items()
        for precision in ("fp16", "bf16", "int8")
        if family.precisions
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


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artifacts of a model with heads as real ones have them, by precision."""
    root, made = tmp_path_factory.mktemp("wide"), {}
    for precision in ("fp16", "int8", "int4", "gguf"):
        checkpoint = RandomCheckpoint(
            "llama-128", MODELS["llama-128"], quantized=precision == "gguf"
        )
        made[precision] = root / precision
        export(checkpoint, made[precision], Options(precision, target="cuda"), "0" * 64)
    return made


def test_weights_in_blocks_are_unpacked_as_they_are_used(
    place: Place, wide: dict[str, Path]
) -> None:
    """Not written to memory in 16 bits first, which is the library's way by default."""
    reports = place([wide[precision] for precision in ("int8", "int4", "gguf")], "--kernels")
    for name, report in reports.items():
        assert "error" not in report, (name, report)
        for step, kernels in report["kernels"].items():
            assert not [one for one in kernels if "Dequantize" in one], (name, step)
            assert [one for one in kernels if "fpA_intB" in one or "FpAIntB" in one], (name, step)


def test_a_layer_that_decodes_takes_few_kernels(place: Place, wide: dict[str, Path]) -> None:
    """Each is a share of what one sequence waits for: docs/gpu.md names them."""
    kernels = place([wide["fp16"]], "--kernels")["fp16"]["kernels"]["decode 1"]
    layers = MODELS["llama-128"].layers
    assert len(kernels) <= 13 * layers + 5  # beside: embedding, first norm, the last one, logits
    assert sum("kernel_mha" in one for one in kernels) == layers  # attention's own for one token
    assert sum("cublasGemmEx" in one for one in kernels) == 4 * layers + 1


def test_products_that_find_no_kernel_are_made_the_plain_way(
    place: Place, wide: dict[str, Path]
) -> None:
    """Fused products want their memory aligned: here is one that is not."""
    (report,) = place([wide["int4"]], "--decode", "--kernels", "--odd").values()
    assert "error" not in report, report
    assert report["asked"]["greedy"]["replays"] == 2
    assert [one for one in report["kernels"]["prompt 256"] if "Dequantize4Bits" in one]


def test_the_librarys_own_variable_goes_before_ours(
    place: Place, wide: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORT_FPA_INTB_GEMM", "0")
    kernels = place([wide["int4"]], "--kernels")["int4"]["kernels"]["prompt 256"]
    assert [one for one in kernels if "Dequantize4Bits" in one]
