"""Models that run on the CPU alone say so, before anything is written or opened."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.makers import MakeArtifact, MakeFamily

from rbee_export.cli import main
from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import open_backend
from rbee_runtime.errors import DeviceError

MODELS = {"mixtures of experts": "qwen3-moe", "hybrid models": "lfm2"}
"""What they are called, each with a family of that kind."""


@pytest.mark.parametrize("models", MODELS)
@pytest.mark.parametrize(
    "arguments",
    [
        ["--precision", "fp16"],
        ["--precision", "bf16"],
        ["--target", "cuda"],
        ["--target", "cuda", "--precision", "int4"],
        ["--target", "tensorrt"],
    ],
)
def test_gpus_are_refused(
    models: str,
    arguments: list[str],
    make_family: MakeFamily,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = make_family(MODELS[models])
    assert main(["--model", str(model), "--out", str(tmp_path / "out"), *arguments]) == 3
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr().err == (
        f"rbee-export: {model.name}: {models} run on the CPU alone; leave --target out "
        "and use --precision int8, int4, gguf or fp32\n"
    )


@pytest.mark.parametrize("models", MODELS)
@pytest.mark.parametrize("backend", ["cuda", "tensorrt"])
def test_a_gpu_s_backend_is_refused(
    models: str,
    backend: str,
    make_family: MakeFamily,
    make_artifact: MakeArtifact,
) -> None:
    artifact = Artifact.open(make_artifact(make_family(MODELS[models]), "int8"))
    with pytest.raises(DeviceError, match=f"{models} run on the CPU alone; leave"):
        open_backend(artifact, backend)
