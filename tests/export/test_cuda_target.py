"""What compiling for CUDA changes in an artifact, and how far it is from its checkpoint then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.makers import MakeGguf

from rbee_export import Options, digest, export, open_checkpoint
from rbee_export.cli import main
from rbee_export.errors import ExportError
from rbee_export.fidelity import Text
from rbee_runtime.artifact import Artifact


def compiled(checkpoint: Path, directory: Path, precision: Any) -> Artifact:
    opened = open_checkpoint(checkpoint)
    options = Options(precision, target="cuda")
    export(opened, directory, options, digest(opened.files), text=Text.built_in())
    return Artifact.open(directory)


@pytest.mark.parametrize(
    ("precision", "cache", "divergence"),
    [("fp16", "float16", 1e-4), ("bf16", "bfloat16", 1e-2), ("int8", "float16", 2e-2)],
)
def test_it_computes_in_sixteen_bits(
    precision: str, cache: str, divergence: float, tiny_llama: Path, tmp_path: Path
) -> None:
    manifest = compiled(tiny_llama, tmp_path / "made", precision).manifest
    assert (manifest.target, manifest.cache.dtype) == ("cuda", cache)
    roles = [entry.role for entry in manifest.files]
    assert sorted(roles) == ["graph", "greedy", "sampler", "tokenizer", "weights"]
    assert manifest.fidelity is not None
    assert manifest.fidelity.divergence < divergence
    assert not any("fp32" in group.held for group in manifest.weights)


def test_blocks_of_a_gguf_stay_what_they_are(make_gguf: MakeGguf, tmp_path: Path) -> None:
    """Scales and minima of Q4_1 are stored in fp16, and lose nothing by it."""
    manifest = compiled(make_gguf("Q4_1").path, tmp_path / "made", "gguf").manifest
    assert manifest.fidelity is not None
    assert manifest.fidelity.divergence < 1e-3


def test_the_size_of_the_weights_is_that_of_the_files(tiny_llama: Path, tmp_path: Path) -> None:
    artifact = compiled(tiny_llama, tmp_path / "made", "int8")
    told = sum(group.nbytes for group in artifact.manifest.weights)
    # Rotary tables are in the files and no weights; parts are aligned.
    assert told <= artifact.weight_bytes < told + 200_000


def test_fp32_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no fp32 kernel; use --precision fp16 or bf16"):
        compiled(tiny_llama, tmp_path / "made", "fp32")
    assert not (tmp_path / "made").exists()


def test_the_command_line(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--model", str(tiny_llama), "--target", "cuda", "--no-verify"]) == 0
    (made,) = (tmp_path / "artifacts").iterdir()
    assert made.name == f"{tiny_llama.name}-cuda-int8"
    assert Artifact.open(made).manifest.target == "cuda"
