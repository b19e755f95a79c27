"""Dense layers that the vectors of texts go through after the pooling."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file
from support.embedding import assert_near_its_weights, embed, of_length_one
from support.makers import MakeArtifact, MakeEncoder
from support.tiny_encoders import VOCAB, hidden_states, load_encoder, write_json
from support.tiny_llama import copy_of

from rbee_export import digest, open_embedder
from rbee_export.embedder_evaluation import reference_embeddings
from rbee_runtime.artifact import EmbedderArtifact

Vectors = NDArray[np.float32]

DRAW = np.random.default_rng(6)
TEXTS = [DRAW.integers(5, VOCAB, length).tolist() for length in (2, 17, 3, 100)]
TANH = "torch.nn.modules.activation.Tanh"
IDENTITY = "torch.nn.modules.linear.Identity"
KINDS = ("Transformer", "Pooling", "Dense", "Dense", "Normalize")
LAYERS: Sequence[Mapping[str, Any]] = (
    {"in_features": 64, "out_features": 160, "bias": False, "activation_function": IDENTITY},
    {"in_features": 160, "out_features": 32, "bias": True, "activation_function": TANH},
)
ONE = (
    ("Transformer", "Pooling", "Dense"),
    [{"in_features": 64, "out_features": 96, "bias": True, "activation_function": TANH}],
)
MAKERS = ["make_encoder", "make_embedding_decoder"]


def theirs(checkpoint: Path, pooled: Vectors) -> Vectors:
    for folder in sorted(checkpoint.glob("*_Dense")):
        weights = load_file(folder / "model.safetensors")
        pooled = pooled @ weights["linear.weight"].T + weights.get("linear.bias", np.float32(0))
        if TANH in (folder / "config.json").read_text():
            pooled = np.tanh(pooled)
    return pooled


def states(checkpoint: Path) -> list[Vectors]:
    model = load_encoder(checkpoint)
    return [hidden_states(model, text) for text in TEXTS]


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(("precision", "close"), [("fp32", 1e-5), ("fp16", 0.02)])
def test_parity(
    maker: str,
    precision: str,
    close: float,
    make_embedder: MakeArtifact,
    request: pytest.FixtureRequest,
) -> None:
    make: MakeEncoder = request.getfixturevalue(maker)
    checkpoint = make(modules=KINDS, dense=LAYERS, pooling={"pooling_mode_mean_tokens": True})
    pooled = np.stack([state.mean(0) for state in states(checkpoint)])
    expected = of_length_one(theirs(checkpoint, pooled))
    artifact = make_embedder(checkpoint, precision)
    np.testing.assert_allclose(embed(artifact, TEXTS), expected, atol=close, rtol=0)
    ours = reference_embeddings(open_embedder(checkpoint), TEXTS)
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=0)
    assert EmbedderArtifact.open(artifact).manifest.embedding.dim == 32


def test_a_layer_at_the_end(make_encoder: MakeEncoder, make_embedder: MakeArtifact) -> None:
    kinds, layers = ONE
    checkpoint = make_encoder(modules=kinds, dense=layers, pooling={"pooling_mode_cls_token": True})
    expected = theirs(checkpoint, np.stack([state[0] for state in states(checkpoint)]))
    artifact = make_embedder(checkpoint, "fp32")
    np.testing.assert_allclose(embed(artifact, TEXTS), expected, atol=5e-5, rtol=0)
    embedding = EmbedderArtifact.open(artifact).manifest.embedding
    assert (embedding.dim, embedding.normalized) == (96, False)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(("precision", "most"), [("int8", 0.01), ("int4", 0.4)])
def test_fidelity(
    maker: str,
    precision: str,
    most: float,
    make_embedder: MakeArtifact,
    request: pytest.FixtureRequest,
) -> None:
    make: MakeEncoder = request.getfixturevalue(maker)
    checkpoint = make(modules=KINDS, dense=LAYERS)
    artifact = make_embedder(checkpoint, precision)
    assert_near_its_weights(checkpoint, artifact, TEXTS, precision=precision, most=most)
    held = {g.held for g in EmbedderArtifact.open(artifact).manifest.weights if g.name == "dense"}
    assert held == {"8-bit, blocks of 32, rounded"}


def test_all_that_embedding_gemma_has(
    make_embedding_decoder: MakeEncoder, make_embedder: MakeArtifact, tmp_path: Path
) -> None:
    made = make_embedding_decoder(
        "gemma3",
        modules=KINDS,
        dense=LAYERS,
        pooling={"pooling_mode_mean_tokens": True, "include_prompt": True},
        matryoshka_dimensions=[16, 8],
    )
    checkpoint = copy_of(made, tmp_path)
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    named = {"prompts": prompts, "default_prompt_name": None}
    write_json(checkpoint / "config_sentence_transformers.json", named)
    pooled = np.stack([state.mean(0) for state in states(checkpoint)])
    artifact = make_embedder(checkpoint, "fp32")
    expected = of_length_one(theirs(checkpoint, pooled))
    np.testing.assert_allclose(embed(artifact, TEXTS), expected, atol=2e-5, rtol=0)
    embedding = EmbedderArtifact.open(artifact).manifest.embedding
    assert (embedding.dim, embedding.pooling, embedding.normalized) == (32, "mean", True)
    assert (embedding.prompt, embedding.prompts) == ("", prompts)
    assert embedding.matryoshka == (8, 16)


def test_lengths_to_cut_to_are_below_the_last_layer_s(
    make_encoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    checkpoint = make_encoder(modules=KINDS, dense=LAYERS, matryoshka_dimensions=[16, 32])
    embedding = EmbedderArtifact.open(make_embedder(checkpoint)).manifest.embedding
    assert embedding.matryoshka == (16,)


def test_the_layers_are_part_of_the_source(make_encoder: MakeEncoder, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(make_encoder(modules=KINDS, dense=LAYERS), tmp_path / "copy"))
    before = digest(open_embedder(copy).files)
    weights = copy / "2_Dense" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert digest(open_embedder(copy).files) != before
