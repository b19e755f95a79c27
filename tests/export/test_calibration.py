"""``int4`` is rounded to what the model makes of a text, where it makes anything of it."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file, save_file
from support.engines import require_engine_builder
from support.makers import MakeArtifact, MakeGguf, MakeLlama, OpenOnce
from support.tiny_llama import copy_of
from tokenizers import Tokenizer

from rbee_bench.plain_rounding import rounded_plainly, stacks
from rbee_export import Options, digest, export, open_checkpoint
from rbee_export.calibration import calibration_ids
from rbee_export.cli import main
from rbee_export.evaluation import artifact_logits
from rbee_export.fidelity import TOKENS, Text, compare, reference_logits
from rbee_export.options import TensorRtTarget
from rbee_runtime.artifact import Artifact, EngineProfile, Manifest

CALIBRATED, ROUNDED = (f"4-bit, blocks of 32, {how}" for how in ("calibrated", "rounded"))
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


def quiet(_stage: str, _done: int, _total: int) -> None:
    pass


def held(manifest: Manifest) -> dict[str, set[str]]:
    """Return how the matrices of each name are held."""
    groups: dict[str, set[str]] = {}
    for group in manifest.weights:
        groups.setdefault(group.name, set()).add(group.held)
    return groups


def exported(checkpoint: Path, target: Path) -> dict[str, set[str]]:
    """Export to four bits by the command, and return how matrices are held."""
    arguments = ["--model", str(checkpoint), "--out", str(target), "--precision", "int4"]
    assert main([*arguments, "--no-verify"]) == 0
    return held(Artifact.open(target).manifest)


@pytest.mark.timeout(300)  # it quantises a hundred million weights
def test_it_costs_at_most_half_of_what_plain_rounding_does(
    sample_gguf: Path, make_artifact: MakeArtifact, open_once: OpenOnce, tmp_path: Path
) -> None:
    """On a real model, on the text that reports are measured on, and on one from elsewhere."""
    checkpoint = open_once(sample_gguf)
    path = make_artifact(sample_gguf, "int4")
    plain = rounded_plainly(Artifact.open(path), checkpoint, tmp_path / "plain")
    other = resources.files("rbee_bench").joinpath("text.txt").read_text(encoding="utf-8")
    for text in (Text.built_in(), Text("other", other)):
        ids = text.ids(Artifact.open(path))[:128]  # enough to tell the two apart
        reference = reference_logits(checkpoint, "fp32", ids, quiet)
        ours, theirs = (
            compare(text, ids, artifact_logits(Artifact.open(artifact), ids), reference)
            for artifact in (path, plain)
        )
        assert 0.02 < ours.divergence <= theirs.divergence / 2
        assert ours.agreement > theirs.agreement


def test_gguf_and_safetensors_are_calibrated_alike(
    tiny_llama: Path, make_gguf: MakeGguf, tmp_path: Path
) -> None:
    for number, source in enumerate((tiny_llama, make_gguf("F32").path, make_gguf("Q4_1").path)):
        groups = exported(source, tmp_path / str(number))
        assert all(groups[name] == {CALIBRATED} for name in MATRICES)
        assert groups["embedding"] == {"8-bit, blocks of 32, rounded"}


def test_an_engine_is_built_from_the_same_matrices(
    tiny_llama: Path, make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    require_engine_builder()
    opened, target = open_checkpoint(tiny_llama), TensorRtTarget(("SM89",), max_batch=2, max_len=64)
    options = Options("int4", target=target)
    manifest = export(opened, tmp_path / "engine", options, digest(opened.files))
    sixteen = {f"{CALIBRATED}, scales of 16 bits"}
    assert all(held(manifest)[name] == sixteen for name in MATRICES)
    assert (
        held(manifest)["embedding"] == held(manifest)["final_norm"] == {"fp16"}
    )  # nothing is left out of the report
    (engine,) = manifest.engines
    assert (engine.library, engine.architecture) == ("tensorrt_rtx", "SM89")
    assert (engine.max_batch, engine.max_length) == (2, 64)
    assert engine.profiles == (EngineProfile(batch=(1, 2), sequence=(1, 64)),)
    initializers = ir.load(tmp_path / "engine" / "model.onnx").graph.initializers
    for stack in stacks(make_artifact(tiny_llama, "int4")):
        if stack.matrix.bits == 4:
            # Turned about where TensorRT would not take them.
            scales = initializers[f"{'+'.join(stack.names)}.scales"].const_value
            assert scales is not None
            expected = np.abs(stack.matrix.scales).astype(np.float16)
            np.testing.assert_array_equal(scales.numpy(), expected)


def test_the_text_is_not_what_fidelity_is_measured_on(
    sample_gguf: Path, open_once: OpenOnce
) -> None:
    checkpoint = open_once(sample_gguf)
    serialised = checkpoint.tokenizer().tokenizer_json
    tokenizer = Tokenizer.from_str(serialised)
    text = Text.built_in().content
    measured = tokenizer.decode(tokenizer.encode(text).ids[:TOKENS], skip_special_tokens=False)
    ids = calibration_ids(serialised, checkpoint.config)
    calibrated = tokenizer.decode(list(ids), skip_special_tokens=False)
    assert len(ids) == 1024
    assert text.startswith(measured)
    assert text[len(measured) :].startswith(calibrated)


def test_layers_beyond_all_bounds_are_rounded_by_themselves(
    tiny_llama: Path, tmp_path: Path
) -> None:
    checkpoint = copy_of(tiny_llama, tmp_path)
    file = checkpoint / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.input_layernorm.weight"] *= np.float32(1e30)
    save_file(weights, file, {"format": "pt"})
    groups = exported(checkpoint, tmp_path / "artifact")
    assert groups["q"] == groups["down"] == {CALIBRATED, ROUNDED}


def test_a_model_that_cannot_read_the_text_is_rounded_by_itself(
    make_llama: MakeLlama, tmp_path: Path
) -> None:
    groups = exported(make_llama(max_position_embeddings=48), tmp_path / "artifact")
    assert all(groups[name] == {ROUNDED} for name in MATRICES)


def test_a_text_with_tokens_that_the_model_lacks_does_not_serve(tiny_llama: Path) -> None:
    checkpoint = open_checkpoint(tiny_llama)
    text = checkpoint.tokenizer().tokenizer_json
    assert len(calibration_ids(text, checkpoint.config)) > 0
    assert calibration_ids(text, replace(checkpoint.config, vocab=100)) == ()
