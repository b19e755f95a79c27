"""Decoders embed as ``transformers`` and a pooling by hand do, whatever else is in the pack."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file
from support.embedding import assert_near_its_weights, embed, of_length_one
from support.makers import MakeArtifact, MakeEncoder, MakeFamily
from support.native import needs_kernels
from support.running import open_plainly
from support.tiny_embedding_decoders import CONTEXT, DECODERS, WINDOW
from support.tiny_encoders import VOCAB, hidden_states, load_encoder, write_json
from support.tiny_llama import copy_of
from tokenizers import Tokenizer

from rbee_export import open_embedder
from rbee_export.cli import main
from rbee_export.embedder_evaluation import reference_embeddings
from rbee_runtime.artifact import Artifact, EmbedderArtifact
from rbee_runtime.backend.session import open_with_kernels

Vectors = NDArray[np.float32]

LENGTHS = (1, 17, 3, CONTEXT, 40, 2, WINDOW + 1)
DRAW = np.random.default_rng(5)
TEXTS = [DRAW.integers(5, VOCAB, length).tolist() for length in LENGTHS]

POOLINGS: Mapping[str, Callable[[Vectors], Vectors]] = {
    "pooling_mode_mean_tokens": lambda states: states.mean(0),
    "pooling_mode_lasttoken": lambda states: states[-1],
}


def theirs(checkpoint: Path, pool: Callable[[Vectors], Vectors] = lambda x: x[-1]) -> Vectors:
    model = load_encoder(checkpoint)
    return np.stack([pool(hidden_states(model, text)) for text in TEXTS])


@pytest.mark.parametrize("name", DECODERS)
def test_parity(
    name: str, make_embedding_decoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    checkpoint = make_embedding_decoder(name)
    expected = of_length_one(theirs(checkpoint))
    artifact = make_embedder(checkpoint, "fp32")
    np.testing.assert_allclose(embed(artifact, TEXTS), expected, atol=2e-5, rtol=0)
    for text, vector in zip(TEXTS, expected, strict=True):
        np.testing.assert_allclose(embed(artifact, [text])[0], vector, atol=2e-5, rtol=0)
    ours = reference_embeddings(open_embedder(checkpoint), TEXTS)
    np.testing.assert_allclose(ours, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["qwen3-windows", "mistral", "gemma2"])
def test_windows_matter(
    name: str, make_embedding_decoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    artifacts = [
        make_embedder(make_embedding_decoder(name, **changed), "fp32")
        for changed in ({}, {"sliding_window": WINDOW + 8})
    ]
    seen, farther = (embed(artifact, TEXTS) for artifact in artifacts)
    differ = np.abs(seen - farther).max(-1) > 1e-4
    assert differ.tolist() == [length > WINDOW for length in LENGTHS]


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("mode", POOLINGS)
def test_poolings(
    mode: str,
    normalized: bool,
    make_embedding_decoder: MakeEncoder,
    make_embedder: MakeArtifact,
) -> None:
    modules = ("Transformer", "Pooling", *(["Normalize"] if normalized else []))
    checkpoint = make_embedding_decoder(modules=modules, pooling={mode: True})
    expected = theirs(checkpoint, POOLINGS[mode])
    if normalized:
        expected = of_length_one(expected)
    for precision, close in (("fp32", 5e-5), ("fp16", 0.02)):
        ours = embed(make_embedder(checkpoint, precision), TEXTS)
        np.testing.assert_allclose(ours, expected, atol=close, rtol=0)


COSTS: Mapping[str, float] = {"fp16": 1e-4, "int8": 0.01, "int4": 0.4}
"""The most that the worst cosine may fall short of one, with weights as wild as these."""


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, precision) for name in ("qwen3", "mistral") for precision in COSTS),
        ("gemma3", "int8"),
        ("gemma3", "int4"),
    ],
)
def test_fidelity(
    name: str, precision: str, make_embedding_decoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    checkpoint = make_embedding_decoder(name)
    artifact = make_embedder(checkpoint, precision)
    most = COSTS[precision]
    assert_near_its_weights(checkpoint, artifact, TEXTS, precision=precision, most=most)


@needs_kernels
@pytest.mark.parametrize("name", ["qwen3", "gemma3", "gemma3-wide"])
def test_parity_of_the_native_kernels(
    name: str, make_embedding_decoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    checkpoint = make_embedding_decoder(name)
    graph = EmbedderArtifact.open(make_embedder(checkpoint, "fp32")).file("graph")
    ours = run(open_with_kernels(graph, exact=True), TEXTS)
    np.testing.assert_allclose(ours, of_length_one(theirs(checkpoint)), atol=2e-5, rtol=0)


def test_fp16_is_refused_where_activations_overflow_it(
    make_embedding_decoder: MakeEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--model", str(make_embedding_decoder("gemma3")), "--out", str(tmp_path / "out")]
    for how in (["--target", "cuda"], ["--precision", "fp16"]):
        assert main([*asked, *how]) == 3
        assert "activations of gemma3 overflow fp16; use --target cpu" in capsys.readouterr().err


def test_windows_that_look_both_ways(
    make_embedding_decoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    # Saved, the configuration says 2 * WINDOW + 1 and so on; read, it has half of that and itself.
    artifacts = [
        make_embedder(make_embedding_decoder("gemma3", sliding_window=window), "fp32")
        for window in (4 * WINDOW, 4 * WINDOW + 4)
    ]
    seen, farther = (embed(artifact, TEXTS) for artifact in artifacts)
    differ = np.abs(seen - farther).max(-1) > 1e-5
    assert differ.tolist() == [length > WINDOW + 1 for length in LENGTHS]


@given(lengths=st.lists(st.integers(1, CONTEXT), min_size=1, max_size=24))
@settings(max_examples=40, deadline=None)
def test_a_text_is_embedded_alike_in_every_pack(
    lengths: list[int], sessions: list[ort.InferenceSession]
) -> None:
    draw = np.random.default_rng(sum(lengths))
    texts = [draw.integers(5, VOCAB, length) for length in lengths]
    packs = [run(session, texts) for session in sessions]
    for session, together in zip(sessions, packs, strict=True):
        assert together.shape == (len(texts), 64)
        np.testing.assert_allclose(together[-1:], run(session, texts[-1:]), atol=1e-5, rtol=0)
        np.testing.assert_allclose(together, packs[0], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def sessions(
    make_embedding_decoder: MakeEncoder, make_embedder: MakeArtifact
) -> list[ort.InferenceSession]:
    """One without the native kernels, and where there are any, one with them, in float32."""
    graph = EmbedderArtifact.open(make_embedder(make_embedding_decoder(), "fp32")).file("graph")
    opened = [open_plainly(graph)]
    if not needs_kernels.args[0]:
        opened.append(open_with_kernels(graph, exact=True))
    return opened


def run(session: ort.InferenceSession, texts: Sequence[Any]) -> Vectors:
    vectors: Vectors = session.run(
        ["embeddings"],
        {
            "input_ids": np.concatenate(texts).astype(np.int64),
            "cu_seqlens": np.cumsum([0, *map(len, texts)]).astype(np.int32),
        },
    )[0]
    return vectors


@pytest.mark.parametrize("head", ["AutoModel", "AutoModelForCausalLM"])
def test_weights_with_and_without_the_prefix_of_language_models(
    head: str, make_embedding_decoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    checkpoint = make_embedding_decoder(head=head)
    stored = load_file(checkpoint / "model.safetensors")
    prefix = "" if head == "AutoModel" else "model."
    assert f"{prefix}embed_tokens.weight" in stored
    expected = of_length_one(theirs(checkpoint))
    ours = embed(make_embedder(checkpoint, "fp32"), TEXTS)
    np.testing.assert_allclose(ours, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("text", ["", "Hello, World!", "  A token in,\ta token out \n", "naïve 🙂"])
def test_tokens_are_those_of_transformers(text: str, make_embedding_decoder: MakeEncoder) -> None:
    import transformers

    checkpoint = make_embedding_decoder()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    ours = Tokenizer.from_str(open_embedder(checkpoint).tokenizer()).encode(text).ids
    # sentence-transformers takes spaces at either end away first
    assert ours == tokenizer(text.strip())["input_ids"]
    assert ours[-1] == tokenizer.eos_token_id


def test_export_inspect_and_verify(
    make_embedding_decoder: MakeEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = make_embedding_decoder(), tmp_path / "artifact"
    assert main(["--model", str(checkpoint), "--out", str(out)]) == 0
    assert "mean cosine" in capsys.readouterr().err
    assert main(["inspect", str(out)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "qwen3: 3 layers, 64 wide, 4 heads over 2, 384 tokens, texts of 256 at most" in told
    assert "64 numbers, by last token, of length 1" in told
    assert main(["verify", str(out), "--model", str(checkpoint)]) == 0
    shapes = json.loads((out / "artifact.json").read_text())["shapes"]
    assert (shapes["kv_heads"], shapes["head_dim"]) == (2, 32)


def test_the_same_type_without_modules_is_a_language_model(
    make_family: MakeFamily, make_embedding_decoder: MakeEncoder, tmp_path: Path
) -> None:
    embeds = copy_of(make_family("qwen3"), tmp_path)
    generates, out = make_family("qwen3"), tmp_path / "out"
    assert main(["--model", str(generates), "--out", str(out), "--no-verify"]) == 0
    assert Artifact.open(out).manifest.family == "qwen3"
    for file in ("modules.json", "1_Pooling/config.json"):
        content = json.loads((make_embedding_decoder() / file).read_text())
        write_json(embeds / file, content[:2] if isinstance(content, list) else content)
    assert main(["--model", str(embeds), "--out", str(out), "--no-verify"]) == 0
    assert EmbedderArtifact.open(out).manifest.embedding.pooling == "last"
