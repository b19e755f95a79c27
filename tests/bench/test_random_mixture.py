"""The mixture of experts of random weights that is timed."""

from __future__ import annotations

from pathlib import Path

from rbee_bench.random_mixture import MixtureShape, write_mixture
from rbee_export import Options, digest, export, open_checkpoint
from rbee_runtime import Engine


def test_it_runs_and_its_words_do_not_run_away(sample_gguf: Path, tmp_path: Path) -> None:
    file, artifact = tmp_path / "mixture.gguf", tmp_path / "artifact"
    shape = MixtureShape(2, experts=6, active=2, width=64, hidden=64, heads=4, kv_heads=2)
    write_mixture(file, sample_gguf, shape)
    checkpoint = open_checkpoint(file)
    manifest = export(checkpoint, artifact, Options(), digest(checkpoint.files))
    assert (manifest.family, manifest.precision) == ("qwen3_moe", "gguf")
    assert manifest.shapes.experts is not None
    assert manifest.shapes.experts.count == 6
    # Logits beyond what floats hold would end the request.
    with Engine.load(artifact, slots=1, context_length=64) as engine:
        [completion] = engine.complete(["Once upon a time"], max_tokens=8)
    assert completion.text
