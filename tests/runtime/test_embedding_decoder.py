"""The embedder over a decoder's artifact, as a caller sees it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.makers import MakeArtifact, MakeEncoder
from support.tiny_embedding_decoders import CONTEXT
from support.tiny_encoders import VOCAB, write_json
from support.tiny_llama import copy_of

import rbee_runtime.device.host
import rbee_runtime.embedding.encoder
from rbee_export import open_embedder
from rbee_export.embedder_evaluation import reference_embeddings
from rbee_runtime import Embedder
from rbee_runtime.artifact import EmbedderArtifact
from rbee_runtime.embed_cli import main
from rbee_runtime.embedding import Embedded, EmbeddingRequest
from rbee_runtime.embedding.footprint import step_bytes
from rbee_runtime.errors import ContextOverflow, InvalidRequest, OutOfMemory

TEXTS = ["A worker reads", "Once upon a time there was a hive, and in the hive a queen", "x"]
QUERY = "Instruct: find what answers the query\nQuery:"


@pytest.fixture(scope="module")
def checkpoint(
    make_embedding_decoder: MakeEncoder, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Qwen3-Embedding in small: texts to find have no prompt, and searches have one."""
    made = copy_of(make_embedding_decoder(), tmp_path_factory.mktemp("prompted"))
    prompts = {"prompts": {"query": QUERY, "document": ""}, "default_prompt_name": None}
    write_json(made / "config_sentence_transformers.json", prompts)
    return made


@pytest.fixture(scope="module")
def artifact(checkpoint: Path, make_embedder: MakeArtifact) -> Path:
    return make_embedder(checkpoint, "fp32")


@pytest.fixture(scope="module")
def embedder(artifact: Path) -> Iterator[Embedder]:
    with Embedder.load(artifact, backend="cpu") as embedder:
        yield embedder


def test_vectors_are_those_of_the_weights(embedder: Embedder, checkpoint: Path) -> None:
    ids = [embedder.tokenizer.encode(text) for text in TEXTS]
    assert {text[-1] for text in ids} == {0}  # the token that ends texts
    expected = reference_embeddings(open_embedder(checkpoint), ids)
    np.testing.assert_allclose(embedder.embed(TEXTS), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 1 - 1e-6), ("int8", 0.999)])
@given(lengths=st.lists(st.integers(1, CONTEXT), min_size=1, max_size=30))
@settings(max_examples=20, deadline=None)
def test_company_does_not_change_a_vector(
    precision: str,
    least: float,
    lengths: list[int],
    checkpoint: Path,
    make_embedder: MakeArtifact,
) -> None:
    draw = np.random.default_rng(sum(lengths))
    inputs = tuple(tuple(draw.integers(5, VOCAB, length).tolist()) for length in lengths)
    with Embedder.load(make_embedder(checkpoint, precision)) as embedder:

        def run(*inputs: tuple[int, ...]) -> NDArray[np.float32]:
            events = embedder.stream(EmbeddingRequest("a", inputs))
            return np.stack([event.vector for event in events if isinstance(event, Embedded)])

        alone = np.concatenate([run(one) for one in inputs])
        assert (run(*inputs) * alone).sum(-1).min() > least


def test_a_text_beyond_the_context(embedder: Embedder) -> None:
    assert embedder.context_length == CONTEXT
    with pytest.raises(ContextOverflow, match=rf"more than the context length of {CONTEXT}"):
        embedder.embed(["x" * CONTEXT])


def test_a_text_that_memory_is_too_small_for_ends_alone(
    embedder: Embedder, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rbee_runtime.embedding.encoder, "PACK_TOKENS", 64)
    with Embedder.load(artifact) as small:
        monkeypatch.setattr(rbee_runtime.device.host, "available_bytes", lambda: 1 << 16)
        long = "a hive " * 60
        with pytest.raises(OutOfMemory, match=r"a text of \d+ tokens .* are free: send it in"):
            small.embed([*TEXTS, long])
        np.testing.assert_array_equal(small.embed(TEXTS), embedder.embed(TEXTS))
        monkeypatch.setattr(rbee_runtime.device.host, "available_bytes", lambda: 1 << 30)
        assert small.embed([long]).shape == (1, 64)


def test_scores_of_all_pairs_take_memory_too(artifact: Path) -> None:
    manifest = EmbedderArtifact.open(artifact).manifest
    least, most = (step_bytes(manifest, 4096, scores=scores) for scores in (False, True))
    assert most - least >= 4 * 4 * 4096**2


def test_prompts_have_names(embedder: Embedder, artifact: Path) -> None:
    assert EmbedderArtifact.open(artifact).manifest.embedding.prompts["query"] == QUERY
    expected = embedder.embed([f"{QUERY}{text}" for text in TEXTS])
    asked = embedder.embed(TEXTS, prompt_name="query")
    np.testing.assert_allclose(asked, expected, atol=1e-6)
    plain = embedder.embed(TEXTS)
    np.testing.assert_array_equal(embedder.embed(TEXTS, prompt_name="document"), plain)
    assert np.abs(asked - plain).max() > 0.01
    with pytest.raises(InvalidRequest, match="'passage' is no prompt of the model: query, documen"):
        embedder.embed(TEXTS, prompt_name="passage")


def test_a_named_prompt_takes_the_place_of_the_usual_one(
    embedder: Embedder, artifact: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(artifact, tmp_path / "artifact"))
    manifest = json.loads((copy / "artifact.json").read_text())
    manifest["embedding"]["prompt"] = "usual: "
    write_json(copy / "artifact.json", manifest)
    with Embedder.load(copy) as prompted:
        named, usual = prompted.embed(TEXTS, prompt_name="document"), prompted.embed(TEXTS)
    np.testing.assert_allclose(named, embedder.embed(TEXTS), atol=1e-6)
    expected = embedder.embed([f"usual: {text}" for text in TEXTS])
    np.testing.assert_allclose(usual, expected, atol=1e-6)


def test_prompts_without_text_are_not_mentioned(
    checkpoint: Path, make_embedder: MakeArtifact, tmp_path: Path
) -> None:
    silent = copy_of(checkpoint, tmp_path)
    write_json(silent / "config_sentence_transformers.json", {"prompts": {"query": ""}})
    described = (make_embedder(silent, "fp32") / "artifact.json").read_text()
    assert "prompts" not in json.loads(described)["embedding"]


def test_the_program(
    embedder: Embedder, artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TEXTS, "--model", str(artifact)]
    assert main([*arguments, "--prompt-name", "query"]) == 0
    lines = capsys.readouterr().out.splitlines()
    vectors = np.array([json.loads(line) for line in lines], np.float32)
    np.testing.assert_array_equal(vectors, embedder.embed(TEXTS, prompt_name="query"))
    assert main([*arguments, "--prompt-name", "passage"]) == 2
    said = capsys.readouterr().err
    assert said == "rbee-embed: prompt_name 'passage' is no prompt of the model: query, document\n"
