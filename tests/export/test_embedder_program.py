"""``rbee-export`` on encoders: exports, looks, verifies, refuses."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from support.makers import MakeArtifact, MakeEncoder
from support.tiny_llama import copy_of

from rbee_export import open_embedder
from rbee_export.cli import main
from rbee_export.embedder_evaluation import reference_embeddings
from rbee_export.embedding_fidelity import (
    Sentences,
    artifact_embeddings,
    compare_embeddings,
)
from rbee_runtime.artifact import Artifact, EmbedderArtifact
from rbee_runtime.errors import ArtifactError


def test_export_inspect_and_verify(
    make_encoder: MakeEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = make_encoder(), tmp_path / "artifact"
    assert main(["--model", str(checkpoint), "--out", str(out), "--print-path"]) == 0
    output = capsys.readouterr()
    assert output.out == f"{out}\n"
    assert "int8" in output.err
    assert "mean cosine" in output.err
    assert main(["inspect", str(out)]) == 0
    told = capsys.readouterr().out
    assert "64 numbers, by mean of all tokens, of length 1" in told
    assert "mean cosine" in told
    assert main(["inspect", str(out), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert (manifest["format_version"], manifest["task"]) == (5, "embed")
    assert main(["verify", str(out)]) == 0
    assert main(["verify", str(out), "--model", str(checkpoint)]) == 0
    assert "built-in, " in capsys.readouterr().err
    assert main(["verify", str(out), "--model", str(make_encoder("bert-relu"))]) == 3
    assert "is not the checkpoint" in capsys.readouterr().err


def test_the_same_checkpoint_gives_the_same_bytes(
    make_encoder: MakeEncoder, tmp_path: Path
) -> None:
    outs = [tmp_path / name for name in ("first", "second")]
    for out in outs:
        assert main(["--model", str(make_encoder()), "--out", str(out)]) == 0
    first, second = ({f.name: f.read_bytes() for f in out.iterdir()} for out in outs)
    assert first == second


def test_a_cache_is_used_again(
    make_encoder: MakeEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(make_encoder()), "--cache", str(tmp_path), "--no-verify"]
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert "exported before" in capsys.readouterr().err


def test_texts_of_a_file(
    make_encoder: MakeEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "texts.txt", tmp_path / "artifact"
    file.write_text("a first text\n\n  another one \n" + "worker " * 500 + "\n")
    arguments = ["--model", str(make_encoder()), "--out", str(out), "--calibration", str(file)]
    assert main(arguments) == 0
    fidelity = EmbedderArtifact.open(out).manifest.fidelity
    assert fidelity is not None
    assert (fidelity.text, fidelity.texts) == ("texts.txt", 3)
    file.write_text("one text alone\n")
    assert main(arguments) == 3
    assert "fewer than two texts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--target", "tensorrt", "--gpu-arch", "none"], "run on ONNX Runtime"),
        (["--precision", "bf16"], "bf16"),
        (["--precision", "gguf"], "no quantised blocks"),
        (["--target", "cuda", "--precision", "int8"], "fp16"),
        (["--exporter", "optimum"], "language models only"),
    ],
)
def test_what_is_refused(
    arguments: list[str],
    named: str,
    make_encoder: MakeEncoder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert main(["--model", str(make_encoder()), "--out", str(out), *arguments]) == 3
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert named in said
    assert not out.exists()


@pytest.mark.parametrize("architecture", ["bert", "nomic-bert"])
def test_an_encoder_in_gguf_is_refused_by_name(
    architecture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "encoder.gguf"
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_tensor("token_embd.weight", np.zeros((8, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert main(["--model", str(file), "--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err
    assert f"{architecture} is an embedding model" in said
    assert len(said.splitlines()) == 1


def test_a_decoder_that_embeds_is_refused_in_gguf(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "decoder.gguf"
    writer = gguf.GGUFWriter(file, "qwen3")
    writer.add_pooling_type(gguf.PoolingType.LAST)
    writer.add_tensor("token_embd.weight", np.zeros((8, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert main(["--model", str(file), "--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err
    assert "this 'qwen3' embeds texts, which is not read from GGUF" in said
    assert len(said.splitlines()) == 1


def test_cuda_is_fp16(make_encoder: MakeEncoder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["--model", str(make_encoder()), "--out", str(out), "--target", "cuda"]) == 0
    manifest = EmbedderArtifact.open(out).manifest
    assert (manifest.precision, manifest.target) == ("fp16", "cuda")


def test_verify_finds_a_graph_that_gives_no_numbers(
    make_encoder: MakeEncoder,
    make_embedder: MakeArtifact,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["verify", str(make_embedder(make_encoder()))]) == 3
    assert "never measured" in capsys.readouterr().err
    damaged = copy_of(make_embedder(make_encoder()), tmp_path)
    weights = damaged / "model.onnx.data"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\xff\xff\xff\x7f")
    assert main(["verify", str(damaged)]) == 3
    assert "corrupt" in capsys.readouterr().err


def test_what_the_worker_of_language_models_says(
    make_encoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    with pytest.raises(ArtifactError, match="embedding model"):
        Artifact.open(make_embedder(make_encoder()))


def test_measured_distances() -> None:
    texts = [[1, 2], [3], [4, 5, 6]]
    reference = np.asarray([[1, 0], [0.9, 0.1], [0, 1]], np.float32)
    same = compare_embeddings("built-in", texts, 3 * reference, reference)
    assert (same.texts, same.tokens, same.agreement) == (3, 6, 1.0)
    assert same.least_cosine == pytest.approx(1.0)
    turned = reference.copy()
    turned[0] = [0, 1]
    other = compare_embeddings("built-in", texts, turned, reference)
    assert other.least_cosine == pytest.approx(0.0)
    assert other.mean_cosine == pytest.approx(2 / 3)
    assert other.agreement == pytest.approx(1 / 3)


# The real model


@pytest.fixture(scope="module")
def real_texts(sample_encoder: Path, make_embedder: MakeArtifact) -> list[list[int]]:
    return Sentences.built_in().ids(EmbedderArtifact.open(make_embedder(sample_encoder, "fp32")))


def test_the_real_model_embeds_as_transformers_does(
    sample_encoder: Path, make_embedder: MakeArtifact, real_texts: list[list[int]]
) -> None:
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(sample_encoder)
    model = transformers.AutoModel.from_pretrained(sample_encoder).eval()
    texts = list(Sentences.built_in().texts)
    longest = open_embedder(sample_encoder).config.context_length
    batch = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    kept = batch["attention_mask"].bool()
    assert [row[mask].tolist() for row, mask in zip(batch["input_ids"], kept, strict=True)] == (
        real_texts
    )
    with torch.inference_mode():
        states = model(**batch).last_hidden_state
    pooled = torch.stack([row[mask].mean(0) for row, mask in zip(states, kept, strict=True)])
    theirs = torch.nn.functional.normalize(pooled).numpy()
    ours = artifact_embeddings(
        EmbedderArtifact.open(make_embedder(sample_encoder, "fp32")), real_texts
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("int8", (0.999, 0.995, 0.95)),
        ("fp16", (0.99999, 0.99999, 1.0)),
        ("int4", (0.96, 0.85, 0.9)),
    ],
)
def test_the_real_model_at_other_precisions(
    precision: str,
    expected: tuple[float, float, float],
    sample_encoder: Path,
    make_embedder: MakeArtifact,
    real_texts: list[list[int]],
) -> None:
    artifact = EmbedderArtifact.open(make_embedder(sample_encoder, precision))
    ours = artifact_embeddings(artifact, real_texts)
    theirs = reference_embeddings(open_embedder(sample_encoder), real_texts)
    measured = compare_embeddings("built-in", real_texts, ours, theirs)
    mean, least, agreement = expected
    assert measured.mean_cosine > mean
    assert measured.least_cosine > least
    assert measured.agreement >= agreement
