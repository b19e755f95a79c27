"""Models of random weights that are timed."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.makers import MakeGguf

from rbee_bench.random_gguf import GgufShape, write_random_gguf
from rbee_export import Options, digest, export, open_checkpoint
from rbee_runtime import Engine


@pytest.mark.parametrize(
    ("kind", "width", "experts", "real"),
    [
        ("q4_0", 64, 0, True),
        ("q4_0", 64, 6, False),
        ("q4_k", 256, 0, False),
        ("q6_k", 256, 6, False),
        ("iq4_nl", 64, 0, False),
        ("iq4_xs", 256, 0, False),
        ("mxfp4", 64, 6, False),
    ],
)
def test_it_runs_and_its_words_do_not_run_away(
    *,
    kind: str,
    width: int,
    experts: int,
    real: bool,
    sample_gguf: Path,
    make_gguf: MakeGguf,
    tmp_path: Path,
) -> None:
    # The real vocabulary is read once: in every case it would take most of the time.
    vocabulary = sample_gguf if real else make_gguf().path
    file, artifact = tmp_path / "random.gguf", tmp_path / "artifact"
    shape = GgufShape(2, width, width, heads=4, kv_heads=2, experts=experts, active=2)
    write_random_gguf(file, vocabulary, shape, kind)
    checkpoint = open_checkpoint(file)
    manifest = export(checkpoint, artifact, Options(), digest(checkpoint.files))
    assert manifest.family == ("qwen3_moe" if experts else "qwen3")
    assert manifest.precision == "gguf"
    told = manifest.shapes.experts
    assert (told.count if told else 0) == experts
    # Logits beyond what floats hold would end the request.
    with Engine.load(artifact, slots=1, context_length=64) as engine:
        [completion] = engine.complete(["Once upon a time"], max_tokens=8)
    assert completion.text
