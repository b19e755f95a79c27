"""Which 16-bit type an engine computes in: what a family overflows, it does not get."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
from support.engines import require_engine_builder
from support.gguf_conversion import save_gguf
from support.makers import MakeFamily

from rbee_export import Options, open_checkpoint
from rbee_export.cli import main
from rbee_export.options import TensorRtTarget
from rbee_runtime.artifact import Artifact

ENGINE = ("--target", "tensorrt", "--gpu-arch", "SM89", "--max-batch", "2", "--max-len", "64")
NOTE = "activations of {} overflow fp16; the engine computes in bf16"


@pytest.mark.parametrize(
    ("asked", "held", "most"), [("auto", "int8", 0.05), ("int4", "int4", 2), ("fp16", "bf16", 0.02)]
)
def test_gemma_gets_an_engine_in_bf16(
    asked: str,
    held: str,
    most: float,
    *,
    make_family: MakeFamily,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    require_engine_builder()
    target = tmp_path / "artifact"
    source = str(make_family("gemma2"))
    assert main(["--model", source, "--out", str(target), "--precision", asked, *ENGINE]) == 0
    assert NOTE.format("gemma2") in capsys.readouterr().err
    artifact = Artifact.open(target)
    manifest = artifact.manifest
    assert (manifest.precision, manifest.cache.dtype) == (held, "bfloat16")
    assert {engine.architecture for engine in manifest.engines} == {"SM89"}
    past = next(x for x in ir.load(artifact.file("graph")).graph.inputs if x.name == "past_key.0")
    assert past.dtype == ir.DataType.BFLOAT16
    assert manifest.fidelity is not None  # measured on a CPU, which has no such type
    assert manifest.fidelity.divergence < most
    assert main(["verify", str(target)]) == 0


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3", "gemma3-text", "glm4"])
def test_what_overflows_is_known_from_either_source(
    family: str, make_family: MakeFamily, tmp_path: Path
) -> None:
    options = Options("fp16", target=TensorRtTarget(("SM89",)))
    directory, file = make_family(family), tmp_path / "model.gguf"
    save_gguf(file, directory, "F16")
    for source in (directory, file):
        checkpoint = open_checkpoint(source)
        assert options.resolve(checkpoint) == "bf16"
        assert NOTE.format(checkpoint.config.family) in str(options.note(checkpoint))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_types_that_hold_it_are_left_alone(precision: str, make_family: MakeFamily) -> None:
    checkpoint = open_checkpoint(make_family("gemma"))
    target = TensorRtTarget(("SM89",))
    options = {"fp32": Options("fp32", target=target), "bf16": Options("bf16", target=target)}
    assert options[precision].resolve(checkpoint) == precision
    assert options[precision].note(checkpoint) is None


def test_other_families_compute_in_fp16_and_are_measured_alike(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_engine_builder()
    target = tmp_path / "artifact"
    assert main(["--model", str(tiny_llama), "--out", str(target), *ENGINE]) == 0
    assert "bf16" not in capsys.readouterr().err
    manifest = Artifact.open(target).manifest
    assert manifest.cache.dtype == "float16"
    assert manifest.fidelity is not None
    assert manifest.fidelity.divergence < 0.05


def test_the_choice_is_made_by_family(tiny_llama: Path) -> None:
    checkpoint = open_checkpoint(tiny_llama)
    options = Options(target=TensorRtTarget(("SM89",)))
    assert options.computes_in(checkpoint, "int8") == ir.DataType.FLOAT16
    assert options.note(checkpoint) is None


def test_a_gpu_without_that_type_is_refused_at_once(
    make_family: MakeFamily, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--target", "tensorrt", "--gpu-arch", "SM75,SM89", "--out", str(tmp_path / "x")]
    assert main(["--model", str(make_family("gemma3-text")), *arguments]) == 3
    *_, line = capsys.readouterr().err.splitlines()
    assert line.endswith("SM75 has no bf16: gemma3 overflows fp16; leave it out of --gpu-arch")
    assert not (tmp_path / "x").exists()
